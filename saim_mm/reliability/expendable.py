"""Logs and records: what a run writes and can do without. Weights are none of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from logging import FileHandler, Logger
from typing import Any

from mmengine.runner import Runner

_VISUALIZES = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars")


def attempt(
    logger: Logger, what: Any, write: Callable[..., Any], /, *args: Any, **options: Any
) -> bool:
    """Calls ``write`` with what follows it, or says that ``what`` is not written.

    MMEngine's logger says the same only once. Returns whether it is written.
    """
    try:
        write(*args, **options)
    except OSError as error:
        _warn(logger, what, error)
        return False
    return True


def let_logs_fail(runner: Runner) -> None:
    """Lets a run go on when its log, scalars or pictures cannot be written."""
    expendably = partial(attempt, runner.logger, "scalars and pictures")
    for backend in runner.visualizer._vis_backends.values():
        for name in _VISUALIZES:
            setattr(backend, name, partial(expendably, getattr(backend, name)))
    for handler in runner.logger.handlers:
        if isinstance(handler, FileHandler):
            # It would print a traceback for each line.
            handler.handleError = lambda record: _warn(  # type: ignore[method-assign]
                runner.logger, "the log", sys.exc_info()[1]
            )


def _warn(logger: Logger, what: Any, error: Any) -> None:
    reason = getattr(error, "strerror", None) or error
    logger.warning(f"{what} could not be written: {reason}. The run goes on.")
