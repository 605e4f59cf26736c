"""The Gaussian that the release keeps in its checkpoints, against ours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..utils.gaussian import gaussian_taps
from .files import CheckpointError

#: Kernel size, in taps per side, and standard deviation in pixels.
Smoothing = tuple[int, float]


def gaussian_kernel(kernel_size: int, sigma: float, channels: int) -> Tensor:
    """The depthwise kernel (channels, 1, k, k) of the release, normalised."""
    taps = gaussian_taps(kernel_size, sigma)
    return torch.outer(taps, taps).float().repeat(channels, 1, 1, 1)


def infer_smoothing(kernel: Tensor) -> Smoothing:
    """Kernel size and sigma of a Gaussian kernel (channels, 1, k, k).

    Raises:
        CheckpointError: If it is no normalised Gaussian, alike in all channels.
    """
    size = kernel.shape[-1]
    middle = size // 2
    if kernel.ndim == 4 and kernel.shape[1:] == (1, size, size) and size % 2:
        # Neighbouring taps differ by exp(1 / (2 sigma^2)).
        centre = kernel[0, 0, middle].double()
        ratio = float(centre[middle] / centre[middle - 1]) if size > 1 else math.inf
        if 1 < ratio < math.inf:
            sigma = round(math.sqrt(0.5 / math.log(ratio)), 4)
            expected = gaussian_kernel(size, sigma, len(kernel))
            if torch.allclose(kernel.float(), expected, rtol=0, atol=1e-5):
                return size, sigma
    raise CheckpointError(
        f"gaussian_blur.weight of shape {tuple(kernel.shape)} is no normalised "
        "Gaussian of odd size (channels, 1, k, k), alike in all channels; our head "
        "has no other smoothing."
    )


def check_blur(kernel: Tensor, smoothing: Smoothing) -> None:
    """Refuses a kernel of the release (channels, 1, k, k) that is not the model's.

    Raises:
        CheckpointError: If the two differ by more than rounding.
    """
    found = infer_smoothing(kernel)
    same_sigma = math.isclose(found[1], smoothing[1], rel_tol=1e-3)
    if found[0] != smoothing[0] or not same_sigma:
        raise CheckpointError(
            f"gaussian_blur.weight has kernel_size={found[0]} and sigma={found[1]:g}, "
            f"the model {smoothing[0]} and {smoothing[1]:g}; give the checkpoint's "
            f"values (--kernel-size {found[0]} --sigma {found[1]:g}) and set them in "
            "the head's smoothing."
        )
