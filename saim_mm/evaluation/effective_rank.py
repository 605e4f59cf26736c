"""How many directions features use, without labels: RankMe and LiDAR.

Both are the exponential of the entropy of a spectrum: n equal values count n.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(vectors: Tensor, eps: float = 1e-7) -> float:
    """RankMe (Garrido et al. 2023, 2210.02885): the effective rank of features.

    With the singular values s of the features, which are not centred,
    p = s / sum(s) + eps and RankMe = exp(-sum p ln p). Turning or scaling all features
    changes nothing. It is at most min(N, D): a hundred images say nothing of 768
    channels.

    Args:
        vectors: N features (N, D).
        eps: As in the paper.

    Raises:
        ValueError: If there is no feature, or all are zero.
    """
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(
            f"features of shape {tuple(vectors.shape)}; a matrix of at least one row "
            "is needed."
        )
    return _effective(torch.linalg.svdvals(vectors.double()), eps)


def lidar(views: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """LiDAR (Thilak et al. 2024, 2312.04000): directions that tell images apart.

    The features of q augmented views of an image are its class. With the mean mu_x of
    an image, the mean mu of all, S_b = mean (mu_x - mu)(mu_x - mu)^T and
    S_w = mean (e - mu_x)(e - mu_x)^T + delta I, the spectrum is that of
    S_w^-1/2 S_b S_w^-1/2. What changes from view to view counts little; with delta=0 no
    invertible linear map changes anything. It is at most the number of images less one.

    Args:
        views: q views of n images (n, q, D).
        delta: As in the paper.
        eps: Added to the shares of the spectrum.

    Raises:
        ValueError: If there are less than two images or views, or all are alike.
    """
    if views.shape[0] < 2 or views.shape[1] < 2:
        raise ValueError(
            f"LiDAR of {views.shape[0]} images with {views.shape[1]} views each; it "
            "needs at least 2 of both."
        )
    views = views.double()
    means = views.mean(dim=1)
    between, within = means - means.mean(dim=0), (views - means[:, None]).flatten(0, 1)
    s_b = between.T @ between / len(between)
    s_w = within.T @ within / len(within)
    s_w += delta * torch.eye(len(s_w), dtype=s_w.dtype, device=s_w.device)
    values, directions = torch.linalg.eigh(s_w)
    whiten = directions * values.clamp_min(torch.finfo(values.dtype).tiny).rsqrt()
    spectrum = torch.linalg.eigvalsh(whiten.T @ s_b @ whiten)
    return _effective(spectrum.clamp_min(0), eps)


def _effective(spectrum: Tensor, eps: float) -> float:
    total = spectrum.sum()
    if not total > 0:
        raise ValueError("All features are alike: there is no direction to be counted.")
    shares = spectrum / total + eps
    return float(torch.exp(-(shares * shares.log()).sum()))
