"""Signals at any time: the step is finished and saved, and nobody is left behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import Child, Ledger, build_runner, run_config
from mmengine.hooks import Hook
from torch import distributed

from saim_mm.reliability.preemption_hook import EXIT_NOT_SAVED, EXIT_PREEMPTED
from saim_mm.utils.worker_signals import SIGNALS
from saim_mm.weights import verify_checkpoint
from saim_mm.weights.resume import find_newest

CODES = [EXIT_PREEMPTED] * 2


def train(pipe: int, config: dict[str, Any]) -> None:
    runner = build_runner(config)
    runner.register_hook(Ledger(pipe))
    runner.train()


def start(config: dict[str, Any]) -> Child:
    return Child(lambda pipe: train(pipe, config))


def saved_iterations(work_dir: Path) -> int:
    newest = find_newest(work_dir)
    assert newest.skipped == []
    assert newest.path is not None
    verify_checkpoint(newest.path)
    assert (work_dir / "last_checkpoint").read_text() == str(newest.path)
    return torch.load(newest.path, weights_only=True)["meta"]["iter"]


def wait_for_offspring(child: Child, timeout: float = 10) -> None:
    end = time.monotonic() + timeout
    while child.has_offspring():
        assert time.monotonic() < end, "a data worker outlives its parent"
        time.sleep(0.01)


def signalled_at_random(tmp_path: Path, count: int) -> list[int]:
    """Signals the process groups of runs; returns how many steps each of them lost.

    Two workers, begun anew every 15 steps, so that many signals meet them in their
    infancy.
    """
    rng = random.Random(0)
    lost = []
    for number in range(count):
        work_dir = tmp_path / str(number)
        child = start(run_config(work_dir, num_workers=2, length=30, seconds=0.005))
        child.wait_for(b"e")
        time.sleep(rng.uniform(0, 0.5))
        child.signal(rng.choice(SIGNALS))
        assert child.join() == EXIT_PREEMPTED
        wait_for_offspring(child)
        lost.append(child.told.count(b"i") - saved_iterations(work_dir))
    return lost


def test_signals_at_random_instants(tmp_path: Path) -> None:
    assert signalled_at_random(tmp_path, 2) == [0] * 2


@pytest.mark.slow
def test_a_hundred_signals_at_random_instants(tmp_path: Path) -> None:
    assert signalled_at_random(tmp_path, 100) == [0] * 100


def test_the_same_command_goes_on(tmp_path: Path) -> None:
    """Interrupted in the middle of the second epoch; then to the end of the third."""
    options = dict(max_epochs=3, length=40, seconds=0.01)
    child = start(run_config(tmp_path, resume=True, **options))
    child.wait_for(b"i", times=25)
    child.signal(signal.SIGUSR1)
    assert child.join() == EXIT_PREEMPTED
    done = child.told.count(b"i")
    assert 25 <= done < 40
    assert saved_iterations(tmp_path) == done
    child = start(run_config(tmp_path, resume=True, **options))
    assert child.join() == 0
    assert child.told.count(b"i") == 60 - done
    assert saved_iterations(tmp_path) == 60
    assert not list(tmp_path.glob("epoch_1_iter*.pth")) or done != 20


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["ExactIterLoop", "IterBasedTrainLoop"])
def test_loops_over_iterations(tmp_path: Path, loop: str) -> None:
    """Ours, and MMEngine's own, whose workers may be there before the hook."""
    config = run_config(
        tmp_path,
        num_workers=2,
        seconds=0.02,
        length=60,
        checkpoint=dict(by_epoch=False),
    )
    config["train_cfg"] = dict(type=loop, max_iters=10_000)
    child = start(config)
    child.wait_for(b"i", times=5)
    child.signal(signal.SIGTERM)
    assert child.join() == EXIT_PREEMPTED
    done = child.told.count(b"i")
    assert saved_iterations(tmp_path) == done
    assert (tmp_path / f"iter_{done}.pth").exists()


def test_an_accumulated_step_is_completed(tmp_path: Path) -> None:
    config = run_config(tmp_path, seconds=0.05)
    config["optim_wrapper"]["accumulative_counts"] = 4
    child = start(config)
    child.wait_for(b"i", times=5)
    child.signal(signal.SIGTERM)
    assert child.join() == EXIT_PREEMPTED
    saved = saved_iterations(tmp_path)
    assert saved >= 8 and saved % 4 == 0  # later if the signal came late


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    child = start(run_config(tmp_path, seconds=100.0, num_workers=1, length=6))
    child.wait_for(b"e")
    time.sleep(0.2)
    child.signal(signal.SIGINT)
    time.sleep(0.1)
    child.signal(signal.SIGINT)
    assert child.join(40) == 1  # KeyboardInterrupt
    assert not list(tmp_path.glob("*.pth"))
    wait_for_offspring(child)


def lock_twice(pipe: int) -> None:
    """Waits for ever in C code, which no signal interrupts."""
    os.write(pipe, b"s")
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)


def read_nothing(pipe: int) -> None:
    """Waits for ever in a read, which Python begins anew after a signal."""
    os.write(pipe, b"s")
    os.read(os.pipe()[0], 1)


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [lock_twice, read_nothing])
def test_a_second_sigterm_ends_what_is_stuck(tmp_path: Path, stuck: Any) -> None:
    def run(pipe: int) -> None:
        runner = build_runner(run_config(tmp_path))
        runner.model.forward = lambda *args, **options: stuck(pipe)
        runner.train()

    child = Child(run)
    child.wait_for(b"s")
    for pause in (0.1, 2.5, 0):  # the second is the first, handed on
        child.signal(signal.SIGTERM)
        time.sleep(pause)
    assert child.join() == 128 + signal.SIGTERM


@pytest.mark.slow
def test_signals_of_a_child_are_not_its_parents(tmp_path: Path) -> None:
    """A process that was forked from the run is terminated, twice; the run goes on."""

    class Forks(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            if runner.iter in (0, 100):
                ready, tell = os.pipe()
                pid = os.fork()
                if not pid:
                    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
                    os.write(tell, b"r")
                    time.sleep(60)
                os.read(ready, 1)
                os.kill(pid, signal.SIGTERM)
                assert os.waitpid(pid, 0)[1] == 0
                time.sleep(2)

    def run_and_fork(pipe: int) -> None:
        runner = build_runner(run_config(tmp_path, max_epochs=20))
        runner.register_hook(Forks())
        runner.train()

    assert Child(run_and_fork).join(timeout=300) == 0


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    def run(pipe: int) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        train(pipe, run_config(tmp_path, seconds=0.02))

    child = Child(run)
    child.wait_for(b"i")
    child.signal(signal.SIGHUP)
    child.wait_for(b"i", times=child.told.count(b"i") + 10)
    child.signal(signal.SIGTERM)
    assert child.join() == EXIT_PREEMPTED


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("launched", [True, False])
def test_a_run_whose_torchrun_is_killed(tmp_path: Path, launched: bool) -> None:
    """It saves and ends; one that somebody's shell has left behind trains on."""

    def launch_and_wait(pipe: int) -> None:
        if launched:
            os.environ["TORCHELASTIC_RUN_ID"] = "a"
        pid = os.fork()
        if pid:
            (tmp_path / "pid").write_text(str(pid))
            time.sleep(100)
        os.setsid()
        train(pipe, run_config(tmp_path, seconds=0.01))

    launcher = Child(launch_and_wait)
    launcher.wait_for(b"i")
    run = int((tmp_path / "pid").read_text())
    os.kill(launcher.pid, signal.SIGKILL)
    if not launched:
        launcher.wait_for(b"i", times=launcher.told.count(b"i") + 20)
        os.kill(run, signal.SIGUSR1)
    wait_until(lambda: gone(run))
    launcher.join()
    assert saved_iterations(tmp_path) == launcher.told.count(b"i") > 0


@pytest.mark.slow
def test_other_signals_do_not_hurry_the_end(tmp_path: Path) -> None:
    """As a scheduler does: first a warning, then SIGTERM."""
    child = start(run_config(tmp_path, seconds=0.3, num_workers=1))
    child.wait_for(b"i")
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        child.signal(number)
        time.sleep(0.02)
    assert child.join() == EXIT_PREEMPTED
    assert saved_iterations(tmp_path) == child.told.count(b"i")


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    child = start(run_config(tmp_path, seconds=100.0, num_workers=2))
    child.wait_for(b"e")
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGKILL)
    assert child.join() == -9
    wait_for_offspring(child, timeout=50)


def test_a_full_disk_has_a_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("saim_mm.reliability.verified_backend.write_atomically", full)
    child = start(run_config(tmp_path))
    child.wait_for(b"i")
    child.signal(signal.SIGTERM)
    assert child.join() == EXIT_NOT_SAVED
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.slow
def test_a_validation_is_left_too(tmp_path: Path) -> None:
    loader = dict(
        batch_size=1,
        num_workers=1,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(type="Numbers", length=1000, seconds=0.05),
    )
    config = run_config(
        tmp_path,
        val_dataloader=loader,
        val_cfg=dict(type="ValLoop"),
        val_evaluator=[],
    )
    child = start(config)
    child.wait_for(b"i", times=6)
    time.sleep(0.4)
    child.signal(signal.SIGTERM)
    assert child.join() == EXIT_PREEMPTED
    assert saved_iterations(tmp_path) == 6


def test_after_training_signals_work_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    build_runner(run_config(tmp_path, max_epochs=1)).train()
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_training_that_failed_does_not_hold_signals_back(tmp_path: Path) -> None:
    def fail_and_wait(pipe: int) -> None:
        config = run_config(tmp_path)
        config["train_dataloader"]["dataset"]["seconds"] = "none"
        try:
            build_runner(config).train()
        except TypeError:
            os.write(pipe, b"f")
            time.sleep(300)

    child = Child(fail_and_wait)
    child.wait_for(b"f")
    child.signal(signal.SIGTERM)
    assert child.join() == -signal.SIGTERM


def test_needs_the_hook_that_saves(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config["default_hooks"]["checkpoint"] = dict(type="CheckpointHook", interval=1)
    with pytest.raises(ValueError, match="SafeCheckpointHook, and this run has Check"):
        build_runner(config).train()


def test_a_run_without_checkpoints_is_left_alone(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    config["default_hooks"]["checkpoint"] = None
    child = start(config)
    child.wait_for(b"i")
    child.signal(signal.SIGTERM)
    assert child.join() == -signal.SIGTERM


# ---- two ranks -----------------------------------------------------------------------


def rank(pipe: int, number: int, port: int, config: dict[str, Any]) -> None:
    os.environ.update(
        RANK=str(number), WORLD_SIZE="2", LOCAL_RANK=str(number),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    distributed.init_process_group("gloo")
    config.update(
        launcher="pytorch",
        model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None),
    )
    train(pipe, config)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def signal_one_rank(tmp_path: Path, rng: random.Random) -> None:
    """Only one rank gets the signal; both end at the same step, at most one later."""
    port, ranks = free_port(), []
    for number in range(2):
        config = run_config(tmp_path, length=40, seconds=0.005, num_workers=1)
        config["experiment_name"] = "two_ranks"
        ranks.append(Child(lambda pipe, n=number, c=config: rank(pipe, n, port, c)))
    for child in ranks:
        child.wait_for(b"i")
    time.sleep(rng.uniform(0, 0.3))
    ranks[rng.randrange(2)].signal(rng.choice(SIGNALS))
    assert [child.join() for child in ranks] == CODES
    done = {child.told.count(b"i") for child in ranks}
    assert done == {saved_iterations(tmp_path)}
    for child in ranks:
        wait_for_offspring(child)


@pytest.mark.slow
def test_ranks_end_at_the_same_step_twenty_times(tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(20):
        signal_one_rank(tmp_path / str(number), rng)


def start_tool(tmp_path: Path, *command: str, **options: Any) -> subprocess.Popen:
    """Trains the debug config by a tool, in a session of its own."""
    root = Path(__file__).parents[2]
    environment = dict(os.environ, PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    arguments = [
        "--work-dir", str(tmp_path), "--resume", "auto",
        "--cfg-options", "train_cfg.max_epochs=1000", "train_dataloader.num_workers=1",
    ]  # fmt: skip
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT) | options
    return subprocess.Popen(
        [*command, *arguments], cwd=root, env=environment, start_new_session=True,
        **options,
    )  # fmt: skip


def read_until(run: subprocess.Popen, text: bytes) -> bytes:
    log = b""
    assert run.stdout is not None
    for line in run.stdout:
        log += line
        if text in line:
            break
    return log


TORCHRUN = ("tools/dist_train.sh", "configs/saim/saim_debug.py", "2")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_torchrun_passes_signals_on(tmp_path: Path, number: signal.Signals) -> None:
    """Through tools/dist_train.sh; torchrun itself ends with 1."""
    run = start_tool(tmp_path, *TORCHRUN)
    log = read_until(run, b"[ 5/10]")
    os.killpg(run.pid, number)
    log += run.communicate(timeout=300)[0]
    assert run.returncode == 1, log
    assert b"exitcode  : 75" in log or b"exitcode: 75" in log or number.name in str(log)
    assert saved_iterations(tmp_path) >= 5


@pytest.mark.slow
def test_processes_of_a_killed_torchrun_save_and_end(tmp_path: Path) -> None:
    run = start_tool(tmp_path, *TORCHRUN)
    read_until(run, b"[ 5/10]")
    os.kill(run.pid, signal.SIGKILL)
    log = run.communicate(timeout=300)[0]  # until the last process is gone
    assert b"the same command with --resume goes on" in log
    assert saved_iterations(tmp_path) >= 5


@pytest.mark.slow
def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """Nothing can be said any more, and the exit code is that of a saved run."""
    ours, theirs = os.openpty()
    run = start_tool(
        tmp_path, sys.executable, "tools/train.py", TORCHRUN[1],
        stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    log = b""
    while b"[ 5/20]" not in log:
        log += os.read(ours, 4096)
    os.close(ours)
    assert run.wait(60) == EXIT_PREEMPTED
    assert saved_iterations(tmp_path) >= 5
