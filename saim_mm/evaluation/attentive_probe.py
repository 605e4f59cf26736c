"""Attentive probes on the patches of a frozen encoder.

Their benchmark with augmented images is
``configs/saim/benchmarks/vit-b_attentive_in1k.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..models.probing.attentive_pool import AttentivePool, EfficientPool
from .best_layer import hold_out
from .features import Features
from .linear_probe import ProbeRecipe, ProbeResult, linear_probe


@dataclass(frozen=True)
class AttentiveRecipe(ProbeRecipe):
    """For patches that were extracted once; AdamW, as attention needs it.

    Attributes:
        weight_decay: Of all weights.
    """

    epochs: int = 30
    base_lr: float = 3e-3
    weight_decay: float = 0.1

    def optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        """What trains a probe at such a rate."""
        decay = self.weight_decay
        return torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=decay)


def attentive_probe(
    pool: AttentivePool | EfficientPool,
    train: Features,
    val: Features,
    recipe: ProbeRecipe | None = None,
) -> ProbeResult:
    """Trains a learnt pooling and a linear layer on it, and judges them.

    Args:
        pool: Its weights are drawn anew.
        train: Patches to learn from, on the device to be used.
        val: Patches to be judged on, on the same device.
        recipe: By default :class:`AttentiveRecipe`'s.

    Raises:
        ValueError: As for :func:`linear_probe`.
    """
    return linear_probe(train, val, recipe or AttentiveRecipe(), pool)


def choose_rate(
    pool: AttentivePool | EfficientPool,
    train: Features,
    rates: Sequence[float],
    recipe: AttentiveRecipe,
    share: float = 0.1,
) -> AttentiveRecipe:
    """The recipe with the rate that is best on held-out training images.

    What is best depends on the number of channels and images far more than it does for
    a linear layer; AIM's authors choose it from a grid, too.

    Args:
        pool: Its weights are drawn anew.
        train: Patches to learn from.
        rates: One or more, at a batch of 256. A single one is not tried.
        recipe: All else.
        share: Share of each class that is held out.

    Raises:
        ValueError: If a rate is not positive, or too few images are left.
    """
    recipes = [replace(recipe, base_lr=rate) for rate in rates]
    if len(recipes) == 1:
        return recipes[0]
    held = hold_out(train.labels, share)
    rest, judged = train[~held], train[held]
    return max(
        recipes, key=lambda each: attentive_probe(pool, rest, judged, each).accuracy
    )
