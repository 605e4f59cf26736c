"""A log, and a console, that show that the run lives."""

from __future__ import annotations

import io
import logging
import sys
import time
from contextlib import closing, redirect_stdout
from datetime import timedelta
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from .. import launch
from ..registry import register
from ..reliability.runtime_info_hook import DeferredRuntimeInfoHook
from ..utils.progress_line import ProgressLine

#: Seconds after which a line is due whatever the interval is. A step may take ten of
#: the minute.
_SILENCE = 50.0


@register("hook")
class LiveLoggerHook(LoggerHook):
    """MMEngine's ``LoggerHook``, which is never silent for a minute, nor too loud.

    Besides what is logged at the interval, the first step and then, if need be, one
    step a minute get a short line. It goes to the log only, not to ``scalars.json``.

    Args:
        seconds_per_line: Least time between two lines in the log. All numbers go to
            ``scalars.json`` at the interval all the same.
        **options: Those of ``LoggerHook``.
    """

    def __init__(self, *, seconds_per_line: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.seconds_per_line = seconds_per_line
        self._last_line = float("-inf")

    def before_train(self, runner: Runner) -> None:
        """Makes a line due at the first step."""
        self._last_line = float("-inf")

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Logs what is due by the interval or by the clock."""
        passed, loader = time.monotonic() - self._last_line, runner.train_dataloader
        due = self.every_n_inner_iters(batch_idx, self.interval) or (
            self.end_of_epoch(loader, batch_idx)
            and (not self.ignore_last or len(loader) <= self.interval)
        )  # by MMEngine's hook
        early = passed < self.seconds_per_line and not self.is_last_train_iter(runner)
        if due and early:
            scalars, _ = runner.log_processor.get_log_after_iter(
                runner, batch_idx, "train"
            )
            runner.visualizer.add_scalars(
                scalars, step=runner.iter + 1, file_path=self.json_log_path
            )
            return
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if not due and passed >= _SILENCE and is_main_process():
            runner.logger.info(describe_step(runner))
            due = True
        if due:
            self._last_line = time.monotonic()


class ProgressHook(Hook):
    """Shows how far a run is on a console, for tools whose log goes elsewhere.

    Args:
        line: Where it is shown.
        what: What is said before the step.
    """

    # Before the rate of the next step is set.
    priority = "BELOW_NORMAL"

    def __init__(self, line: ProgressLine, what: str = "") -> None:
        self.line = line
        self.what = what

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Shows the step, if it is time."""
        if is_main_process() and (self.line.due() or self.is_last_train_iter(runner)):
            self.line.show(self.what + describe_step(runner))


def describe_step(runner: Runner) -> str:
    """The step that was just made, its loss and rate, and the time that is left."""
    for hook in runner.hooks:
        if isinstance(hook, DeferredRuntimeInfoHook):
            hook.hand_over(runner)
    history = runner.message_hub.log_scalars.get("train/loss")
    loss = "" if history is None else f"  loss: {history.current():.4f}"
    rates = [group["lr"] for group in runner.optim_wrapper.param_groups]
    rate = f"  lr: {max(rates):.4e}" if rates else ""
    seconds = runner.message_hub.get_info("eta")  # of IterTimerHook
    left = "" if seconds is None else f"  eta: {timedelta(seconds=int(seconds))}"
    return f"step {runner.iter + 1}/{runner.max_iters}{loss}{rate}{left}"


def quiet_runner(cfg: Config, newest: bool = False, silent: bool = True) -> Runner:
    """Builds a run; what MMEngine says of machine and settings is in the file only.

    Config and ``newest`` are those of :func:`~saim_mm.launch.make_runner`; ``silent``
    lets the console hear only warnings later, too.
    """
    with redirect_stdout(io.StringIO()):
        runner = launch.make_runner(cfg, newest=newest)
    for handler in runner.logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stdout)
            if silent:
                handler.setLevel(logging.WARNING)
    return runner


def shown(runner: Runner, line: ProgressLine) -> closing[ProgressLine]:
    """Shows how far a run is, while it trains; it is a context, which ends the line."""
    runner.register_hook(ProgressHook(line))
    return closing(line)
