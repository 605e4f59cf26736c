"""A report that is written again and again while its runs go on."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from .report import read_runs, write_page
from .run_state import run_state


class LiveReport:
    """Writes the page of runs that go on, at most so often.

    Args:
        work_dirs: The work dirs; nothing need be logged there yet.
        path: The page.
        interval: Least seconds between two pages.
        max_share: Largest share of the time that writing may take, from the second page
            on: what the first one takes is not known before.

    Raises:
        ValueError: If an option is out of range.
    """

    def __init__(
        self,
        work_dirs: Sequence[str | Path],
        path: str | Path,
        interval: float,
        max_share: float,
    ) -> None:
        if not interval > 0:
            raise ValueError(
                f"interval={interval!r} must be a positive number of seconds between "
                "two pages, such as 60"
            )
        if not 0 < max_share <= 1:
            raise ValueError(
                f"max_share={max_share!r} must be greater than 0 and at most 1; 0.02 "
                "spends at most 2 % of the time"
            )
        self.work_dirs, self.path = list(work_dirs), Path(path)
        self.interval, self.max_share = interval, max_share
        self._pause = self._next = 0.0

    def pause(self) -> float:
        """Seconds until the next page is due, at least 0."""
        return max(0.0, self._next - time.monotonic())

    def write(self, last: bool = False) -> bool:
        """Writes the page as things are now.

        Args:
            last: Whether no other one will come; else a browser loads it again.

        Returns:
            Whether all runs have ended.

        Raises:
            OSError: If it cannot be written.
        """
        begin = time.monotonic()
        try:
            runs = read_runs(self.work_dirs)
            ended = all(run_state(run, time.time()).ended for run in runs)
            refresh = None if last or ended else math.ceil(max(5, self._pause))
            write_page(runs, self.path, refresh=refresh)
        finally:
            now = time.monotonic()
            self._pause = max(self.interval, (now - begin) / self.max_share)
            self._next = now + self._pause
        return ended
