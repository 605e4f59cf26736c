"""How large models and runs are, the same for every experiment."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Scale:
    """Size of the models and of the runs; the same for every experiment.

    Attributes:
        name: Of the preset.
        width: Channels of the encoder.
        depth: Layers of the encoder.
        heads: Attention heads.
        image_size: Rows, and columns, of an image in pixels.
        patch_size: Rows, and columns, of a patch.
        train_images: Images to train on, equally many of each class.
        held_out: Training images beside them that choose the learning rates.
        test_images: Images to judge on, equally many of each class.
        batch_size: Images per step.
        pretrain_epochs: Passes of pretraining, where there are no budgets.
        finetune_epochs: Passes of fine-tuning.
        warmup: Share of the steps with a rising rate.
        rates: Peak learning rates that every method is tuned over.
        finetune_rate: Peak learning rate of fine-tuning, for every experiment.
        layer_decay: Layer-wise rate decay of fine-tuning, for every experiment.
        budgets: Floating-point operations of a pretraining, smallest first. Every row
            makes as many steps as they suffice for; a row of equal epochs has none.
    """

    name: str
    width: int
    depth: int
    heads: int
    train_images: int
    held_out: int
    test_images: int
    batch_size: int
    pretrain_epochs: int
    finetune_epochs: int
    rates: tuple[float, ...]
    image_size: int = 32
    patch_size: int = 4
    warmup: float = 0.1
    finetune_rate: float = 1e-3
    layer_decay: float = 0.75
    budgets: tuple[float, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        lists = dict(rates=list(self.rates), budgets=list(self.budgets))
        return {**asdict(self), **lists}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scale:
        """The inverse of :meth:`as_json`."""
        tuples = {key: tuple(content.get(key, ())) for key in ("rates", "budgets")}
        return cls(**{**content, **tuples})

    def changed(self, settings: Sequence[str]) -> Scale:
        """With other values, given as ``NAME=VALUE``.

        Raises:
            ValueError: If a name is unknown or a value is not written as in Python.
        """
        changes = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in asdict(self):
                raise ValueError(f"{setting!r} names none of {list(asdict(self))}.")
            try:
                changes[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                raise ValueError(
                    f"{setting!r} has no value that Python could read; write "
                    "pretrain_epochs=20 or rates=(1e-3,2e-3)."
                ) from None
        return replace(self, **changes)


PRESETS = {
    scale.name: scale
    for scale in (
        # 3 to 5 minutes of one CPU core for an experiment and seed.
        Scale("cpu", 64, 4, 4, 10_000, 5_000, 10_000, 64, 4, 2, (1e-3, 2e-3, 4e-3)),
        # A narrow 12-layer ViT, for one GPU.
        Scale("gpu", 192, 12, 3, 45_000, 5_000, 10_000, 512, 100, 20,
              (5e-4, 1e-3, 2e-3)),
        # The same two, by operations. MAE makes 4.8 epochs of the first CPU budget.
        Scale("cpu-equal", 64, 4, 4, 10_000, 5_000, 10_000, 64, 0, 2,
              (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), budgets=(3e12, 9e12)),
        Scale("gpu-equal", 192, 12, 3, 45_000, 5_000, 10_000, 512, 0, 20,
              (5e-4, 1e-3, 2e-3, 4e-3), budgets=(1e15, 4e15)),
        # Seconds, for the tests.
        Scale("tiny", 16, 2, 2, 20, 10, 20, 10, 1, 1, (1e-3, 2e-3)),
        Scale("tiny-equal", 16, 2, 2, 20, 10, 20, 10, 0, 1, (1e-3, 2e-3),
              budgets=(1e9, 2e9)),
    )
}  # fmt: skip
