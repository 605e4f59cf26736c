"""Signals that must arrive whatever a process is in, and whoever started it is at."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import ClassVar

#: Seconds within which a signal counts as the same one: a process group and torchrun
#: may each hand it on.
_SAME = 2.0
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


def follow_torchrun() -> None:
    """Has Linux send SIGUSR1 when torchrun is killed: its processes would train on.

    Neither SIGTERM, of which a second one ends a process, nor SIGHUP, which ``nohup``
    ignores.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


class SecondSigterm:
    """Ends this process on a second SIGTERM, also where it is stuck in a read.

    Python's handlers wait until the main thread comes back from C code; the byte that
    each signal leaves in a pipe is read here, in a thread. To be made in the main one.

    A process has one such pipe: a new watch takes the place of one that a training
    which ended in an error left behind.
    """

    _current: ClassVar[SecondSigterm | None] = None

    def __init__(self) -> None:
        if SecondSigterm._current is not None:
            SecondSigterm._current.close()
        SecondSigterm._current = self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=self._leave)
        threading.Thread(target=self._watch, name="second SIGTERM", daemon=True).start()

    def close(self) -> None:
        """Ceases to watch, if it has not yet."""
        if self._writer >= 0:
            self._leave()
            os.close(self._writer)
            self._writer = -1

    def _leave(self) -> None:
        """Takes this process off the pipe: a child's signals are not its parent's."""
        current = signal.set_wakeup_fd(-1)
        is_own = current == self._writer >= 0
        signal.set_wakeup_fd(self._before if is_own else current)

    def _watch(self) -> None:
        first = None
        while byte := os.read(self._reader, 1):
            if byte[0] == signal.SIGTERM:
                first = first or time.monotonic()
                if time.monotonic() - first > _SAME:
                    os._exit(128 + signal.SIGTERM)
        os.close(self._reader)
