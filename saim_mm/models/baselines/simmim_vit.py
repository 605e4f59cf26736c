"""A plain ViT for SimMIM, the rival of SAIM that mmpretrain has for Swin only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...registry import register
from ..saim_vit import SAIMViT


@register("model")
class SimMIMViT(SAIMViT):
    """Vision Transformer that reads masked patches as a learnt token (Xie et al. 2021).

    The backbone of mmpretrain's ``SimMIM``, beside its ``SimMIMLinearDecoder`` and
    ``SimMIMHead``. It starts like :class:`SAIMViT` and its position embedding is fixed,
    so that the systems that are compared differ in what they predict, and not in their
    encoder; SimMIM's own ViT has a learnt relative position bias and layer scale.

    Args:
        *args: As for ``mmpretrain.VisionTransformer``.
        **kwargs: As for ``mmpretrain.VisionTransformer``; ``out_type`` is ``featmap``
            here, which is what the decoder reads.

    Raises:
        ValueError: If ``out_type`` is another.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        out_type = kwargs.setdefault("out_type", "featmap")
        if out_type != "featmap":
            raise ValueError(
                f"SimMIMViT has out_type={out_type!r}, but SimMIM decodes a map; leave "
                "it out, or set 'featmap'."
            )
        super().__init__(*args, **kwargs)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self.pos_embed.requires_grad_(False)

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(  # type: ignore[override]  # a mask where SAIMViT takes a plan
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Runs the ViT, with some patches hidden if there is a mask.

        Args:
            x: Images (B, C, H, W).
            mask: (B, rows, columns) of patches, 1 where one is hidden, as
                ``SimMIMMaskGenerator`` makes it; ``None`` hides nothing.

        Returns:
            The map (B, D, rows, columns), in a tuple.
        """
        x, grid = self.patch_embed(x)
        if mask is not None:
            hidden = mask.flatten(1).unsqueeze(-1).to(x.dtype)
            x = x * (1 - hidden) + self.mask_token.to(x.dtype) * hidden
        return self._forward_raster(x, grid)
