"""A broken image is recognised wherever it was loaded."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset

from saim_mm.datasets import BrokenImageError
from saim_mm.datasets.load_image import broken_image


class Broken(Dataset):
    """Of one sample, which is none."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (BrokenImageError("a: b.jpg", "ends: early"), "'a: b.jpg': ends: early"),
        (ValueError("a.jpg: BrokenImageError"), None),
        (RuntimeError(""), None),
    ],
)
def test_only_a_broken_image(error: Exception, told: str | None, workers: int) -> None:
    with pytest.raises((ValueError, RuntimeError)) as raised:
        next(iter(DataLoader(Broken(error), num_workers=workers)))
    assert broken_image(raised.value) == told
