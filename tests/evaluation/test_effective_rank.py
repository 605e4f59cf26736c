"""RankMe and LiDAR against their closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from saim_mm.evaluation import lidar, rankme


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthogonal(size: int, seed: int = 1) -> Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


def of_singular_values(values: list[float], rows: int, columns: int) -> Tensor:
    middle = torch.zeros(rows, columns, dtype=torch.float64)
    middle[range(len(values)), range(len(values))] = torch.tensor(
        values, dtype=torch.float64
    )
    return orthogonal(rows) @ middle @ orthogonal(columns, 2)


@pytest.mark.parametrize(("rows", "columns"), [(9, 5), (5, 9)])
def test_rankme_closed_forms(rows: int, columns: int) -> None:
    """r equal values count r; (2, 1) gives 3 / 4^(1/3), neither centred nor squared."""
    for values, expected in (
        ([3.0] * 4, 4),
        ([7.0], 1),
        ([2.0, 1.0], 3 / 4 ** (1 / 3)),
    ):
        matrix = of_singular_values(values, rows, columns)
        assert rankme(matrix) == pytest.approx(expected, abs=2e-5)
        assert rankme(matrix.float()) == pytest.approx(expected, abs=1e-4)
    assert rankme(of_singular_values([2.0, 1.0], rows, columns)) == pytest.approx(
        1.8899, abs=2e-5
    )


def test_rankme_invariances() -> None:
    features = draw(40, 6) * torch.logspace(-2, 1, 6, dtype=torch.float64)
    rank = rankme(features)
    for other in (
        features @ orthogonal(6),
        5 * features,
        features[torch.randperm(40)],
        torch.cat([features, features]),
    ):
        assert rankme(other) == pytest.approx(rank, rel=1e-9)
    assert abs(rankme(features + 10) - rank) > 0.1  # it is not centred
    assert 1 < rank < 6


def views_of(means: Tensor, scale: float) -> Tensor:
    """Each image's mean, plus and minus each axis: S_w = scale^2 / D I exactly."""
    size = means.shape[1]
    axes = torch.eye(size, dtype=torch.float64) * scale
    return means[:, None] + torch.cat([axes, -axes])


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_lidar_is_the_rank_of_the_means_where_views_are_round(scale: float) -> None:
    """S_b = diag(4, 1): p = (0.8, 0.2)."""
    means = torch.tensor([[2, 1], [2, -1], [-2, 1], [-2, -1]], dtype=torch.float64)
    p = np.array([0.8, 0.2])
    expected = np.exp(-(p * np.log(p)).sum())
    assert lidar(views_of(means, scale)) == pytest.approx(expected, abs=1e-5)
    assert lidar(views_of(means, scale).float()) == pytest.approx(expected, abs=1e-4)


def test_lidar_without_delta_knows_no_linear_map_and_rankme_does() -> None:
    views = draw(20, 8, 5) + 3 * draw(20, 1, 5, seed=2)
    found = lidar(views, delta=0)
    stretched = views @ (draw(5, 5, seed=3) + 3 * torch.eye(5, dtype=torch.float64))
    assert lidar(stretched, delta=0) == pytest.approx(found, rel=1e-7)
    assert lidar(views + 7, delta=0) == pytest.approx(found, rel=1e-9)
    ranks = [rankme(x.flatten(0, 1)) for x in (views, stretched)]
    assert abs(ranks[0] - ranks[1]) > 0.05


def test_lidar_equals_numpy_and_is_at_most_images_less_one() -> None:
    views = draw(4, 6, 7) + 2 * draw(4, 1, 7, seed=5)
    x = views.numpy()
    means = x.mean(1)
    s_b = np.cov(means.T, bias=True)
    s_w = sum(np.cov(image.T, bias=True) for image in x) / 4 + 1e-4 * np.eye(7)
    values = np.linalg.eigvals(np.linalg.solve(s_w, s_b)).real.clip(0)
    p = values / values.sum() + 1e-7
    expected = np.exp(-(p * np.log(p)).sum())
    assert lidar(views) == pytest.approx(expected, rel=1e-6)
    assert lidar(views) < 3 + 1e-4


def test_what_has_no_rank() -> None:
    with pytest.raises(ValueError, match="alike"):
        rankme(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="1 views each"):
        lidar(draw(5, 1, 3))
    with pytest.raises(ValueError, match="at least one row"):
        rankme(torch.zeros(0, 4))
