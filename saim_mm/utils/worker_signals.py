"""Data workers that leave signals to the process they work for.

Ctrl-C and schedulers signal whole process groups. A worker that dies of it takes the
step with it that its parent wanted to finish; one that ignores everything could not be
stopped by its parent any more, and would outlive it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import context, process
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

#: What a whole process group gets before it is killed.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: How often a worker looks whether its parent is still there, in seconds.
_LOOK = 1.0


class _ShieldedProcess(process.BaseProcess):
    """Starts with signals blocked, so that none can come too early, and stays so."""

    _parent_pid: int

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        parent = (self._parent_pid,)
        threading.Thread(target=_follow_parent, args=parent, daemon=True).start()
        super().run()


def _follow_parent(parent: int) -> None:
    """Ends this process when its parent says so with SIGTERM, or is gone."""
    told = (signal.SIGTERM, parent)
    while os.getppid() == parent:
        received = signal.sigtimedwait(SIGNALS, _LOOK)
        if received is not None and (received.si_signo, received.si_pid) == told:
            break
    os._exit(0)


class _ForkProcess(_ShieldedProcess, context.ForkProcess):
    pass


class _SpawnProcess(_ShieldedProcess, context.SpawnProcess):
    pass


_PROCESSES: dict[str, Any] = {"fork": _ForkProcess, "spawn": _SpawnProcess}


def end_workers() -> None:
    """Ends the shielded workers of this process, whatever they are at.

    A loader that is given up would wait for each of them, up to five seconds.
    """
    for child in multiprocessing.active_children():
        if isinstance(child, _ShieldedProcess):
            child.terminate()


def shield_workers(loader: DataLoader) -> None:
    """Makes the workers that a loader will start leave signals to their parent.

    Does nothing where workers come from a fork server, and on systems that cannot tell
    who sent a signal (macOS).
    """
    if not loader.num_workers:
        return
    current: Any = loader.multiprocessing_context or multiprocessing.get_context()
    process = _PROCESSES.get(current.get_start_method())
    if process is not None and hasattr(signal, "sigtimedwait"):
        shielded = type(current)()
        shielded.Process = process
        loader.multiprocessing_context = shielded


def shield_loop(loop: Any) -> None:
    """Does so for the loader of a loop of MMEngine, or ``None``."""
    loader = getattr(loop, "dataloader", None)
    if not isinstance(loader, DataLoader):
        return
    shield_workers(loader)
    # mmengine 0.10.7 has begun to load by now, with workers that listen.
    reader: Any = getattr(loop, "dataloader_iterator", None)
    if isinstance(getattr(reader, "_iterator", None), _MultiProcessingDataLoaderIter):
        reader._iterator = iter(loader)
