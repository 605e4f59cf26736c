"""A ViT behind the interface of a CNN: maps of asked-for channels and strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from ...registry import MODELS, register
from .vit_pyramid import LAYER_NORM, upsample

#: What follows from the levels.
_OWN = {"type", "init_cfg", "out_type", "out_indices", "final_norm"}


@register("model")
class MultiLevelViT(BaseModule):
    """A SAIM encoder in the place of a CNN's or a Swin Transformer's backbone.

    Each level reads a layer of the encoder, is brought to its stride (up by transposed
    convolutions, each half as wide as the one before, twice at most; down by
    max-pooling), and to its channels by a 1x1 convolution with layer norm. So neck and
    head stay as they were made for the old backbone.

    With the layers spread over the depth these are the inputs of Li et al. 2021; with
    the last layer for all levels, those of ViTDet (Li et al. 2022).

    Args:
        encoder: Options of ``SAIMViT``, such as ``dict(arch="base", window_size=14)``.
        out_channels: Channels of each level.
        out_strides: Pixels to a step of each level, in any order, equal ones included;
            ``None`` for a vector, the mean over the image.
        layers: Layer of the encoder, from 0, that each level reads; the last must be
            among them. By default they are spread evenly, finer levels first.
        norm_cfg: Norm of all levels.
        grouped: Whether the levels together are one output, as of Conformer and of
            distilled ViTs, rather than an output each.
        with_cp: Whether the encoder keeps no activations but runs each layer once more
            in backward.
        init_cfg: As for ``SAIMViT``: ``dict(type="Pretrained", checkpoint=FILE)`` loads
            the encoder completely or stops.

    Raises:
        ValueError: If the numbers of channels, strides and layers differ, one of them
            is out of range, the patches are not square, or ``encoder`` has an option
            that follows from the others.
    """

    def __init__(
        self,
        encoder: dict[str, Any],
        out_channels: Sequence[int] = (256, 512, 1024, 2048),
        out_strides: Sequence[int | None] = (4, 8, 16, 32),
        layers: Sequence[int] | None = None,
        norm_cfg: dict[str, Any] = LAYER_NORM,
        grouped: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_options(encoder, out_channels, out_strides)
        self.encoder = MODELS.build(
            dict(
                **encoder,
                type="SAIMViT",
                out_type="featmap",
                final_norm=False,
                init_cfg=init_cfg,
            )
        )
        depth = self.encoder.num_layers
        self.grouped = grouped
        self.layers = list(
            spread_layers(out_strides, depth) if layers is None else layers
        )
        _check_layers(self.layers, len(out_strides), depth)
        self.encoder.out_indices = sorted(set(self.layers))
        for layer in self.encoder.layers:
            layer.with_cp = with_cp
        patch, columns = self.encoder.patch_embed.projection.kernel_size
        if patch != columns:
            raise ValueError(
                f"patch_size={(patch, columns)}: levels need square patches; use an "
                "encoder that has them."
            )
        width = self.encoder.embed_dims
        self.levels = ModuleList(
            _Level(width, patch, channels, stride, norm_cfg)
            for channels, stride in zip(out_channels, out_strides, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...]]:
        """Makes the levels of images of any size.

        Args:
            x: Images (B, C, H, W).

        Returns:
            For each level a map (B, channels, ceil(H / stride), ceil(W / stride)), as
            of a CNN, or a vector (B, channels); grouped, a tuple of one such tuple.
        """
        maps = dict(zip(self.encoder.out_indices, self.encoder(x), strict=True))
        size = (x.shape[-2], x.shape[-1])
        levels = tuple(
            level(maps[layer], size)
            for level, layer in zip(self.levels, self.layers, strict=True)
        )
        return (levels,) if self.grouped else levels

    def train(self, mode: bool = True) -> MultiLevelViT:
        """As of any module, but frozen layers stay in evaluation mode."""
        super().train(mode)
        if mode and self.encoder.frozen_stages > 0:
            self.encoder._freeze_stages()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """As of ``VisionTransformer``; the levels count with neck and head.

        Args:
            param_name: Name of a parameter.
            prefix: What precedes the names of this backbone's.

        Returns:
            Its layer (0 for the embedding) and the number of layers.
        """
        depth: tuple[int, int] = self.encoder.get_layer_depth(
            param_name, f"{prefix}encoder."
        )
        return depth


class _Level(nn.Module):
    """From a map (B, D, h, w) of the encoder to one level."""

    def __init__(
        self,
        width: int,
        patch: int,
        channels: int,
        stride: int | None,
        norm_cfg: dict[str, Any],
    ) -> None:
        super().__init__()
        self.patch, self.stride = patch, stride
        steps = round(math.log2(patch / (stride or patch)))
        widths = [width >> min(step, 2) for step in range(max(steps, 0) + 1)]
        self.rescale: nn.Module = (
            nn.MaxPool2d(2**-steps, ceil_mode=True)
            if steps < 0
            else upsample(widths, norm_cfg)
        )
        self.project = ConvModule(
            widths[-1], channels, 1, norm_cfg=norm_cfg, act_cfg=None
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """The level of images of ``size``, rows and columns of pixels."""
        padded = [side * self.patch for side in x.shape[-2:]]
        x = self.project(self.rescale(x))
        if self.stride is None:
            return x.mean((2, 3))
        wanted = [-(-side // self.stride) for side in padded]
        if list(x.shape[-2:]) != wanted:  # no power of two lies between the strides
            x = F.interpolate(x, wanted, mode="bilinear", align_corners=False)
        rows, columns = (-(-side // self.stride) for side in size)
        return x[:, :, :rows, :columns].contiguous()


def spread_layers(strides: Sequence[int | None], depth: int) -> list[int]:
    """The layer for each level: evenly spread, finer levels first, the last one last.

    A level without a stride, a vector, reads the last of the ``depth`` layers.
    """
    maps = [level for level, stride in enumerate(strides) if stride is not None]
    layers = [depth - 1] * len(strides)
    for rank, level in enumerate(sorted(maps, key=lambda m: strides[m] or 0), 1):
        layers[level] = max(round(depth * rank / len(maps)), 1) - 1
    return layers


def _check_options(
    encoder: dict[str, Any], channels: Sequence[int], strides: Sequence[int | None]
) -> None:
    if _OWN & set(encoder):
        raise ValueError(
            f"encoder has {sorted(_OWN & set(encoder))}, which MultiLevelViT sets; "
            "leave them out, choose layers by its own option layers, and give init_cfg "
            "beside encoder."
        )
    if not strides or len(channels) != len(strides):
        raise ValueError(
            f"out_channels={tuple(channels)} and out_strides={tuple(strides)}: give "
            "one of each for every level, and at least one level."
        )
    if min(channels) < 1 or min(stride or 1 for stride in strides) < 1:
        raise ValueError(
            f"out_channels={tuple(channels)} and out_strides={tuple(strides)} must be "
            "at least 1; a stride of None is for a vector."
        )


def _check_layers(layers: Sequence[int], levels: int, depth: int) -> None:
    if len(layers) != levels or min(layers) < 0 or max(layers) != depth - 1:
        raise ValueError(
            f"layers={list(layers)}: give one for each of the {levels} levels, from 0 "
            f"to {depth - 1}, and the last, {depth - 1}, to one of them at least: no "
            "layer may go without gradient."
        )
