"""How far a verb is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..utils.progress_line import ProgressLine


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be called with how many are done, and of how many.

    It is on stderr, as results are on stdout.
    """
    if not sys.stderr.isatty():
        line = ProgressLine(sys.stderr)

        def tell(done: int, total: int) -> None:
            if line.due() or done == total:
                line.show(f"{what}: {done} of {total}")

        yield tell
        return

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    bars = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    with bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
