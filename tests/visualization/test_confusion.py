"""The picture of a confusion, whatever the number and the names of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from saim_mm.visualization.confusion import draw_confusion


@pytest.mark.parametrize(
    ("classes", "least", "most"),
    [
        (2, 500, 900),
        (20, 1600, 2400),
        (21, 600, 1000),
        (100, 2200, 2800),
        (400, 3200, 3800),
    ],
)
def test_the_size_follows_the_number(classes: int, least: int, most: int) -> None:
    """Names stay readable, and a thousand classes still are a picture."""
    picture = draw_confusion(np.eye(classes, dtype=int), ["name"] * classes)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert all(least < side < most for side in picture.shape[:2])


def test_rows_are_shares_of_their_class() -> None:
    """Twice the images of a class, alike: the same colours, other numbers."""
    names = [f"{n}" for n in range(30)]  # without numbers in the cells
    confusion = np.random.default_rng(0).integers(0, 9, (30, 30))
    doubled = confusion * np.arange(1, 31)[:, None]
    picture = draw_confusion(confusion, names)
    assert np.array_equal(draw_confusion(doubled, names), picture)
    assert not np.array_equal(draw_confusion(confusion.T, names), picture)


def test_a_class_without_images_is_white() -> None:
    confusion = np.array([[0, 0], [1, 1]])
    picture = draw_confusion(confusion, ["a", "b"]).astype(int)
    dark = (picture.max(axis=2) - picture.min(axis=2)) > 60
    upper, lower = np.array_split(dark[:, : dark.shape[1] * 3 // 4], 2)
    assert lower.sum() > 10_000 > 100 > upper[: len(upper) // 2].sum()


@pytest.mark.filterwarnings("error")
def test_names_that_are_hard_to_draw() -> None:
    names = ["$x_{", "\udcff", "x" * 300, "a\\b"]
    picture = draw_confusion(np.eye(4, dtype=int), names, "$")
    assert max(picture.shape) < 1200
