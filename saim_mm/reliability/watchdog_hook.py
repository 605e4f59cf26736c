"""Ends a run of several processes, and says why, when one of them is stuck."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
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
#: Longest time in seconds between two beats, for connecting, and for writing the log.
_INTERVAL, _CONNECT, _LOG = 2.0, 30.0, 3.0
#: Counts the processes in the store.
_ARRIVED = "arrived"
_SILENT = "shows no sign of life"


@register("hook")
class WatchdogHook(Hook):
    """Ends all processes of a run with exit code 69 if one of them is stuck.

    When a process hangs all others wait for it, without a word and for as long as the
    backend allows: 10 minutes with NCCL, 30 with gloo. Here each process has a thread
    that tells the others how far it is. If training stands still the log says which
    process it is and where in the code, and all end, so that torchrun can start them
    anew. Does nothing in a single process.

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
        self._watchdog: _Watchdog | None = None

    def before_train(self, runner: Runner) -> None:
        """Begins to watch."""
        self._watchdog = None
        if get_world_size() == 1:
            return
        store = _connect(runner)
        if store is not None:
            self._watchdog = _Watchdog(runner, store, self.timeout, self.silence)

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
    ) -> None:
        """Notes that a batch has come."""
        if self._watchdog is not None:
            self._watchdog.position += 1

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
        """Notes that a step is made."""
        if self._watchdog is not None:
            self._watchdog.position += 1

    def after_run(self, runner: Runner) -> None:
        """Ceases to watch, also where a signal ended the run."""
        if self._watchdog is not None:
            self._watchdog.stop()


def _connect(runner: Runner) -> TCPStore | None:
    """Joins a store that the first process keeps; ``None`` if it cannot be reached."""
    # Of the machine with the first process, by all launchers.
    host = os.environ.get("MASTER_ADDR") or socket.gethostname()
    port, store = [0], None
    try:
        if get_rank() == 0:
            store = _open(host, 0, is_master=True)
            port = [store.port]
    except RuntimeError as error:
        runner.logger.warning(f"no process is watched: {host} is unreachable: {error}")
    broadcast_object_list(port)
    try:
        if get_rank() > 0 and port[0]:
            store = _open(host, port[0], is_master=False)
    except RuntimeError as error:
        # Of other processes than the first, errors alone are logged.
        runner.logger.error(
            f"no process is watched: rank {get_rank()} does not reach rank 0: {error}"
        )
    return store


def _open(host: str, port: int, is_master: bool) -> TCPStore:
    limit = timedelta(seconds=_CONNECT)
    return TCPStore(
        host, port, is_master=is_master, timeout=limit, wait_for_workers=False
    )


class _Watchdog:
    """The threads of one process: one talks to the others, one watches and judges.

    Two, as a call to the store may never return: if the first process is stopped.
    """

    def __init__(
        self, runner: Runner, store: TCPStore, timeout: float, silence: float
    ) -> None:
        self.position = 0
        self.timeout, self.silence = timeout, silence
        self.rank, self.world_size = get_rank(), get_world_size()
        self._logger = runner.logger
        self._first = runner.iter
        self._patient = patient_code(runner)
        self._store = store
        self._main = threading.get_ident()
        self._interval = min(_INTERVAL, timeout / 5, silence / 5)
        self._stopped = threading.Event()
        #: Seconds that this process ran: a scheduler may suspend a whole job.
        self._clock = 0.0
        self._number, self._since = 0, (0, self._clock)
        #: By rank: the last beat, and when it came.
        self._heard: dict[int, tuple[Heartbeat, float]] = {}
        self._answered = self._clock
        self._tell()
        self._store.add(_ARRIVED, 1)
        self._threads = [
            threading.Thread(target=task, name="watchdog", daemon=True)
            for task in (self._talk, self._watch)
        ]
        for thread in self._threads:
            thread.start()
        # Python aborts if it ends while a thread is inside the store.
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the threads; the first tells the others that they need not watch."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * self._interval + _LOG)
        atexit.unregister(self.stop)

    def _talk(self) -> None:
        """Says how far this process is, and asks the others while it stands still."""
        try:
            while not self._stopped.wait(self._interval):
                if self._tell():
                    self._heard = {}
                else:
                    self._listen()
                self._answered = self._clock
            self._store.set(f"{self.rank}", "")
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
            self._since = (self.position, self._clock)
            position, since = self._since
        self._number += 1
        beat = Heartbeat(
            self._number,
            position,
            self._clock - since,
            busy,
            is_waiting(frame),
            code_location_of(frame),
        )
        self._store.set(f"{self.rank}", beat.encode())
        return moved

    def _listen(self) -> None:
        """Reads the last beat of each process."""
        # One may not be there yet, or not be watched. (`check` came with torch 2.2.)
        if self._store.add(_ARRIVED, 0) < self.world_size:
            return
        names = [f"{rank}" for rank in range(self.world_size)]
        heard = dict(self._heard)
        for rank, text in enumerate(self._store.multi_get(names)):
            if not text:  # it has finished, as all are about to
                self._stopped.set()
                return
            beat = Heartbeat.decode(text)
            if rank not in heard or heard[rank][0].number != beat.number:
                heard[rank] = beat, self._clock
        self._heard = heard

    def _watch(self) -> None:
        """Ends this process if one of them is stuck."""
        last = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            self._clock += min(now - last, 2 * self._interval)
            last = now
            if self._clock - self._answered > self.silence:
                self._end([0], {}, _SILENT)
            heard = self._heard
            beats = {rank: beat for rank, (beat, _) in heard.items()}
            silent = [
                rank
                for rank, (_, at) in heard.items()
                if self._clock - at > self.silence
            ]
            if silent:
                self._end(silent, beats, _SILENT)
            stuck = stuck_ranks(beats, self.timeout) if beats else []
            if stuck:
                self._end(stuck, beats, f"got no further for {self.timeout:g} s")

    def _end(self, stuck: list[int], beats: dict[int, Heartbeat], reason: str) -> None:
        """Ends this process at once; one of those that are not stuck says why."""
        others = [rank for rank in range(self.world_size) if rank not in stuck]
        if self.rank == (others or stuck)[0]:
            # The thread that trains may hold the lock of the log.
            threading.Timer(_LOG, os._exit, [EXIT_STUCK]).start()
            self._logger.error(_explain(stuck, beats, reason, self._first))
        else:
            # When one ends, the others fail in their collectives: let it speak first.
            time.sleep(2 * self._interval + _LOG)
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
