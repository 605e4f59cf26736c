"""Feature pyramids out of the single scale of a plain ViT.

They map a ViT with 16 x 16 patches to strides 4, 8, 16 and 32. Shapes: B images, maps
of h x w patches, D channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from ...registry import register

LAYER_NORM = dict(type="mmpretrain.LN2d", eps=1e-6)
_GROUP_NORM = dict(type="GN", num_groups=32)


@register("model")
class FourLayerPyramid(BaseModule):
    """Four layers of a ViT, each brought to a scale of its own (Li et al. 2021).

    The earliest layer becomes the finest scale: four times up, twice up, as it is, and
    twice down. An FPN follows. It is mmseg's ``Feature2Pyramid``, without the need for
    mmseg to detect.

    Args:
        embed_dims: Channels D of the ViT; they stay as they are.
        norm_cfg: Norm between the two steps that go four times up.
        init_cfg: As for ``BaseModule``.
    """

    def __init__(
        self,
        embed_dims: int,
        norm_cfg: dict[str, Any] = _GROUP_NORM,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.scales = _scales([embed_dims] * 3, norm_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Rescales four maps.

        Args:
            inputs: Four maps (B, D, h, w), the earliest layer first.

        Returns:
            Maps (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w) and (B, D, h/2, w/2);
            no side gets less than 1.

        Raises:
            ValueError: If there are not four.
        """
        _check_count(self, inputs, len(self.scales))
        return tuple(scale(x) for scale, x in zip(self.scales, inputs, strict=True))


@register("model")
class SimpleFeaturePyramid(BaseModule):
    """Five scales from the last layer of a ViT alone (ViTDet, Li et al. 2022).

    It stands in for an FPN: no scale adds to another.

    Args:
        embed_dims: Channels D of the ViT; half of them are left two times up, and a
            quarter four times up.
        out_channels: Channels of each scale.
        norm_cfg: Norm of all convolutions.
        init_cfg: As for ``BaseModule``.

    Raises:
        ValueError: If D is not a multiple of 4.
    """

    def __init__(
        self,
        embed_dims: int,
        out_channels: int = 256,
        norm_cfg: dict[str, Any] = LAYER_NORM,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if embed_dims % 4:
            raise ValueError(
                f"embed_dims={embed_dims} cannot be halved twice; it must be a "
                "multiple of 4."
            )
        half, quarter = embed_dims // 2, embed_dims // 4
        self.scales = _scales([embed_dims, half, quarter], norm_cfg)
        conv = partial(ConvModule, norm_cfg=norm_cfg, act_cfg=None)
        self.outputs = ModuleList(
            nn.Sequential(
                conv(width, out_channels, 1),
                conv(out_channels, out_channels, 3, padding=1),
            )
            for width in (quarter, half, embed_dims, embed_dims)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Makes a pyramid of one map.

        Args:
            inputs: The last layer's map (B, D, h, w), and nothing else.

        Returns:
            Maps with C = ``out_channels``: (B, C, 4h, 4w), (B, C, 2h, 2w),
            (B, C, h, w), (B, C, h/2, w/2) and, every second value of the latter,
            (B, C, h/4, w/4).

        Raises:
            ValueError: If there is more than one.
        """
        _check_count(self, inputs, 1)
        maps = [
            output(scale(inputs[0]))
            for scale, output in zip(self.scales, self.outputs, strict=True)
        ]
        return *maps, F.max_pool2d(maps[-1], kernel_size=1, stride=2)


def _scales(widths: Sequence[int], norm_cfg: dict[str, Any]) -> ModuleList:
    """Four and two times up, by channels of ``widths``, as it is, and half."""
    up4, up2 = upsample(widths, norm_cfg), upsample(widths[:2], norm_cfg)[0]
    return ModuleList([up4, up2, nn.Identity(), Downsample(2)])


def upsample(widths: Sequence[int], norm_cfg: dict[str, Any]) -> nn.Sequential:
    """Learnt upsampling, twice up from each width to the next.

    Between two steps there are a norm and GELU.
    """
    steps: list[nn.Module] = []
    for width, out in itertools.pairwise(widths):
        if steps:
            steps += [build_norm_layer(norm_cfg, width)[1], nn.GELU()]
        steps.append(nn.ConvTranspose2d(width, out, kernel_size=2, stride=2))
    return nn.Sequential(*steps)


class Downsample(nn.Module):
    """``nn.MaxPool2d(factor)`` that leaves at least one row and one column.

    Args:
        factor: Rows, and columns, that become one.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, D, h, w) to (B, D, max(h // factor, 1), max(w // factor, 1))."""
        kernel = [min(self.factor, side) for side in x.shape[-2:]]
        return F.max_pool2d(x, kernel, stride=self.factor)


def _check_count(neck: nn.Module, inputs: Sequence[Tensor], count: int) -> None:
    if len(inputs) != count:
        raise ValueError(
            f"{type(neck).__name__} got {len(inputs)} maps and needs {count}; set the "
            f"backbone's out_indices to {count} layers."
        )
