"""Steps of pretraining, in turn with the slow reference, and how long they take."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from _benchmark import Clock, Mark, most_allocated, resident_bytes
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import turn_on_activation_checkpointing
from torch import Tensor

from saim_mm.engine.compile_hook import compile_layers
from saim_mm.models import SAIM
from saim_mm.parity.reference import reference_loss

_PARTS = ("forward", "backward", "optimiser")


def fast_loss(model: SAIM, data: dict[str, Any]) -> Tensor:
    """The loss as it is trained with."""
    return model(**data, mode="loss")["loss"]


def slow_loss(model: SAIM, data: dict[str, Any]) -> Tensor:
    """The loss of the same orders as the release would compute it."""
    images, order = data["inputs"], model.order_sampler
    steps = order.draw(len(images), images.device).argsort(dim=1)
    steps = steps // order.segment_length * order.segment_length
    return reference_loss(model, images, steps)


@dataclass
class Trial:
    """A way to compute the loss, with its own copy of the weights, step by step."""

    name: str
    compute: Callable[[SAIM, dict[str, Any]], Tensor]
    model: SAIM
    optim_wrapper: OptimWrapper
    autocast: AbstractContextManager
    marks: list[tuple[Mark, ...]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch as the loader gives it."""
        torch.manual_seed(len(self.losses))  # the same orders in all trials
        with self.optim_wrapper.optim_context(self.model), self.autocast:
            data = self.model.data_preprocessor(batch, True)
            return self.compute(self.model, data)

    def step(self, batch: dict[str, Any], clock: Clock) -> None:
        """Trains a step, as ``BaseModel.train_step`` does."""
        marks = [clock.mark()]
        loss = self.forward(batch)
        marks.append(clock.mark())
        self.optim_wrapper.backward(loss)
        marks.append(clock.mark())
        self.optim_wrapper.step()
        self.optim_wrapper.zero_grad()
        marks.append(clock.mark())
        self.marks.append(tuple(marks))
        self.losses.append(loss.detach())


def build_trials(model: SAIM, cfg: Config, args: argparse.Namespace) -> list[Trial]:
    """The model, and beside it, if asked for, another with the same weights."""
    models = [model]
    computes: list[tuple[str, Callable]] = [("saim_mm", fast_loss)]
    if args.against:
        models.append(copy.deepcopy(model))
        slow = slow_loss if args.against == "reference" else fast_loss
        computes.append((args.against, slow))
    if cfg.get("activation_checkpointing"):
        turn_on_activation_checkpointing(model, cfg.activation_checkpointing)
    if args.compile:
        compile_layers(model)
    autocast: AbstractContextManager = nullcontext()
    if args.dtype == "bfloat16" and cfg.optim_wrapper.type == "OptimWrapper":
        autocast = torch.autocast(next(model.parameters()).device.type, torch.bfloat16)
    return [
        Trial(*compute, model, build_optim_wrapper(model, cfg.optim_wrapper), autocast)
        for compute, model in zip(computes, models, strict=True)
    ]


def measure(
    trials: list[Trial], data: Iterator, args: argparse.Namespace, device: torch.device
) -> tuple[list[dict[str, Any]], float]:
    """Steps the trials in turn on the same batches.

    Returns:
        A result for each trial, and the seconds of the very first step, in which
        layers are compiled.
    """
    clock, waits = Clock(device), []
    first = 0.0
    for number in range(args.warm_up + args.steps):
        start = clock.mark()
        batch = next(data)
        waits.append((start, clock.mark()))
        for trial in trials:
            trial.step(batch, clock)
        if not number:
            clock.wait()
            first = clock.seconds(trials[0].marks[0][0], trials[0].marks[0][-1])
    clock.wait()
    waited = [clock.seconds(*wait) for wait in waits[args.warm_up :]]
    results = []
    for trial in trials:
        result = _times(trial.marks[args.warm_up :], waited, clock, args.batch)
        losses = [loss.item() for loss in trial.losses]
        memory = _memory(trial, batch, clock, device)
        results.append(dict(variant=trial.name, **result, **memory, losses=losses))
    return results, first


def _memory(
    trial: Trial, batch: dict[str, Any], clock: Clock, device: torch.device
) -> dict[str, int]:
    """MiB of tensors, in a forward pass and a step that are not timed.

    With small batches the gradients outweigh what the forward pass keeps for them, and
    the peak says little about it.
    """
    resident = resident_bytes(trial.model, trial.optim_wrapper)
    forward = most_allocated(device, lambda: trial.forward(batch))
    peak = resident + most_allocated(device, lambda: trial.step(batch, clock))
    return dict(
        resident_mib=round(resident / 2**20),
        forward_mib=round(forward / 2**20),
        peak_mib=round(peak / 2**20),
    )


def _times(
    marks: list[tuple[Mark, ...]], waited: list[float], clock: Clock, batch: int
) -> dict[str, Any]:
    """Medians over the steps, in seconds."""
    parts = {
        name: [clock.seconds(step[i], step[i + 1]) for step in marks]
        for i, name in enumerate(_PARTS)
    }
    computed = [sum(step) for step in zip(*parts.values(), strict=True)]
    seconds = [sum(step) for step in zip(computed, waited, strict=True)]
    split = {"loader": waited, **parts}
    return dict(
        images_per_second=round(batch / statistics.median(seconds), 3),
        seconds_per_step=round(statistics.median(seconds), 5),
        fastest=round(min(seconds), 5),
        slowest=round(max(seconds), 5),
        seconds_without_loader=round(statistics.median(computed), 5),
        split={name: round(statistics.median(x), 5) for name, x in split.items()},
        loader_share=round(sum(waited) / sum(seconds), 4),
    )
