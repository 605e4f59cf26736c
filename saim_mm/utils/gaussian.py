"""A sampled Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_taps(size: int, sigma: float) -> Tensor:
    """Samples a Gaussian at whole distances from its centre; the sum is 1.

    Args:
        size: Number of taps, odd, so that one is the centre.
        sigma: Standard deviation, in taps.

    Returns:
        (size,) float64.
    """
    distance = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-0.5 * (distance / sigma) ** 2)
    return taps / taps.sum()
