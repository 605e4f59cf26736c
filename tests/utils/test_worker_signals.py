"""Workers that leave signals to their parent, whichever way they are started."""

from __future__ import annotations

import os
import signal
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


@pytest.mark.parametrize(
    "method, shielded",
    [
        ("fork", True),
        pytest.param("spawn", True, marks=pytest.mark.slow),
        # What happens without; one such case shows it.
        ("fork", False),
    ],
)
def test_batches_come_in_spite_of_signals(method: str, shielded: bool) -> None:
    child = Child(lambda pipe: read_on(pipe, method, shielded=shielded))
    child.wait_for(b"b", timeout=60)
    for number in SIGNALS:
        child.signal(number)
    assert (child.join(60) == 0) == shielded
    assert (child.told.count(b"b") == 12) == shielded


def test_the_parent_can_end_them() -> None:
    """At once, in the middle of a sample."""

    def end(pipe: int) -> None:
        loader = DataLoader(Numbers(6, seconds=30.0), num_workers=2)
        shield_workers(loader)
        reader = iter(loader)
        time.sleep(0.2)
        end_workers()
        for worker in reader._workers:
            worker.join(3)
            assert worker.exitcode == 0
        os.write(pipe, b"e")

    child = Child(end)
    child.wait_for(b"e", timeout=8)
    child.signal(signal.SIGKILL)
    child.join()
