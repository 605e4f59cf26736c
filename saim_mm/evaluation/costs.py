"""What a pretraining config costs for an image: in closed form, and as torch counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.utils.flop_counter import FlopCounterMode

from ..models import SAIM, DINOPretraining
from .flops import Flops, dino_flops, saim_flops
from .model_index import build_on_meta


@dataclass(frozen=True)
class CostRow:
    """A line of the table of costs.

    Attributes:
        name: Name of the system.
        config: Its config, from the folder of configs.
        flops: In closed form, the mean over all that may be read and asked for.
        counted: What torch's counter finds for a forward pass with its loss, over the
            closed form of the same; of several readings, the one farthest from 1.
    """

    name: str
    config: str
    flops: Flops
    counted: float

    def __str__(self) -> str:
        """The line, in Markdown."""
        forward, step = self.flops.forward / 2e9, self.flops.step / 1e9
        cells = f"{forward:.1f} | {step:.0f} | {self.counted:.4f}"
        return f"| {self.name} | `{self.config}` | {cells} |"


def pretraining_flops(config: Path) -> Flops:
    """In closed form; the model is built on the meta device."""
    cfg = Config.fromfile(config)
    return _flops(build_on_meta(cfg), _crops(cfg))


def counted_share(config: Path) -> float:
    """What torch counts over the closed form, see :class:`CostRow`.

    The forward pass is run on the CPU, on one image, with random weights; of many
    readings for the shortest, the middle and the longest.
    """
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    crops, shares = _crops(cfg), []
    for _ in _scopes(model):
        expected = _flops(model, crops).forward
        shares.append(_count(model, crops) / expected)
    return max(shares, key=lambda share: abs(share - 1))


def _crops(cfg: Config) -> list[int]:
    """Sides of the crops that the pipeline makes of an image, if it makes several."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    views = next((step for step in pipeline if step["type"] == "MultiView"), None)
    if views is None:
        return []
    pairs = zip(views["num_views"], views["transforms"], strict=True)
    return [steps[0]["scale"] for number, steps in pairs for _ in range(number)]


def _flops(model: SAIM | DINOPretraining, crops: list[int]) -> Flops:
    if isinstance(model, DINOPretraining):
        return dino_flops(model, crops)
    return saim_flops(model)


def _scopes(model: SAIM | DINOPretraining) -> Iterator[None]:
    """Lets the model have one of its scopes after another, three at most."""
    if not isinstance(model, SAIM):
        yield
        return
    family = model.order_sampler
    scopes = family.scopes
    for index in sorted({0, len(scopes) // 2, len(scopes) - 1}):
        family.scopes = [scopes[index]]
        yield
    family.scopes = scopes


def _count(model: SAIM | DINOPretraining, crops: list[int]) -> int:
    # The counter does not know the CPU's fused attention.
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        if isinstance(model, DINOPretraining):
            model.teacher_moves = True  # nothing is trained
            model.loss([torch.zeros(1, 3, side, side) for side in crops])
        else:
            channels = model.backbone.patch_embed.projection.in_channels
            model.loss(torch.zeros(1, channels, *model.backbone.img_size))
    return counter.get_total_flops()
