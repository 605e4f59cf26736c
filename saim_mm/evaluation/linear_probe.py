"""A linear classifier on frozen features: quick, and the same in every run.

The benchmark of the paper, with augmented images, is
``configs/saim/benchmarks/vit-b_linear_90e_in1k.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.probing.attentive_pool import AttentivePool, EfficientPool, draw_pool
from .features import Features


@dataclass(frozen=True)
class ProbeRecipe:
    """The release's linear probing, for features that were extracted once.

    Attributes:
        epochs: Passes over the features.
        batch_size: Features per step.
        base_lr: Learning rate at a batch of 256; it grows with the batch, and falls to
            0 along a cosine.
        momentum: Of SGD, which has no weight decay.
        seed: Of the initial weights and the order of the features.
    """

    epochs: int = 90
    batch_size: int = 256
    base_lr: float = 0.1
    momentum: float = 0.9
    seed: int = 0

    def optimizer(self, module: nn.Module, lr: float) -> torch.optim.Optimizer:
        """What trains a probe at such a rate."""
        return torch.optim.SGD(module.parameters(), lr=lr, momentum=self.momentum)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "base_lr"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be positive; "
                    f"{getattr(type(self), name)} is the default."
                )


@dataclass(frozen=True)
class ProbeResult:
    """How it went, after the last epoch.

    Attributes:
        train_accuracy: In percent.
        accuracy: In percent.
        predicted: What the judged were taken for (N,).
    """

    train_accuracy: float
    accuracy: float
    predicted: Tensor = field(compare=False)


def linear_probe(
    train: Features,
    val: Features,
    recipe: ProbeRecipe | None = None,
    pool: AttentivePool | EfficientPool | None = None,
) -> ProbeResult:
    """Trains BatchNorm (without affine) and a linear layer, and judges them.

    All features are on the device to be used. The recipe is by default the release's;
    a ``pool``, over patches, stands in place of BatchNorm, its weights drawn anew.

    Raises:
        ValueError: If there are less than two features to learn from (BatchNorm needs
            them) or none to be judged on.
    """
    if len(train) < 2 or not len(val):
        raise ValueError(
            f"{len(train)} images to learn from and {len(val)} to be judged on; at "
            "least 2 and 1 are needed."
        )
    recipe = recipe or ProbeRecipe()
    generator = torch.Generator().manual_seed(recipe.seed)
    if pool is not None:
        draw_pool(pool, generator)
    width, num_classes = train.vectors.shape[-1], int(train.labels.max()) + 1
    probe = build_probe(width, num_classes, generator)
    if pool is not None:
        probe[0] = pool
    fit(probe.to(train.vectors.device), train, recipe, generator)
    predicted = _predict(probe, val)
    learnt = _accuracy(_predict(probe, train), train)
    return ProbeResult(learnt, _accuracy(predicted, val), predicted)


def build_probe(
    width: int, num_classes: int, generator: torch.Generator
) -> nn.Sequential:
    """BatchNorm and a linear layer, which starts from the generator's numbers."""
    # skip_init: the weights come from the generator, not from the global stream.
    linear = nn.utils.skip_init(nn.Linear, width, num_classes)
    with torch.no_grad():
        linear.weight.copy_(
            torch.randn(linear.weight.shape, generator=generator) * 0.01
        )
        linear.bias.zero_()
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)


def fit(
    probe: nn.Module,
    train: Features,
    recipe: ProbeRecipe,
    generator: torch.Generator,
) -> None:
    """Trains a probe, and leaves it in evaluation mode.

    Args:
        probe: From vectors (B, D), or patches (B, T, D), to scores (B, classes).
        train: Features to learn from.
        recipe: How.
        generator: Of the order of the features.
    """
    batch_size = min(recipe.batch_size, len(train))
    # The rest of an epoch is dropped; BatchNorm cannot learn from a single feature.
    steps = len(train) // batch_size
    lr = recipe.base_lr * batch_size / 256
    optimizer = recipe.optimizer(probe, lr)
    probe.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(train), generator=generator)
        for step, index in enumerate(order.split(batch_size)[:steps]):
            progress = (epoch + step / steps) / recipe.epochs
            optimizer.param_groups[0]["lr"] = (
                lr * (1 + math.cos(math.pi * progress)) / 2
            )
            index = index.to(train.vectors.device)
            loss = F.cross_entropy(probe(train.vectors[index]), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    probe.eval()


@torch.no_grad()
def _predict(probe: nn.Module, features: Features) -> Tensor:
    chunk = 8192 if features.vectors.ndim == 2 else 512  # patches are many
    return torch.cat([probe(x).argmax(dim=1) for x in features.vectors.split(chunk)])


def _accuracy(predicted: Tensor, features: Features) -> float:
    return 100 * (predicted == features.labels).float().mean().item()
