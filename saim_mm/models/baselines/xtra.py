"""XTRA (Amrani et al. 2024): a segment is predicted as one block of pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...registry import register
from ..plan import Mask, sort_tokens
from ..saim_head import Projector, SAIMHead, patch_statistics, patchify, unpatchify


@register("model")
class BlockHead(SAIMHead):
    """The queries of a segment side by side, an MLP, and all pixels of the segment.

    The target is normalised by the mean and deviation of the block, not of each patch.

    Args:
        segment_size: Rows and columns of a segment, in patches; inside SAIM, its own.
        width: Hidden channels of the MLP.
        smoothing: As for :class:`SAIMHead`; XTRA has none.
        **kwargs: As for :class:`SAIMHead`, without ``projector``.

    Raises:
        ValueError: As :class:`SAIMHead`, or if there are no segments.
    """

    def __init__(
        self,
        segment_size: tuple[int, int] | None,
        width: int = 6144,
        smoothing: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if segment_size is None:
            raise ValueError(
                "BlockHead predicts whole segments and the model has none; set "
                "order='segments' and segment_size=(rows, columns)."
            )
        super().__init__(projector="linear", smoothing=smoothing, **kwargs)
        linear = self.projector.to_pixels
        assert isinstance(linear, nn.Linear)
        rows, columns = segment_size
        self.block_pixels = (self.patch_size[0] * rows, self.patch_size[1] * columns)
        self.projector = BlockProjector(
            linear.in_features, linear.out_features, rows * columns, width
        )

    @torch.no_grad()
    def target(self, images: Tensor, asked: Tensor | None = None) -> Tensor:
        """As :meth:`SAIMHead.target`, but normalised block by block."""
        with torch.autocast(images.device.type, enabled=False):
            images = self.blur(images.float())
            if self.norm_pix:
                height, width = self.block_pixels
                grid = images.shape[2] // height, images.shape[3] // width
                blocks = patchify(images, self.block_pixels)
                mean, std = patch_statistics(blocks)
                images = unpatchify((blocks - mean) / std, self.block_pixels, grid)
            patches = patchify(images, self.patch_size)
            return patches if asked is None else sort_tokens(patches, asked)


class BlockProjector(Projector):
    """Queries (B, K, D) of whole segments -> their patches, segment by segment.

    Args:
        embed_dims: Number of channels D of a query.
        patch_dims: Number of values of a patch.
        length: Patches of a segment.
        width: Hidden channels.
    """

    def __init__(
        self, embed_dims: int, patch_dims: int, length: int, width: int
    ) -> None:
        super().__init__("linear", embed_dims, patch_dims, num_heads=1)
        self.length, self.joint = length, True
        self.to_pixels = nn.Sequential(
            nn.Linear(length * embed_dims, width),
            nn.GELU(),
            nn.Linear(width, length * patch_dims),
        )

    def forward(self, queries: Tensor, query_mask: Mask) -> Tensor:
        """Sorted queries (B, K, D) -> (B, K, p*p*C)."""
        blocks = queries.unflatten(1, (-1, self.length)).flatten(2)
        return self.to_pixels(blocks).unflatten(2, (self.length, -1)).flatten(1, 2)
