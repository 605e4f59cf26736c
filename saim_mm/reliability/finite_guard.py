"""Lets no optimiser step on a loss or gradient that is not a finite number.

The test is one look at every gradient after they were summed over all processes, so all
processes come to the same answer without another message; only processes that keep a
part of the gradients each have to ask the others. The answer stays on the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor

from .sharding import is_sharded, own_part


def all_finite(optimizer: torch.optim.Optimizer) -> Tensor:
    """Returns whether every gradient is finite, a boolean scalar on their device.

    One whose norm is more than float32 can hold, 1.8e19, counts as not finite: there is
    nothing to be learnt from it.
    """
    found = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if not found:
        return torch.tensor(True)
    gradients = [own_part(gradient) for gradient in found]
    # Of all ways to look at every number this is the fastest: on a CPU a twentieth of
    # torch.isfinite, on a GPU a few kernels for all tensors together.
    norms = torch._foreach_norm(gradients, 2)
    finite = torch.isfinite(torch.stack([norm.float() for norm in norms])).all()
    if is_sharded(found[0]):  # the others saw other parts
        answer = finite.int()
        torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MIN)
        finite = answer.bool()
    return finite


def poison_unless_finite(loss: Tensor) -> Tensor:
    """Multiplies a loss by 1, or by NaN if it is not finite.

    An infinite loss can have finite gradients, on one process alone. NaN reaches every
    gradient, and from there, as they are summed, every process.
    """
    factor = torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)
    return loss * factor


class AsyncFlag:
    """A boolean scalar of the device, on its way to the host.

    Attributes:
        deferred: Whether reading it at once would make the host wait.
    """

    def __init__(self, value: Tensor) -> None:
        self.deferred = value.is_cuda
        self._value = value
        if self.deferred:
            self._value = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> bool:
        """Waits for the value, if it is not there yet, and returns it."""
        if self.deferred:
            self._arrived.synchronize()
        return bool(self._value)


class FiniteGuard:
    """Stands between an optimiser wrapper and its optimiser.

    On a CPU, and with an optimiser that is not fused, the answer is read and decides.
    With a fused one on a GPU the answer is handed to the optimiser's kernel, which then
    leaves all as it is, and the host does not wait. A gradient scaler (fp16) makes the
    same test and skips by itself.

    Args:
        wrapper: Has one optimiser; its ``scale_loss`` and ``step`` are replaced.

    Raises:
        ValueError: If it is another kind of wrapper.
    """

    def __init__(self, wrapper: Any) -> None:
        if not isinstance(wrapper, OptimWrapper):
            raise ValueError(
                f"FiniteGuardHook watches one optimiser, and optim_wrapper is a "
                f"{type(wrapper).__name__}; use an OptimWrapper, or leave the hook out "
                "of default_hooks"
            )
        self.wrapper = wrapper
        self._answer: AsyncFlag | None = None
        self._scale_loss: Callable[[Tensor], Tensor] = wrapper.scale_loss
        self._step: Callable[..., None] = wrapper.step
        wrapper.scale_loss = self._guarded_loss
        wrapper.step = self._guarded_step

    def remove(self) -> None:
        """Puts the wrapper back as it was."""
        del self.wrapper.scale_loss, self.wrapper.step

    def take_answer(self) -> AsyncFlag | None:
        """Returns whether the gradients of the last step were finite, once."""
        answer, self._answer = self._answer, None
        return answer

    def _guarded_loss(self, loss: Tensor) -> Tensor:
        return poison_unless_finite(self._scale_loss(loss))

    def _guarded_step(self, **kwargs: Any) -> None:
        optimizer = self.wrapper.optimizer
        finite = all_finite(optimizer)
        self._answer = AsyncFlag(finite)
        if isinstance(self.wrapper, AmpOptimWrapper):
            self._step(**kwargs)
        elif finite.is_cuda and all(g.get("fused") for g in optimizer.param_groups):
            # The attributes by which torch's own gradient scaler speaks to it.
            optimizer.grad_scale = None
            optimizer.found_inf = (~finite).float()
            self._step(**kwargs)
            del optimizer.grad_scale, optimizer.found_inf
        elif finite:
            self._step(**kwargs)
