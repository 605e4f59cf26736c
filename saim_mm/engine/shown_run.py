"""A run whose console shows how far it is; the rest is in the log's file."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from mmengine.config import Config
from mmengine.runner import Runner

from .. import launch
from ..utils.progress_line import ProgressLine
from .logger_hook import ProgressHook


def quiet_runner(cfg: Config, newest: bool = False, silent: bool = True) -> Runner:
    """Builds a run; what MMEngine says of machine and settings is in the file only.

    Args:
        cfg: As for :func:`~saim_mm.launch.make_runner`.
        newest: As for :func:`~saim_mm.launch.make_runner`.
        silent: Whether the console hears only warnings later, too.
    """
    with redirect_stdout(io.StringIO()):
        runner = launch.make_runner(cfg, newest=newest)
    for handler in runner.logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setStream(sys.stdout)
            if silent:
                handler.setLevel(logging.WARNING)
    return runner


@contextmanager
def shown(runner: Runner, line: ProgressLine) -> Iterator[None]:
    """Shows how far a run is, while it trains."""
    runner.register_hook(ProgressHook(line))
    try:
        yield
    finally:
        line.close()
