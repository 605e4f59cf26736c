"""Kills and broken disks while checkpoints are saved."""

from __future__ import annotations

import errno
import functools
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_runs import Child, build_runner, prepare_to_save, run_config
from mmengine.runner import Runner
from saved_runs import (
    KEEP_ONE,
    check_intact,
    fail_to_write,
    names,
    record_errors,
    train,
)

from saim_mm.reliability import SafeCheckpointHook
from saim_mm.utils import atomic_file as atomic


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_errors(monkeypatch)


# ---- kills ---------------------------------------------------------------------------


class Killer:
    """Kills this process at its n-th call that changes the file system."""

    def __init__(self, n: int) -> None:
        self.left = n

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner, name in (
            (atomic.os, "fsync"),
            (Path, "open"),
            (Path, "replace"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self._deadly(getattr(owner, name)))

    def _deadly(self, call: Any) -> Any:
        def before(*args: Any, **options: Any) -> Any:
            if not self.left:
                os.kill(os.getpid(), 9)
            self.left -= 1
            return call(*args, **options)

        return before


@pytest.mark.slow
def test_a_kill_at_any_call_leaves_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call in turn, with one checkpoint kept; then a new save goes through."""
    runner = build_runner(run_config(tmp_path / "run", checkpoint=KEEP_ONE))
    hook = prepare_to_save(runner)
    kills, codes = 0, []
    while not codes or codes[-1]:
        work_dir = tmp_path / str(kills)

        def save(pipe: int, work_dir: Path = work_dir, kills: int = kills) -> None:
            runner._work_dir = hook.out_dir = str(work_dir)
            hook.save_now(runner, 0, 1)
            Killer(kills).watch(monkeypatch)
            hook.save_now(runner, 0, 2)

        codes.append(Child(save).join())
        assert check_intact(work_dir) in (1, 2)
        runner._work_dir = hook.out_dir = str(work_dir)
        atomic.remove_parts(work_dir)
        hook.save_now(runner, 0, 3 + kills)
        assert check_intact(work_dir) == 3 + kills
        assert not list(work_dir.glob(".*"))
        kills += 1
    assert codes == [-9] * (kills - 1) + [0]
    assert kills > 10  # the file, the pointer, the removal of the older file


def save_all_the_time(runner: Runner, pipe: int) -> None:
    """Trains, and tells when the saving of a checkpoint begins and ends."""
    hook = next(h for h in runner.hooks if isinstance(h, SafeCheckpointHook))
    write = hook._write

    def tell(*args: Any) -> None:
        os.write(pipe, b"(")
        write(*args)
        os.write(pipe, b")")

    hook._write = tell  # type: ignore[method-assign]
    runner.train()


def killed_inside_saves(tmp_path: Path, count: int) -> int:
    """Kills runs that save all the time; returns how often inside a save."""
    rng = random.Random(0)
    saving = dict(interval=1, max_keep_ckpts=1, by_epoch=False)
    inside = tries = 0
    while inside < count:
        work_dir = tmp_path / str(tries)
        tries += 1
        assert tries < 3 * count
        runner = build_runner(run_config(work_dir, checkpoint=saving, width=30_000))
        child = Child(functools.partial(save_all_the_time, runner))
        child.wait_for(b"(")
        began = time.monotonic()
        child.wait_for(b")")
        duration = time.monotonic() - began
        child.wait_for(b"(", times=rng.randint(2, 4))
        time.sleep(rng.uniform(0, duration))
        child.signal(9)
        assert child.join() == -9
        begun, ended = (child.told.count(byte) for byte in (b"(", b")"))
        assert check_intact(work_dir) in (ended, begun)
        inside += begun > ended
        shutil.rmtree(work_dir)
    return inside


def test_kills_inside_saves(tmp_path: Path) -> None:
    assert killed_inside_saves(tmp_path, 2) == 2


@pytest.mark.slow
def test_a_hundred_kills_inside_saves(tmp_path: Path) -> None:
    assert killed_inside_saves(tmp_path, 100) == 100


# ---- disks ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failed_write_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str], code: int
) -> None:
    fail_to_write(monkeypatch, {2, 3}, code)
    runner = train(tmp_path, 4)
    assert len(log) == 2
    assert os.strerror(code) in log[0]
    assert "epoch_1.pth. The run goes on" in log[1]
    assert names(tmp_path) == {"epoch_4.pth"}
    assert check_intact(tmp_path) == 24
    assert runner.message_hub.get_info("keep_ckpt_ids") == [1, 4]
    assert not list(tmp_path.glob(".*"))


def test_or_it_stops_as_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    fail_to_write(monkeypatch, {2}, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 4, checkpoint=dict(**KEEP_ONE, on_write_error="stop"))
    assert log[0].endswith("The run stops.")
    assert check_intact(tmp_path) == 6
    assert names(tmp_path) == {"epoch_1.pth"}


def test_the_last_file_must_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    fail_to_write(monkeypatch, {2}, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 2)
    assert check_intact(tmp_path) == 6


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A folder that other users can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("limit", ["size", "read-only"])
def test_limits_of_the_system(public_dir: Path, limit: str) -> None:
    """A real limit on the size of files, and a real folder without permission."""
    work_dir = public_dir / "run"
    runner = build_runner(run_config(work_dir, checkpoint=KEEP_ONE))
    hook = prepare_to_save(runner)
    hook.save_now(runner, 0, 1)

    def save(pipe: int) -> None:
        if limit == "size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        else:
            work_dir.chmod(0o555)
            if not os.getuid():
                os.setuid(65534)
        with pytest.raises(OSError):
            hook.save_now(runner, 0, 2)
        assert hook.last_ckpt == str(work_dir / "epoch_0_iter_1.pth")
        os._exit(33)

    assert Child(save).join() == 33
    assert check_intact(work_dir) == 1
    assert not list(work_dir.glob(".*"))


def test_a_failed_write_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook and the message hub, which the next checkpoint stores, are as before."""
    runner = build_runner(run_config(tmp_path / "run", checkpoint=KEEP_ONE))
    hook = prepare_to_save(runner)
    hook.save_now(runner, 0, 1)

    def known() -> list[Any]:
        info = dict(runner.message_hub.runtime_info)
        return [hook.last_ckpt, list(hook.keep_ckpt_ids), info]

    before = known()
    assert before[2].keys() >= {"last_ckpt", "keep_ckpt_ids"}
    fail_to_write(monkeypatch, {1}, errno.ENOSPC)
    with pytest.raises(OSError):
        hook.save_now(runner, 0, 2)
    assert known() == before
