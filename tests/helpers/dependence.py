"""Which output depends on which patch, by gradients that are exactly zero or not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saim_mm.models.saim_head import patchify


def dependence(
    rows: Callable[[Tensor], Tensor],
    images: Tensor,
    order: Tensor,
    patch_size: tuple[int, int],
) -> Tensor:
    """Whether a row depends on any pixel of a patch: (B, T, N), patches sorted.

    Args:
        rows: Images (B, C, H, W) -> rows (B, T, D).
        images: (B, C, H, W).
        order: (B, N).
        patch_size: Rows and columns of a patch, in pixels.
    """
    images = images.clone().requires_grad_()
    out = rows(images)
    weight = torch.randn_like(out)
    seen = []
    for t in range(out.shape[1]):
        (grad,) = torch.autograd.grad(
            out[:, t], images, weight[:, t], retain_graph=True
        )
        pixels = patchify(grad, patch_size)
        index = order[..., None].expand_as(pixels)
        seen.append((pixels.gather(1, index) != 0).any(-1))
    return torch.stack(seen, 1)
