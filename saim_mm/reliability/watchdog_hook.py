"""Ends a run of several processes, and says why, when one of them is stuck."""

from __future__ import annotations

import atexit
import os
import socket
from datetime import timedelta
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.distributed import TCPStore

from ..registry import register
from .rank_progress import patient_code
from .watchdog import Watchdog

#: Longest time for connecting.
_CONNECT = timedelta(seconds=30)


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
        self._watch: Watchdog | None = None

    def before_train(self, runner: Runner) -> None:
        """Begins to watch."""
        self._watch = None
        store = _connect(runner) if get_world_size() > 1 else None
        if store is not None:
            self._watch = Watchdog(
                store,
                runner.logger,
                patient_code(runner),
                runner.iter,
                self.timeout,
                self.silence,
            )
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
    return TCPStore(
        host, port, is_master=is_master, timeout=_CONNECT, wait_for_workers=False
    )
