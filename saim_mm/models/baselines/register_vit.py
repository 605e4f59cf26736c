"""Registers (Darcet et al. 2024), and a class token that sees all (D-iGPT)."""

from __future__ import annotations

import math
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ...registry import register
from ...utils.check_choice import check_choice
from ..plan import Mask
from ..saim_vit import ClsPlace, SAIMViT


@register("model")
class RegisterViT(SAIMViT):
    """:class:`SAIMViT` with registers, or with its class token behind all patches.

    Registers are learnt tokens between class token and patches. They start without a
    position, as the class token does, and outputs and means leave them out. Options
    such as ``no_decay`` name them ``registers``; a class token at the end is the
    ``suffix_token``.

    A class token in front sees no patch under a causal mask. One at the end sees every
    token, and no other token sees it; to hide it without an N x N mask, others'
    attention is computed twice where they see all. No loss of SAIM's reaches it, so a
    plan leaves it out and pretraining keeps it as it is. (D-iGPT's needs a CLIP
    teacher: not built.)

    Args:
        *args: As for :class:`SAIMViT`.
        num_registers: How many registers.
        cls_place: ``prefix``, the class token in front, or ``suffix``, at the end. In
            outputs it is the first token all the same.
        **kwargs: As for :class:`SAIMViT`.

    Raises:
        ValueError: If an option is none, no class token is there to be placed, or there
            are windows or a relative position bias.
    """

    def __init__(
        self,
        *args: Any,
        num_registers: int = 0,
        cls_place: ClsPlace = "prefix",
        **kwargs: Any,
    ) -> None:
        check_choice("cls_place", cls_place, get_args(ClsPlace))
        self.cls_place = cls_place  # which the base class asks for
        super().__init__(*args, **kwargs)
        self._check(num_registers)
        token: nn.Parameter | None = self.cls_token  # type: ignore[has-type]
        last = cls_place == "suffix"
        self.cls_token = None if last else token
        # Of another name, as a plain ViT would take it for a token in front.
        self.suffix_token = token if last else None
        self.num_extra_tokens = num_registers + (self.cls_token is not None)
        patches = math.prod(self.patch_resolution)
        self.registers = self._tokens(num_registers) if num_registers else None
        self.pos_embed = self._tokens(self.num_extra_tokens + patches)

    def _tokens(self, count: int) -> nn.Parameter:
        tokens = torch.zeros(1, count, self.embed_dims)
        return nn.Parameter(tokens, requires_grad=self.frozen_stages <= 0)

    def _check(self, num_registers: int) -> None:
        missing = self.cls_place == "suffix" and not self.with_cls_token
        windows = self.window_size or self.rel_pos_bias_global is not None
        if num_registers < 0 or missing or windows:
            raise ValueError(
                f"RegisterViT: num_registers={num_registers} must be at least 0, "
                f"cls_place={self.cls_place!r} with with_cls_token="
                f"{self.with_cls_token} must have a token to be placed, and windows or "
                "a relative position bias have no place for extra tokens."
            )

    def _init_from_scratch(self) -> None:
        super()._init_from_scratch()
        for tokens in (self.registers, self.suffix_token):
            if tokens is not None:
                nn.init.normal_(tokens, std=0.02)

    def freeze_for_pretraining(self) -> None:
        """Also freezes the class token at the end."""
        super().freeze_for_pretraining()
        if self.suffix_token is not None:
            self.suffix_token.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """All tokens belong to the stem."""
        if param_name in (f"{prefix}registers", f"{prefix}suffix_token"):
            param_name = f"{prefix}pos_embed"
        return super().get_layer_depth(param_name, prefix)

    def _extra_tokens(self) -> Tensor | None:
        pair = (self.cls_token, self.registers)
        front: list[Tensor] = [tokens for tokens in pair if tokens is not None]
        return torch.cat(front, dim=1) if front else None

    def _with_extra_tokens(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = super()._with_extra_tokens(x, grid)
        if self.suffix_token is not None:
            x = torch.cat([x, self.suffix_token.expand(len(x), -1, -1)], dim=1)
        return x

    def _mask(self, tokens: int) -> Mask:
        if self.suffix_token is None or self.visible == "causal":
            return super()._mask(tokens)
        return Mask(is_causal=True, prefix=tokens - 1)

    def _format_output(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        end = self.num_extra_tokens + hw[0] * hw[1]
        cls = x[:, end:] if self.cls_token is None else x[:, :1]
        if self.out_type == "cls_token":
            return cls[:, 0]
        if self.out_type == "raw":
            return torch.cat([cls, x[:, self.num_extra_tokens : end]], dim=1)
        return super()._format_output(x[:, :end], hw)
