"""AIM (El-Nouby et al. 2024): raster order, a prefix that sees itself, a deep MLP head.

What is AIM's beside ``order="raster"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mmengine.model import ModuleList
from torch import Tensor, nn

from ...registry import register
from ...utils.check_choice import check_choice
from ..order import OrderSampler, Scope
from ..plan import Plan
from ..reading import check_exchangeable, check_whole_segments
from ..saim_head import SAIMHead
from ..saim_neck import SAIMNeck
from ..saim_vit import Content


@register("model")
@dataclass(frozen=True)
class PrefixReading:
    """What is read begins with a prefix that sees itself; asked after it.

    With a whole order in raster that is AIM. What is learnt has seen attention without
    a mask, with which an encoder is used later.

    Args:
        prefix: P, or ``uniform`` for one drawn anew each step, between a segment and
            all that is read, of a whole order all but one.
        weight: What all steps together weigh alike: ``steps``, whatever they ask for,
            or ``patches``, so that a prefix is drawn in proportion to what follows it.
            AIM draws a prefix for each image and takes the mean over the patches of the
            batch: in the mean over many images that is ``patches``.
        asked: K, how many patches are asked for; by default all after the prefix.
        read: R, how many patches are read; by default all.

    Raises:
        ValueError: If an option is none; when used, if P or R is not of whole segments,
            or the orders do not suit R.
    """

    prefix: int | Literal["uniform"] = "uniform"
    weight: Literal["steps", "patches"] = "steps"
    asked: int | None = None
    read: int | None = None

    def __post_init__(self) -> None:
        check_choice("weight", self.weight, ("steps", "patches"))
        if self.asked is not None and self.asked < 1:
            raise ValueError(f"asked={self.asked} must be at least 1.")

    def scopes(self, family: OrderSampler) -> list[Scope]:
        """One for each prefix."""
        total, length = family.num_patches, family.segment_length
        read = total if self.read is None else self.read
        if read != total:
            check_exchangeable(self, family)
            check_whole_segments("read", read, range(length, total), family)
        prefixes = range(length, min(read + 1, total), length)
        if self.prefix != "uniform":
            check_whole_segments("prefix", self.prefix, prefixes, family)
            prefixes = range(self.prefix, self.prefix + 1)
        return [
            Scope(
                read=read,
                allowed=range(prefix, total),
                asked=min(self.asked or total, total - prefix),
                prefix=prefix,
                weight=total - prefix if self.weight == "patches" else 1,
            )
            for prefix in prefixes
        ]


@register("model")
class AIMNeck(SAIMNeck):
    """No query stream: the token before a patch predicts it, told where it stands.

    The position embedding of the patch that is asked for is added after the norm, where
    AIM adds positions a second time.

    Args:
        **kwargs: As for :class:`SAIMNeck`, without ``depth``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(depth=0, **kwargs)

    def forward(
        self, content: Content, plan: Plan, encoder_layers: ModuleList
    ) -> Tensor:
        """As :meth:`SAIMNeck.forward`."""
        return super().forward(content, plan, encoder_layers) + content.positions


@register("model")
class AIMHead(SAIMHead):
    """A linear layer, residual MLP blocks, a norm and a linear layer, patch by patch.

    AIM's 12 blocks of width 2048 take 4.5 times the multiply-adds of a ViT-B encoder;
    12 of 768 take two thirds of it.

    Args:
        num_blocks: How many blocks.
        width: Channels of the blocks; their hidden layer has four times as many.
        smoothing: As for :class:`SAIMHead`; AIM has none.
        **kwargs: As for :class:`SAIMHead`, without ``projector``.
    """

    def __init__(
        self,
        num_blocks: int = 12,
        width: int = 2048,
        smoothing: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(projector="linear", smoothing=smoothing, **kwargs)
        linear = self.projector.to_pixels
        assert isinstance(linear, nn.Linear)
        self.projector.to_pixels = nn.Sequential(
            nn.Linear(linear.in_features, width),
            *(ResidualMLP(width) for _ in range(num_blocks)),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, linear.out_features),
        )


class ResidualMLP(nn.Module):
    """x + MLP(norm(x)), with four times as many hidden channels.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x + self.layers(x)
