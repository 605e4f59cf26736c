"""Workers that leave signals to their parent, whichever way they are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from forked_runs import Child, Numbers
from torch.utils.data import DataLoader

from saim_mm.utils.worker_signals import SIGNALS, end_workers, shield_workers


def read_on(pipe: int, method: str, *, shielded: bool) -> None:
    """Reads twelve batches in a process that takes no notice of signals."""
    for number in SIGNALS:
        signal.signal(number, lambda *args: None)
    loader = DataLoader(
        Numbers(24, seconds=0.02),
        batch_size=2,
        num_workers=2,
        multiprocessing_context=method,
    )
    if shielded:
        shield_workers(loader)
    for _ in loader:
        os.write(pipe, b"b")


# Without the shield, what happens without.
@pytest.mark.parametrize("shielded", [True, False])
def test_batches_come_in_spite_of_signals(shielded: bool) -> None:
    child = Child(lambda pipe: read_on(pipe, "fork", shielded=shielded))
    child.wait_for(b"b")
    for number in SIGNALS:
        child.signal(number)
    assert (child.join(60) == 0) == shielded
    assert (child.told.count(b"b") == 12) == shielded


@pytest.mark.slow
def test_spawned_workers_are_shielded_too() -> None:
    """In a fresh process: one that is a fork of this one is no place to spawn from."""
    pipe, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, __file__, str(writer)],
        pass_fds=[writer],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    os.close(writer)
    with os.fdopen(pipe, "rb") as told, process:
        first = told.read(1)
        for number in SIGNALS:
            os.killpg(process.pid, number)
        assert first + told.read() == 12 * b"b"
    assert process.returncode == 0


def test_the_parent_can_end_them() -> None:
    """At once, in the middle of a sample."""

    def end(pipe: int) -> None:
        loader = DataLoader(Numbers(6, seconds=300.0), num_workers=2)
        shield_workers(loader)
        reader = iter(loader)
        time.sleep(0.2)
        end_workers()
        for worker in reader._workers:
            worker.join(30)
            assert worker.exitcode == 0
        os.write(pipe, b"e")

    child = Child(end)
    child.wait_for(b"e")
    child.signal(signal.SIGKILL)
    child.join()


if __name__ == "__main__":
    read_on(int(sys.argv[1]), "spawn", shielded=True)
