"""A folder of its own for every run, which a run that is stopped takes with it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path


class RunFolderError(ValueError):
    """The folder of a run cannot be made; the message is one line."""


@contextlib.contextmanager
def run_folder(work_dir: Path, *stops: type[BaseException]) -> Iterator[Path]:
    """Makes a new folder, named by the time, and removes it if the run is stopped.

    What an unforeseen error leaves stays: the log is needed to understand it.

    Args:
        work_dir: Where the folder is made; made as well if need be.
        stops: Errors, besides Ctrl-C, that leave nothing worth keeping.

    Raises:
        RunFolderError: If it cannot be made, or is there already.
    """
    stopped: tuple[type[BaseException], ...] = (KeyboardInterrupt, *stops)
    folder = work_dir / time.strftime("%Y%m%d_%H%M%S")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunFolderError(
            f"cannot make {str(folder)!r}: {error.strerror}; give another work dir"
        ) from None
    try:
        yield folder
    except stopped:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # results of earlier runs
            work_dir.rmdir()
        raise
