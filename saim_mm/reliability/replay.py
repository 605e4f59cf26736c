"""Computes a training step once more that :class:`FiniteGuardHook` did not make."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .. import launch
from ..utils.sample_index import SampleIndex
from ..weights.files import read_torch
from ..weights.load_model import build_model
from .exact_loops import seed_training_step


@dataclass(frozen=True)
class ReplayedIteration:
    """One iteration of a step.

    Attributes:
        iteration: Counted from 0.
        loss: What it is now.
        recorded: What it was.
        not_finite: The modules whose output is not finite, in the order they ran.
        samples: Paths of the images, or their indices.
    """

    iteration: int
    loss: float
    recorded: float
    not_finite: list[str]
    samples: list[str]

    @property
    def as_recorded(self) -> bool:
        """Whether both losses are the same number, or both none."""
        both_nan = math.isnan(self.loss) and math.isnan(self.recorded)
        return self.loss == self.recorded or both_nan


#: What :class:`FiniteGuardHook` writes of a step, as far as it is read here.
_WRITTEN = {"iterations", "losses", "loss_scale", "rank", "samples", "seed", "weights",
            "weights_after_iteration"}  # fmt: skip


def read_record(path: Path) -> dict[str, Any]:
    """What :class:`FiniteGuardHook` wrote of a step.

    Raises:
        ValueError: If the file is something else.
        OSError: If it cannot be read.
    """
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no record of a step: {error}") from None
    missing = _WRITTEN - (record.keys() if isinstance(record, dict) else set())
    if missing:
        raise ValueError(
            f"{path} is no record of a step, as it lacks {sorted(missing)}; give "
            "one of those in not_finite of the work dir"
        )
    return record


def replay(
    cfg: Config, record: dict[str, Any], folder: Path
) -> tuple[list[ReplayedIteration], list[str]]:
    """Computes losses and gradients of a step.

    Args:
        cfg: The config of the run; it is bent to this machine in place.
        record: Of :func:`read_record`.
        folder: Where its weights are.

    Returns:
        Its iterations, and the names of the parameters whose gradient is not finite.

    Raises:
        ValueError: If the record has no weights, or does not say which samples it was.
    """
    if record["weights"] is None:
        raise ValueError("this record has no weights; use an earlier one of the run")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    launch.fit_to_machine(cfg)
    model = build_model(cfg)
    model.load_state_dict(read_torch(folder / record["weights"]))
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    replayed = []
    steps = zip(record["iterations"], record["samples"], record["losses"], strict=True)
    for iteration, samples, recorded in steps:
        batch = _batch_of(cfg, samples)
        seed_training_step(record["seed"], record["rank"], iteration)
        with _not_finite_outputs(model) as found, wrapper.optim_context(model):
            data = model.data_preprocessor(batch, True)
            losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        (loss * record["loss_scale"] / len(record["iterations"])).backward()
        names = [str(sample.get("img_path", sample["index"])) for sample in samples]
        replayed.append(
            ReplayedIteration(iteration, loss.item(), recorded, found, names)
        )
    gradients = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return replayed, gradients


def _batch_of(cfg: Config, samples: list[dict[str, Any]]) -> Any:
    indices = []
    for sample in samples:
        missing = {"index", "seed", "epoch"} - sample.keys()
        if missing:
            raise ValueError(
                f"the record lacks {sorted(missing)} of {sample}; the run needs "
                "ExactSampler, and PackInputs must keep sample_idx (meta_keys)"
            )
        requested = sample["requested"]
        indices.append(SampleIndex(requested, sample["seed"], sample["epoch"]))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    collate = cfg.train_dataloader.get("collate_fn") or dict(type="pseudo_collate")
    return FUNCTIONS.get(collate["type"])([dataset[index] for index in indices])


@contextmanager
def _not_finite_outputs(model: nn.Module) -> Iterator[list[str]]:
    """Collects the modules whose output is not finite, in the order they ran."""
    found: list[str] = []
    names = {module: name for name, module in model.named_modules()}

    def check(module: nn.Module, _: Any, output: Any) -> None:
        tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        if any(t.is_floating_point() and not t.isfinite().all() for t in tensors):
            found.append(f"{names[module]} ({type(module).__name__})")

    with ExitStack() as hooks:
        for module, name in names.items():
            if name:
                hooks.enter_context(module.register_forward_hook(check))
        yield found
