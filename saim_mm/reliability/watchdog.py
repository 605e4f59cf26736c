"""The two threads of a process that is watched: one tells and hears, one judges.

Two, as a call to the store may never return: if the first process is stopped.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from types import CodeType

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
#: Longest time in seconds for writing the log.
LOG_SECONDS = 3.0
#: Counts the processes in the store.
_ARRIVED = "arrived"
_SILENT = "shows no sign of life"


@dataclass
class Watch:
    """What the threads of one process share.

    Attributes:
        rank: Of this process.
        world_size: Number of processes.
        interval: Seconds between two beats.
        position: How far this process is, as :class:`Heartbeat` counts; the thread
            that trains sets it.
        clock: Seconds that this process ran, not counting those for which a scheduler
            suspended it; :class:`Judge` sets it.
        heard: By rank, the last beat and when it came; :class:`Heartbeats` sets it,
            and the next one, too.
        answered: When the store last answered.
        stopped: Ends both.
    """

    rank: int
    world_size: int
    interval: float
    position: int = 0
    clock: float = 0.0
    heard: dict[int, tuple[Heartbeat, float]] = field(default_factory=dict)
    answered: float = 0.0
    stopped: threading.Event = field(default_factory=threading.Event)


class Heartbeats:
    """Says how far this process is, and hears of the others while it stands still.

    Args:
        watch: What is shared.
        store: Where all processes leave their beats.
        patient: The functions that may take any time.
    """

    def __init__(
        self, watch: Watch, store: TCPStore, patient: Collection[CodeType]
    ) -> None:
        self._watch, self._store, self._patient = watch, store, patient
        self._main = threading.get_ident()
        self._number, self._since = 0, (0, watch.clock)
        self._tell()
        self._store.add(_ARRIVED, 1)

    def run(self) -> None:
        """Talks to the store until the watch is stopped, or the store is gone."""
        watch = self._watch
        try:
            while not watch.stopped.wait(watch.interval):
                if self._tell():
                    watch.heard = {}
                else:
                    self._listen()
                watch.answered = watch.clock
            self._store.set(f"{watch.rank}", "")
        except RuntimeError:
            # The first process is gone: at the end of training, or for a reason that
            # whoever started it sees.
            watch.stopped.set()

    def _tell(self) -> bool:
        """Says how far this process is; returns whether it got on."""
        frame = sys._current_frames()[self._main]
        busy = is_busy(frame, self._patient)
        position, since = self._since
        moved = position != self._watch.position
        if moved or busy:
            position, since = self._watch.position, self._watch.clock
            self._since = position, since
        self._number += 1
        beat = Heartbeat(
            self._number,
            position,
            self._watch.clock - since,
            busy,
            is_waiting(frame),
            code_location_of(frame),
        )
        self._store.set(f"{self._watch.rank}", beat.encode())
        return moved

    def _listen(self) -> None:
        """Reads the last beat of each process."""
        watch = self._watch
        # One may not be there yet, or not be watched. (`check` came with torch 2.2.)
        if self._store.add(_ARRIVED, 0) < watch.world_size:
            return
        names = [f"{rank}" for rank in range(watch.world_size)]
        heard = dict(watch.heard)
        for rank, text in enumerate(self._store.multi_get(names)):
            if not text:  # it has finished, as all are about to
                watch.stopped.set()
                return
            beat = Heartbeat.decode(text)
            if rank not in heard or heard[rank][0].number != beat.number:
                heard[rank] = beat, watch.clock
        watch.heard = heard


class Judge:
    """Keeps the clock, and ends this process if one of them is stuck.

    Args:
        watch: What is shared.
        logger: Of the run.
        first: Iterations that were finished before.
        timeout: Seconds that a process may stay where it is.
        silence: Seconds that it may show no sign of life.
    """

    def __init__(
        self,
        watch: Watch,
        logger: MMLogger,
        first: int,
        timeout: float,
        silence: float,
    ) -> None:
        self._watch, self._logger, self._first = watch, logger, first
        self._timeout, self._silence = timeout, silence

    def run(self) -> None:
        """Judges until the watch is stopped."""
        watch, last = self._watch, time.monotonic()
        while not watch.stopped.wait(watch.interval):
            now = time.monotonic()
            watch.clock += min(now - last, 2 * watch.interval)
            last = now
            self._judge()

    def _judge(self) -> None:
        watch = self._watch
        if watch.clock - watch.answered > self._silence:
            self._end([0], {}, _SILENT)
        heard = watch.heard
        beats = {rank: beat for rank, (beat, _) in heard.items()}
        silent = [
            rank for rank, (_, at) in heard.items() if watch.clock - at > self._silence
        ]
        if silent:
            self._end(silent, beats, _SILENT)
        stuck = stuck_ranks(beats, self._timeout) if beats else []
        if stuck:
            self._end(stuck, beats, f"got no further for {self._timeout:g} s")

    def _end(self, stuck: list[int], beats: dict[int, Heartbeat], reason: str) -> None:
        """Ends this process at once; one of those that are not stuck says why."""
        watch = self._watch
        others = [rank for rank in range(watch.world_size) if rank not in stuck]
        if watch.rank == (others or stuck)[0]:
            # The thread that trains may hold the lock of the log.
            threading.Timer(LOG_SECONDS, os._exit, [EXIT_STUCK]).start()
            self._logger.error(_explain(stuck, beats, reason, self._first))
        else:
            # When one ends, the others fail in their collectives: let it speak first.
            time.sleep(2 * watch.interval + LOG_SECONDS)
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
