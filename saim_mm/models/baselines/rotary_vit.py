"""The encoder of NEPA: rotary positions and norms of queries and keys."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ...registry import register
from ...utils.check_choice import check_choice
from ..layers import Turns
from ..plan import Plan
from ..saim_vit import SAIMViT

Position = Literal["rope", "both"]
QKNorm = Literal["off", "plain", "affine"]


@register("model")
class RotaryViT(SAIMViT):
    """:class:`SAIMViT` whose queries and keys are turned by where their patch stands.

    Rotary positions as in DINOv3 and NEPA: patch centres in [-1, 1], both axes, a
    quarter of a head's channels each in sine and cosine. A token is turned by the true
    place of its patch, whatever its rank in the order; extra tokens are not turned. The
    query stream turns its queries by the places that are asked for.

    LayerScale is ``layer_scale_init_value=1e-5``, and SwiGLU ``layer_cfgs=dict(
    ffn_type="swiglu_fused")``, which has no drop path.

    Args:
        *args: As for :class:`SAIMViT`.
        position: ``rope`` alone, or ``both``, with the embedding at the input.
        rope_theta: Base of the frequencies.
        rope_rescale: In training, coordinates are multiplied by one factor a batch,
            log-uniform between 1 over this and this; ``None`` for none.
        qk_norm: LayerNorm of each head's queries and keys before they are turned:
            ``off``, ``plain``, or ``affine``, with a learnt scale.
        freeze_patch_embed: Whether the patch embedding stays as it is (NEPA's
            fine-tuning).
        **kwargs: As for :class:`SAIMViT`.

    Raises:
        ValueError: If an option is none, the channels of a head are not a multiple of
            4, or there are windows.
    """

    rotary = True

    def __init__(
        self,
        *args: Any,
        position: Position = "rope",
        rope_theta: float = 100.0,
        rope_rescale: float | None = None,
        qk_norm: QKNorm = "off",
        freeze_patch_embed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_choice("position", position, get_args(Position))
        check_choice("qk_norm", qk_norm, get_args(QKNorm))
        head_dims = self.embed_dims // self.arch_settings["num_heads"]
        if head_dims % 4 or self.window_size or self.rel_pos_bias_global is not None:
            raise ValueError(
                f"RotaryViT needs channels of a head ({head_dims}) that are a multiple "
                "of 4, and neither windows nor a relative position bias."
            )
        if rope_rescale is not None and not rope_rescale > 1:
            raise ValueError(
                f"rope_rescale={rope_rescale} must be greater than 1, such as 2, or "
                "None for none."
            )
        self.position, self.rope_rescale = position, rope_rescale
        steps = torch.arange(head_dims // 4, dtype=torch.float32) * 4 / head_dims
        # In the state dict, as a plain ViT would load all else and see something else.
        self.register_buffer("frequencies", rope_theta**-steps)
        if position == "rope":
            self.pos_embed.requires_grad_(False)  # it stays zero
        self.patch_embed.requires_grad_(not freeze_patch_embed)
        if qk_norm != "off":
            self.register_buffer("qk_norm", torch.empty(0))  # the same: it has no keys
            norm = dict(elementwise_affine=qk_norm == "affine", bias=False)
            for layer in self.layers:
                layer.q_norm = nn.LayerNorm(head_dims, eps=layer.ln1.eps, **norm)
                layer.k_norm = nn.LayerNorm(head_dims, eps=layer.ln1.eps, **norm)

    def _init_pos_embed(self) -> None:
        if self.position == "both":
            super()._init_pos_embed()
        else:
            nn.init.zeros_(self.pos_embed)

    def _turns(self, plan: Plan) -> tuple[Turns, Turns]:
        table = self._angles(tuple(self.patch_resolution))
        read = self._turn(table[plan.read], self.num_extra_tokens)
        cos, sin = read
        memory = cos[:, :, : plan.memory_tokens], sin[:, :, : plan.memory_tokens]
        return (read, read), (self._turn(table[plan.asked]), memory)

    def _turns_of_grid(self, grid: tuple[int, int]) -> Turns:
        turn = self._turn(self._angles(grid)[None], self.num_extra_tokens)
        return turn, turn

    def _turn(self, angles: Tensor, extra: int = 0) -> tuple[Tensor, Tensor]:
        """Angles (B, T, D/H) -> cosine and sine (B, 1, E + T, D/H)."""
        angles = nn.functional.pad(angles, (0, 0, extra, 0)).unsqueeze(1)
        return angles.cos(), angles.sin()

    def _angles(self, grid: tuple[int, int]) -> Tensor:
        """Angles of all patches (N, D/H), in raster order."""
        frequencies: Tensor = self.frequencies.float()
        centres = [
            (torch.arange(size, device=frequencies.device) + 0.5) / size * 2 - 1
            for size in grid
        ]
        places = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1)
        if self.training and self.rope_rescale is not None:
            bound = math.log(self.rope_rescale)
            places = places * math.exp((2 * torch.rand(()).item() - 1) * bound)
        angles = 2 * math.pi * places.flatten(0, 1)[:, :, None] * frequencies
        return angles.flatten(1).tile(2)
