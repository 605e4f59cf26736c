"""The content stream: a ViT that can read its patches in a given order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..registry import register
from ..utils.check_choice import check_choice
from ..weights.loading import load_encoder, pretrained_config
from ..weights.position import (
    check_width,
    fit_position_embedding,
    note_grid,
    noted_grid,
    sincos_position_embedding,
)
from .dense.windows import RelativePositionBias, Windows
from .layers import AttentionBlock, Turns, init_like_official
from .plan import Mask, Plan, sort_tokens
from .saim_head import patchify

Visible = Literal["all", "causal"]
ClsPlace = Literal["prefix", "suffix"]


class Content(NamedTuple):
    """What the content stream hands on.

    Attributes:
        states: Outputs of the M layers, M times (B, E + R, D), sorted, extra tokens
            first; no final norm is applied to them, as in the release.
        positions: Position embeddings (B, K, D) of what is asked for, where queries
            start.
        embeddings: What went into the first layer (B, E + R, D).
        turns: By what the query stream turns its queries and the memory.
    """

    states: tuple[Tensor, ...]
    positions: Tensor
    embeddings: Tensor
    turns: Turns | None = None


@register("model")
class SAIMViT(VisionTransformer):
    """Vision Transformer with SAIM's masked content stream.

    Without a plan it is mmpretrain's ``VisionTransformer``: same options, same
    parameter names, same outputs (``out_type`` and ``out_indices`` included), so either
    class loads the other's weights strictly. With a plan it runs the content stream
    (Eq. 3 and 4) and returns what the query stream reads.

    From scratch it starts as the authors' release does: fixed 2-D sine-cosine position
    embedding, xavier-uniform linear layers, class token normal(0.02).

    For dense tasks at high resolution, layers can attend within windows (Li et al.
    2021); with a single window that is the plain ViT.

    Args:
        *args: As for ``mmpretrain.VisionTransformer``.
        visible: What a token sees without a plan: ``all``, or ``causal``, those at and
            before its place in raster order, as an encoder that was pretrained in that
            order has seen it.
        window_size: Rows, and columns, of an attention window in tokens; 0 means that
            every layer attends globally.
        global_attn_indexes: Layers that attend globally all the same.
        use_rel_pos_bias: Whether scores get a learnt bias by relative position: one
            table that all windowed layers share and one that all global layers share.
            It starts at zero and rules out the fastest attention kernels.
        **kwargs: As for ``mmpretrain.VisionTransformer``.

    Raises:
        ValueError: If the number of channels is not a multiple of 4, or the window
            options do not fit.
    """

    rotary = False  # a rival's encoder may turn queries and keys
    cls_place: ClsPlace = "prefix"  # another's class token may stand last

    def __init__(
        self,
        *args: Any,
        visible: Visible = "all",
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        use_rel_pos_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_width(self.embed_dims)
        self.layers: ModuleList = ModuleList(map(AttentionBlock, self.layers))
        self._register_state_dict_hook(note_grid)
        self.visible = visible
        self.window_size = window_size
        self.global_attn_indexes = frozenset(global_attn_indexes)
        self._check_options(use_rel_pos_bias)
        heads = self.arch_settings["num_heads"]
        self.rel_pos_bias_window = self.rel_pos_bias_global = None
        if use_rel_pos_bias and window_size:
            grid = (window_size, window_size)
            self.rel_pos_bias_window = RelativePositionBias(grid, heads)
        if use_rel_pos_bias and (self.global_attn_indexes or not window_size):
            grid = tuple(self.patch_resolution)
            self.rel_pos_bias_global = RelativePositionBias(grid, heads)

    def _check_options(self, use_rel_pos_bias: bool) -> None:
        check_choice("visible", self.visible, get_args(Visible))
        layers, windowed = range(self.num_layers), self.window_size or use_rel_pos_bias
        if self.window_size < 0 or not self.global_attn_indexes <= set(layers):
            raise ValueError(
                f"window_size={self.window_size} and global_attn_indexes="
                f"{sorted(self.global_attn_indexes)}: the size must be at least 0 (0 "
                f"for no windows) and the indexes between 0 and {self.num_layers - 1}."
            )
        if self.global_attn_indexes and not self.window_size:
            raise ValueError(
                f"global_attn_indexes={sorted(self.global_attn_indexes)} has no "
                "meaning without windows; set window_size, such as 14, or drop it."
            )
        if windowed and self.with_cls_token:
            raise ValueError(
                "Windows and relative position bias need with_cls_token=False: a class "
                "token has no place in the grid."
            )
        if self.visible == "all":
            return
        if windowed:
            raise ValueError(
                "visible='causal' rules out windows and relative position bias; drop "
                "one of them."
            )
        if self.out_type == "cls_token" and self.cls_place == "prefix":
            raise ValueError(
                "visible='causal' with out_type='cls_token': a class token in front of "
                "all patches sees none of them. Set out_type='avg_featmap' or another."
            )

    def init_weights(self) -> None:
        """Initialises from scratch, then from the checkpoint that ``init_cfg`` names.

        By :func:`saim_mm.weights.load_encoder`, which stops where MMEngine's
        ``Pretrained`` would train from scratch and only log it.
        """
        config = self.init_cfg  # type: ignore[has-type]  # MMEngine is untyped
        pretrained = pretrained_config(config)
        if pretrained is not None:
            self.init_cfg = None  # out of MMEngine's sight
        super().init_weights()
        self.init_cfg = config
        self._init_from_scratch()
        if pretrained is None:
            return
        names = ("prefix", "grid", "channels")
        options = {k: pretrained[k] for k in names if k in pretrained}
        load_encoder(self, pretrained["checkpoint"], **options)

    def _prepare_pos_embed(
        self, state_dict: dict[str, Tensor], prefix: str, metadata: Any, *args: Any
    ) -> None:
        """Load hook: fits a checkpoint's position embedding to this model."""
        name = f"{prefix}pos_embed"
        if name in state_dict and state_dict[name].shape[-1] == self.embed_dims:
            state_dict[name] = fit_position_embedding(
                state_dict,
                prefix,
                tuple(self.patch_resolution),
                self.num_extra_tokens,
                self.interpolate_mode,
                noted_grid({"": metadata}),
            )

    def _init_from_scratch(self) -> None:
        init_like_official(self)
        projection = self.patch_embed.projection
        nn.init.xavier_uniform_(projection.weight.flatten(1))
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        self._init_pos_embed()

    @torch.no_grad()
    def _init_pos_embed(self) -> None:
        self.pos_embed.zero_()  # the class token has no position
        self.pos_embed[0, self.num_extra_tokens :] = sincos_position_embedding(
            self.patch_resolution, self.embed_dims
        )

    def freeze_for_pretraining(self) -> None:
        """Freezes what pretraining does not train and fine-tuning does."""
        self.pos_embed.requires_grad_(False)

    def forward(
        self, x: Tensor, plan: Plan | None = None
    ) -> tuple[Tensor, ...] | Content:
        """Runs a plain ViT, or with a plan the content stream.

        Args:
            x: Images (B, C, H, W).
            plan: Who sees whom; see :mod:`saim_mm.models.plan`.

        Returns:
            Without a plan, the outputs of ``VisionTransformer``; with one, the content.
        """
        if plan is None:
            return self._forward_raster(*self.patch_embed(x))
        x = self.pre_norm(self.drop_after_pos(self._embed_sorted(x, plan)))
        embeddings, states = x, []
        turns, query_turns = self._turns(plan)
        for layer in self.layers:
            # By position: MMEngine's activation checkpointing passes no keywords.
            x = layer(x, None, plan.content_mask, None, None, turns)
            states.append(x)
        positions = sort_tokens(self.pos_embed[:, self.num_extra_tokens :], plan.asked)
        return Content(tuple(states), positions, embeddings, query_turns)

    def _turns(self, plan: Plan) -> tuple[Turns | None, Turns | None]:
        """Turns of the content stream and of the query stream; none here."""
        return None, None

    def _turns_of_grid(self, grid: tuple[int, int]) -> Turns | None:
        return None  # without a plan

    def _forward_raster(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, ...]:
        """``VisionTransformer.forward`` from all embedded patches (B, N, D) on."""
        x = self.pre_norm(self.drop_after_pos(self._with_extra_tokens(x, grid)))
        windows = Windows(grid, self.window_size) if self.window_size else None
        within = _bias(self.rel_pos_bias_window, (self.window_size, self.window_size))
        overall = _bias(self.rel_pos_bias_global, grid)
        mask, turns = self._mask(x.shape[1]), self._turns_of_grid(grid)
        outs = []
        for i, layer in enumerate(self.layers):
            if windows is None or i in self.global_attn_indexes:
                x = layer(x, None, mask, overall, None, turns)
            else:
                x = layer(x, None, mask, within, windows)
            if self.final_norm and i == self.num_layers - 1:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, grid))
        return tuple(outs)

    def _mask(self, tokens: int) -> Mask:
        """What so many tokens see of each other without a plan."""
        return Mask(is_causal=self.visible == "causal")

    def _extra_tokens(self) -> Tensor | None:
        """The tokens in front of all patches (1, E, D), if there are any."""
        return self.cls_token

    def _with_extra_tokens(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Extra tokens and all patches, with their positions (B, E + N, D)."""
        extra = self._extra_tokens()
        if extra is not None:
            x = torch.cat([extra.expand(x.shape[0], -1, -1), x], dim=1)
        positions = resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid,
            self.interpolate_mode,
            self.num_extra_tokens,
        )
        return x + positions

    def _embed_sorted(self, x: Tensor, plan: Plan) -> Tensor:
        """Extra tokens, then what is read, embedded and sorted: (B, E + R, D)."""
        extra = self.num_extra_tokens
        positions = self.pos_embed[:, extra:]
        if plan.num_read < positions.shape[1]:
            patches = self._embed_patches(x, plan.read)
            patches = patches + sort_tokens(positions, plan.read)
        else:
            patches = sort_tokens(self.patch_embed(x)[0] + positions, plan.read)
        front = self._extra_tokens()
        if front is None:
            return patches
        front = front + self.pos_embed[:, :extra]
        return torch.cat([front.expand(len(x), -1, -1), patches], dim=1)

    def _embed_patches(self, x: Tensor, read: Tensor) -> Tensor:
        """``patch_embed`` of some patches only: (B, R, D), sorted."""
        projection = self.patch_embed.projection
        pixels = sort_tokens(patchify(x, projection.kernel_size), read)
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)
        patches = F.linear(pixels, weight, projection.bias)
        norm = self.patch_embed.norm
        return patches if norm is None else norm(patches)


def _bias(table: RelativePositionBias | None, grid: tuple[int, int]) -> Tensor | None:
    return None if table is None else table(grid)
