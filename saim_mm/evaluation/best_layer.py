"""Which layer serves a linear classifier best, chosen without the images to be judged.

Encoders that predict pixels or patches peak in the middle: their last layers turn
towards what is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import Features
from .linear_probe import ProbeRecipe, linear_probe


@dataclass(frozen=True)
class LayerCurve:
    """Accuracies in percent.

    Attributes:
        held_out: Of each layer, on training images that were held out.
        best: The layer that is best there; the earliest of several.
        accuracy: Of that layer alone, trained on all training images, on those to be
            judged on.
    """

    held_out: tuple[float, ...]
    best: int
    accuracy: float


def best_layer_probe(
    train: Sequence[Features],
    val: Sequence[Features],
    recipe: ProbeRecipe | None = None,
    share: float = 0.1,
) -> LayerCurve:
    """A linear probe of the layer that is best on held-out training images.

    Args:
        train: By layer, features of the same images to learn from.
        val: By layer, features to be judged on; those of the best layer are used once.
        recipe: Of each probe; as for :func:`linear_probe`.
        share: Share of each class that is held out to choose by.

    Raises:
        ValueError: If the share is not in (0, 1), or too few images are left.
    """
    held = hold_out(train[0].labels, share)
    held_out = [linear_probe(x[~held], x[held], recipe).accuracy for x in train]
    best = max(range(len(train)), key=held_out.__getitem__)
    accuracy = linear_probe(train[best], val[best], recipe).accuracy
    return LayerCurve(tuple(held_out), best, accuracy)


def hold_out(labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Chooses a share of each class at random, the same in every run.

    Args:
        labels: (N,).
        share: In (0, 1). Of a class of two or more images at least one is chosen and
            one is not; of a single image, none.
        seed: Of the choice.

    Returns:
        (N,), ``True`` for what is held out.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} must be greater than 0 and less than 1.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    held = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        members = order[labels[order] == label]
        number = min(max(round(share * len(members)), 1), len(members) - 1)
        held[members[:number]] = True
    return held
