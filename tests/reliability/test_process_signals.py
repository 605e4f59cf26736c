"""A watch on SIGTERM is of its own process and its own training."""

from __future__ import annotations

import os
import signal
import time

from forked_runs import Child

from saim_mm.reliability import preemption_hook
from saim_mm.reliability.preemption_hook import SecondSigterm


def terminate_a_child() -> None:
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_signals_of_children_are_theirs_after_trainings_that_ended_in_errors() -> None:
    def run(_pipe: int) -> None:
        preemption_hook._SAME = 0.01
        SecondSigterm()
        SecondSigterm()
        for _ in range(3):
            terminate_a_child()
            time.sleep(0.1)

    assert Child(run).join() == 0


def test_a_new_watch_takes_the_place_of_one_that_was_left() -> None:
    def run(pipe: int) -> None:
        preemption_hook._SAME = 0.01
        left, new = SecondSigterm(), SecondSigterm()
        left.close()
        signal.signal(signal.SIGTERM, lambda *_: os.write(pipe, b"t"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        new.close()

    child = Child(run)
    assert child.join() == 128 + signal.SIGTERM


def test_a_watch_that_was_closed_leaves_nothing() -> None:
    def run(_pipe: int) -> None:
        preemption_hook._SAME = 0.01
        watch = SecondSigterm()
        watch.close()
        watch.close()
        terminate_a_child()
        signal.signal(signal.SIGTERM, lambda *_: None)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        assert signal.set_wakeup_fd(-1) == -1

    assert Child(run).join() == 0
