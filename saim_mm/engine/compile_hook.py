"""torch.compile for the layers of a transformer, and only for them.

Compiling layer by layer takes a fraction of the time that the whole model would: all
layers of a stream share one graph. It leaves what differs from step to step (drawing
orders, data, losses for the log) outside.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..models.layers import transformer_layers
from ..registry import register


def compile_layers(model: nn.Module) -> int:
    """Compiles the transformer layers of a model in place.

    Parameters, their names and the types of the modules stay as they are. Nothing is
    compiled yet: the first call of each layer does that.

    Args:
        model: Any model; SAIM's layers and those of mmpretrain's ViTs are found in it.

    Returns:
        How many layers were found.
    """
    layers = transformer_layers(model)
    for layer in layers:
        for module in layer.modules():
            # mmpretrain's rates come from np.linspace, and torch.compile breaks the
            # graph wherever a NumPy number decides on the way to go.
            if isinstance(getattr(module, "drop_prob", None), np.floating):
                module.drop_prob = float(module.drop_prob)
        # Sizes never change in pretraining; where they do, torch notices.
        if hasattr(layer, "compile"):
            layer.compile()
        else:  # torch 2.1
            layer.forward = torch.compile(layer.forward)  # type: ignore[method-assign]
    return len(layers)


def why_not(device: torch.device) -> str | None:
    """Returns why nothing can be compiled here, or None if it can.

    It compiles a small function, which takes a few seconds: whether there is a working
    compiler for the device is hard to tell in any other way.

    Args:
        device: Where the model is.
    """
    try:
        compiled = torch.compile(lambda x: torch.nn.functional.gelu(x) + 1)
        compiled(torch.ones(8, device=device))
    # Python, torch, Triton, a C++ compiler, the file system: each raises its own.
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@register("hook")
class CompileLayersHook(Hook):
    """Compiles the model's transformer layers before training.

    Logs how long the first step took, which is when torch compiles, and the graph
    breaks, each of which is a detour through Python. Where torch cannot compile, the
    layers stay as they are and a warning says why. Losses change by no more than
    rounding does.

    Args:
        enabled: Whether to do anything; a switch for the command line:
            ``--cfg-options default_hooks.compile.enabled=True``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._first_step = False
        self._since = 0.0

    def before_train(self, runner: Runner) -> None:
        """Compiles, or says why not."""
        if not self.enabled:
            return
        reason = why_not(next(runner.model.parameters()).device)
        if reason is not None:
            runner.logger.warning(f"Training without torch.compile: {reason}")
            return
        count = compile_layers(runner.model)
        if not count:
            runner.logger.warning("torch.compile: the model has no layer that I know.")
            return
        runner.logger.info(f"torch.compile: {count} layers, at the first step.")
        torch._dynamo.utils.counters.clear()
        self._first_step = True

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Starts the clock of the first step."""
        self._since = perf_counter()

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Says what compiling cost."""
        if not self._first_step:
            return
        self._first_step = False
        counters = torch._dynamo.utils.counters
        breaks = dict(counters["graph_break"])
        runner.logger.info(
            f"torch.compile: the first step took {perf_counter() - self._since:.1f} s; "
            f"{counters['stats']['unique_graphs']} graphs, graph breaks: "
            f"{breaks or 'none'}."
        )
