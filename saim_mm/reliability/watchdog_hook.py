"""Ends a run of several processes, and says why, when one of them is stuck."""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from typing import Any

from mmengine.dist import broadcast_object_list, get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed import TCPStore

from ..registry import register
from .rank_progress import (
    Heartbeat,
    code_location_of,
    is_busy,
    is_waiting,
    patient_code,
    stuck_ranks,
)

#: Exit code of a process that gave up because one of them is stuck (EX_UNAVAILABLE).
EXIT_STUCK = 69
#: Longest time for connecting.
_CONNECT = timedelta(seconds=30)
#: Longest time in seconds between two beats, and for writing the log.
_INTERVAL, _LOG_SECONDS = 2.0, 3.0
#: Counts the processes in the store.
_ARRIVED = "arrived"
_SILENT = "shows no sign of life"


@register("hook")
class WatchdogHook(Hook):
    """Ends all processes of a run with exit code 69 if one of them is stuck.

    Each process has a thread that tells the others how far it is. If training stands
    still the log says which process it is and where in the code, and all end, so that
    torchrun can start them anew. Does nothing in a single process.

    Hooks, validation, compiling and the first iteration may take any time. A step
    costs two additions; the rest happens in the threads, over a connection of their
    own.

    Args:
        timeout: Seconds that loading a batch, or a step, may take.
        silence: Seconds that a process may show no sign of life, whatever it does:
            one that is stopped, say, or whose machine is gone.

    Raises:
        ValueError: If one of them is not positive.
    """

    # First, so that what other hooks do does not count as the step.
    priority = "VERY_HIGH"

    def __init__(self, timeout: float = 50.0, silence: float = 20.0) -> None:
        if not (timeout > 0 and silence > 0):
            raise ValueError(
                f"timeout={timeout} and silence={silence} are seconds and must be "
                "positive; 50 and 20 are the defaults. To watch nothing leave the "
                "hook out."
            )
        self.timeout = timeout
        self.silence = silence
        self._watch: _Watchdog | None = None

    def before_train(self, runner: Runner) -> None:
        """Begins to watch."""
        self._watch = None
        store = _connect(runner)
        if store is not None:
            self._watch = _Watchdog(store, runner, self.timeout, self.silence)
            # Python aborts if it ends while a thread is inside the store.
            atexit.register(self._watch.stop)

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Notes that a batch has come."""
        if self._watch is not None:
            self._watch.position += 1

    #: Notes that a step is made.
    after_train_iter = before_train_iter

    def after_run(self, runner: Runner) -> None:
        """Ceases to watch, also where a signal ended the run."""
        if self._watch is not None:
            self._watch.stop()
            atexit.unregister(self._watch.stop)


class _Watchdog:
    """Two threads of this process: one tells and hears, one judges.

    Two, as a call to the store may never return: if the first process is stopped.
    ``position`` is how far this process is, as :class:`Heartbeat` counts; the thread
    that trains sets it.
    """

    def __init__(
        self, store: TCPStore, runner: Runner, timeout: float, silence: float
    ) -> None:
        self.position = 0
        self._store, self._logger = store, runner.logger
        self._patient, self._first = patient_code(runner), runner.iter
        self._timeout, self._silence = timeout, silence
        self._rank, self._world_size = get_dist_info()
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
        self._store.set(f"{self._rank}", json.dumps(beat))
        return moved

    def _listen(self) -> None:
        # One may not be there yet, or not be watched. (`check` came with torch 2.2.)
        if self._store.add(_ARRIVED, 0) < self._world_size:
            return
        names = [f"{rank}" for rank in range(self._world_size)]
        heard = dict(self._heard)
        for rank, text in enumerate(self._store.multi_get(names)):
            if not text:  # it has finished, as all are about to
                self._stopped.set()
                return
            beat = Heartbeat(*json.loads(text))
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
            names = " and ".join(f"rank {rank}" for rank in stuck)
            lines = [f"{names} {reason}; all processes end (exit code {EXIT_STUCK})"]
            for rank, beat in sorted(beats.items()):
                lines.append(f"rank {rank}: {beat.describe(self._first)}")
            self._logger.error("\n  ".join(lines))
        else:
            # When one ends, the others fail in their collectives: let it speak first.
            time.sleep(2 * self._interval + _LOG_SECONDS)
        os._exit(EXIT_STUCK)


def _connect(runner: Runner) -> TCPStore | None:
    """Joins a store that the first process keeps; ``None`` if it cannot be reached."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return None
    # Of the machine with the first process, by all launchers.
    host = os.environ.get("MASTER_ADDR") or socket.gethostname()
    options: Any = dict(is_master=not rank, timeout=_CONNECT, wait_for_workers=False)
    port, store = [0], None
    try:
        if rank == 0:
            store = TCPStore(host, 0, **options)
            port = [store.port]
    except RuntimeError as error:
        runner.logger.warning(f"no process is watched: {host} is unreachable: {error}")
    broadcast_object_list(port)
    try:
        if rank > 0 and port[0]:
            store = TCPStore(host, port[0], **options)
    except RuntimeError as error:
        # Of other processes than the first, errors alone are logged.
        runner.logger.error(
            f"no process is watched: rank {rank} does not reach rank 0: {error}"
        )
    return store
