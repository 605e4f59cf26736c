"""Losses for the log without a halt of the GPU at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from ..registry import register

#: Iterations that the message hub remembers of each logged value. MMEngine remembers a
#: million, and copies all of them whenever it adds one: milliseconds at every step, and
#: megabytes in every checkpoint, after some hundred thousand.
HISTORY = 10_000


@register("hook")
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, except that losses may stay on the GPU.

    It reads all of them at once, right before they are logged, saved, or the epoch
    ends, so that the host waits for the GPU only there; every one is logged as before.

    Of every logged value the last 10,000 iterations are remembered, and windows of
    ``LogProcessor`` reach no further back.

    It takes the place of MMEngine's: ``default_hooks = dict(runtime_info=dict(
    type="DeferredRuntimeInfoHook"))``. A hook that reads a loss from the message hub
    between two logs would find an old one.
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] = []
        self._intervals: list[int] = []

    def before_train(self, runner: Runner) -> None:
        """Finds out when losses are logged."""
        super().before_train(runner)
        self._pending.clear()
        self._intervals = [
            hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)
        ]

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict[str, Any] | Sequence | None = None,
    ) -> None:
        """Keeps the losses of a step, and hands over all if it is time."""
        outputs = outputs if isinstance(outputs, dict) else {}
        wait = any(map(self._must_wait, outputs.values()))
        self._pending.append(
            {k: v.detach() if isinstance(v, Tensor) else v for k, v in outputs.items()}
        )
        if (
            not wait
            or any(self.every_n_inner_iters(batch_idx, n) for n in self._intervals)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
            or self.is_last_train_iter(runner)
        ):
            self.hand_over(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Lets no loss be missing from the history that is saved."""
        if self._pending:
            self.hand_over(runner)
            checkpoint["message_hub"] = runner.message_hub.state_dict()

    def _must_wait(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type != "cpu"

    def hand_over(self, runner: Runner) -> None:
        """Reads all losses that are kept; the message hub has them then."""
        values = [value for outputs in self._pending for value in outputs.values()]
        # One copy for all; every float is exact as a double.
        tensors = [v.double().squeeze() for v in values if isinstance(v, Tensor)]
        read = iter(torch.stack(tensors).tolist() if tensors else ())
        for outputs in self._pending:
            for name, value in outputs.items():
                number = next(read) if isinstance(value, Tensor) else value
                runner.message_hub.update_scalar(f"train/{name}", number)
        self._pending.clear()
        for history in runner.message_hub.log_scalars.values():
            history.max_length = HISTORY
