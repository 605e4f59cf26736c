"""A page of the run in its work dir, while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import register
from ..reliability.expendable import attempt
from ..utils.model_state import random_state_kept

PAGE = "report.html"


@register("hook")
class ReportHook(Hook):
    """Keeps ``report.html`` in the work dir up to date, for a browser to look at.

    It is the page of ``saim-mm report``: how far the run is, curves, pictures and
    warnings. It is there as soon as training begins, and a browser loads it again by
    itself until the run has ended.

    It leaves the training as it is: with and without the hook the losses are the same,
    bit by bit. The main process writes and the others wait, so it measures what a page
    takes and writes fewer rather than take more than ``max_share`` of the time. A page
    that cannot be written costs a warning and no run.

    Args:
        interval: Least seconds between two pages.
        max_share: Largest share of the time, in (0, 1], from the second page on.

    Raises:
        ValueError: If an option is out of range.
    """

    # After those that log and save, before those that measure or end the run.
    priority = "VERY_LOW"

    def __init__(self, interval: float = 30.0, max_share: float = 0.02) -> None:
        # Here, as matplotlib need not be imported where no page is wanted.
        from ..visualization import LiveReport

        self._report = LiveReport([], PAGE, interval, max_share)
        self._on = False

    def before_train(self, runner: Runner) -> None:
        """Writes the first page, without curves."""
        self._on = is_main_process()
        self._report.work_dirs = [runner.work_dir]
        self._report.path = Path(runner.work_dir, PAGE)
        self._write(runner)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Writes a page if it is time, and there is time."""
        if self._on and not self._report.pause():
            self._write(runner)

    def after_run(self, runner: Runner) -> None:
        """Writes the last page, also where a signal ended the run."""
        self._write(runner, last=True)

    def _write(self, runner: Runner, last: bool = False) -> None:
        if not self._on:
            return
        page = self._report.path
        try:
            with random_state_kept(cuda=False):
                attempt(runner.logger, page, lambda: self._report.write(last))
        except Exception as error:  # a page is worth no run, whatever is wrong with it
            self._on = False
            runner.logger.warning(f"{page} is no longer written: {error!r}")
