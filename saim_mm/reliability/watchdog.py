"""A process that is watched, and that watches the others."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection
from types import CodeType

from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MMLogger
from torch.distributed import TCPStore

from .rank_progress import (
    Heartbeat,
    code_location_of,
    is_busy,
    is_waiting,
    stuck_ranks,
)

#: Exit code of a process that gave up because one of them is stuck (EX_UNAVAILABLE).
EXIT_STUCK = 69
#: Longest time in seconds between two beats, and for writing the log.
_INTERVAL, _LOG_SECONDS = 2.0, 3.0
#: Counts the processes in the store.
_ARRIVED = "arrived"
_SILENT = "shows no sign of life"


class Watchdog:
    """Two threads of this process: one tells and hears, one judges.

    Two, as a call to the store may never return: if the first process is stopped.

    Args:
        store: Where all processes leave their beats.
        logger: Of the run.
        patient: The functions that may take any time.
        first: Iterations that were finished before.
        timeout: Seconds that a process may stay where it is.
        silence: Seconds that it may show no sign of life.

    Attributes:
        position: How far this process is, as :class:`Heartbeat` counts; the thread
            that trains sets it.
    """

    def __init__(
        self,
        store: TCPStore,
        logger: MMLogger,
        patient: Collection[CodeType],
        first: int,
        timeout: float,
        silence: float,
    ) -> None:
        self.position = 0
        self._store, self._logger = store, logger
        self._patient, self._first = patient, first
        self._timeout, self._silence = timeout, silence
        self._rank, self._world_size = get_rank(), get_world_size()
        self._interval = min(_INTERVAL, timeout / 5, silence / 5)
        self._main = threading.get_ident()
        self._number, self._since = 0, (0, 0.0)
        # Seconds that this process ran, not counting those for which a scheduler
        # suspended it, and when the store last answered.
        self._clock = self._answered = 0.0
        # By rank, the last beat and when it came; replaced and never changed.
        self._heard: dict[int, tuple[Heartbeat, float]] = {}
        self._stopped = threading.Event()
        self._tell()
        store.add(_ARRIVED, 1)
        self._threads = [
            threading.Thread(target=task, name="watchdog", daemon=True)
            for task in (self._beat, self._judge)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads; the first tells the others that they need not watch."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * self._interval + _LOG_SECONDS)

    def _beat(self) -> None:
        """Says how far this process is; while it stands still, hears of the others."""
        try:
            while not self._stopped.wait(self._interval):
                if self._tell():
                    self._heard = {}
                else:
                    self._listen()
                self._answered = self._clock
            self._store.set(f"{self._rank}", "")
        except RuntimeError:
            # The first process is gone: at the end of training, or for a reason that
            # whoever started it sees.
            self._stopped.set()

    def _tell(self) -> bool:
        """Says how far this process is; returns whether it got on."""
        frame = sys._current_frames()[self._main]
        busy = is_busy(frame, self._patient)
        position, since = self._since
        moved = position != self.position
        if moved or busy:
            position, since = self._since = self.position, self._clock
        self._number += 1
        beat = Heartbeat(
            self._number,
            position,
            self._clock - since,
            busy,
            is_waiting(frame),
            code_location_of(frame),
        )
        self._store.set(f"{self._rank}", beat.encode())
        return moved

    def _listen(self) -> None:
        """Reads the last beat of each process."""
        # One may not be there yet, or not be watched. (`check` came with torch 2.2.)
        if self._store.add(_ARRIVED, 0) < self._world_size:
            return
        names = [f"{rank}" for rank in range(self._world_size)]
        heard = dict(self._heard)
        for rank, text in enumerate(self._store.multi_get(names)):
            if not text:  # it has finished, as all are about to
                self._stopped.set()
                return
            beat = Heartbeat.decode(text)
            if rank not in heard or heard[rank][0].number != beat.number:
                heard[rank] = beat, self._clock
        self._heard = heard

    def _judge(self) -> None:
        """Keeps the clock, and ends this process if one of them is stuck."""
        last = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            self._clock += min(now - last, 2 * self._interval)
            last = now
            if self._is_long_ago(self._answered):
                self._end([0], {}, _SILENT)
            heard = self._heard
            beats = {rank: beat for rank, (beat, _) in heard.items()}
            silent = [rank for rank in heard if self._is_long_ago(heard[rank][1])]
            if silent:
                self._end(silent, beats, _SILENT)
            stuck = stuck_ranks(beats, self._timeout) if beats else []
            if stuck:
                self._end(stuck, beats, f"got no further for {self._timeout:g} s")

    def _is_long_ago(self, instant: float) -> bool:
        return self._clock - instant > self._silence

    def _end(self, stuck: list[int], beats: dict[int, Heartbeat], reason: str) -> None:
        """Ends this process at once; one of those that are not stuck says why."""
        others = [rank for rank in range(self._world_size) if rank not in stuck]
        if self._rank == (others or stuck)[0]:
            # The thread that trains may hold the lock of the log.
            threading.Timer(_LOG_SECONDS, os._exit, [EXIT_STUCK]).start()
            self._logger.error(_explain(stuck, beats, reason, self._first))
        else:
            # When one ends, the others fail in their collectives: let it speak first.
            time.sleep(2 * self._interval + _LOG_SECONDS)
        os._exit(EXIT_STUCK)


def _explain(
    stuck: list[int], beats: dict[int, Heartbeat], reason: str, first: int
) -> str:
    """Names the processes that are stuck, and says where each one is."""
    names = " and ".join(f"rank {rank}" for rank in stuck)
    where = [f"rank {r}: {b.describe(first)}" for r, b in sorted(beats.items())]
    return "\n  ".join(
        [f"{names} {reason}; all processes end (exit code {EXIT_STUCK})", *where]
    )
