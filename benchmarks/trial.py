"""A model that trains step by step, here or in a process of its own, and its clock."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import set_random_seed, turn_on_activation_checkpointing
from torch import Tensor

from saim_mm.weights import install_safe_loader
from saim_mm.weights.load_model import build_model

from .clock import Clock, Mark, process_peak_mib


def training_loss(model: BaseModel, data: dict[str, Any]) -> Tensor:
    """The loss as it is trained with."""
    return model.parse_losses(model(**data, mode="loss"))[0]


@dataclass
class Trial:
    """A model, its optimiser and a way to compute its loss.

    Args:
        model: On its device, in training mode.
        optim_wrapper: Updates it.
        compute: Model and preprocessed batch -> loss.
        autocast: What the forward pass runs in, beside the wrapper's own context.

    Attributes:
        marks: Of each step: begin, loss, gradients, end.
        losses: Of each step.
    """

    model: BaseModel
    optim_wrapper: OptimWrapper
    compute: Callable[[Any, dict[str, Any]], Tensor] = training_loss
    autocast: AbstractContextManager = field(default_factory=nullcontext)
    marks: list[tuple[Mark, ...]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    @classmethod
    def build(cls, cfg: Config, device: torch.device) -> Trial:
        """The model and the optimiser of a config, as a run would begin."""
        install_safe_loader()  # a config may name pretrained weights
        model = build_model(cfg, init_weights=True).to(device).train()
        if cfg.get("activation_checkpointing"):
            turn_on_activation_checkpointing(model, cfg.activation_checkpointing)
        return cls(model, build_optim_wrapper(model, cfg.optim_wrapper))

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The loss of a batch as the loader gives it."""
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


class Step(NamedTuple):
    """What a step took, its loss, and the most memory so far."""

    seconds: float
    loss: float
    mib: float


class OwnProcess:
    """A trial in a process of its own: none profits from what others allocated.

    Args:
        prepare: Returns the trial, and the batch of all its steps. A function of a
            module, so that the process finds it; so are its arguments.
        arguments: Of ``prepare``.
    """

    def __init__(
        self, prepare: Callable[..., tuple[Trial, Any]], *arguments: Any
    ) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(1)
        self.built_mib: float = self._pool.apply(_enter, (prepare, arguments))

    def step(self) -> Step:
        """Trains a step, and waits for its end."""
        return self._pool.apply(_step)

    def stop(self) -> None:
        """Ends the process."""
        self._pool.terminate()


#: The trial of a process that is a trial's own, and its batch.
_own: tuple[Trial, Any]


def _enter(prepare: Callable[..., tuple[Trial, Any]], arguments: tuple) -> float:
    global _own
    _own = prepare(*arguments)
    return process_peak_mib(_device(_own[0]))


def _step() -> Step:
    trial, batch = _own
    clock = Clock(_device(trial))
    set_random_seed(0)  # the same drop paths and mixtures in all trials
    trial.step(batch, clock)
    clock.wait()
    seconds = clock.seconds(trial.marks[-1][0], trial.marks[-1][-1])
    mib = process_peak_mib(_device(trial))
    return Step(seconds, trial.losses[-1].item(), mib)


def _device(trial: Trial) -> torch.device:
    return next(trial.model.parameters()).device
