"""The checkpoint that a run goes on from."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from forked_runs import build_runner, run_config
from saved_runs import check_intact, names, record_errors, train
from torch import nn

from saim_mm.weights import CheckpointError, resume
from saim_mm.weights.resume import (
    find_newest,
    find_newest_of,
    resume_from_newest,
    why_not_finite,
)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_errors(monkeypatch)


def test_resume_falls_back_to_the_newest_good_one(
    tmp_path: Path, log: list[str]
) -> None:
    train(tmp_path, 3, checkpoint=dict(interval=1))
    data = bytearray((tmp_path / "epoch_3.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "epoch_3.pth").write_bytes(data)
    os.truncate(tmp_path / "epoch_2.pth", 1000)
    runner = train(tmp_path, 3, checkpoint=dict(interval=1), resume=True)
    assert len(log) == 2
    assert "epoch_2.pth: truncated" in log[0]
    assert "epoch_3.pth: damaged: its SHA-256" in log[1]
    assert runner.iter == 18
    assert check_intact(tmp_path) == 18


def test_no_checkpoint_yet_begins_from_load_from(tmp_path: Path) -> None:
    train(tmp_path / "a", 1)
    config = run_config(
        tmp_path / "b", max_epochs=1, load_from=str(tmp_path / "a/epoch_1.pth")
    )
    runner = build_runner(config)
    resume_from_newest(runner)
    assert (runner._resume, runner._load_from) == (False, config["load_from"])
    empty = train(tmp_path / "c", 1, resume=True)
    assert empty.iter == 6


def test_only_damaged_ones_do_not_begin_anew_in_silence(
    tmp_path: Path, log: list[str]
) -> None:
    train(tmp_path, 1)
    os.truncate(tmp_path / "epoch_1.pth", 500)
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints is good"):
        train(tmp_path, 1, resume=True)
    assert (tmp_path / "epoch_1.pth").exists()


def test_checkpoints_in_another_folder_are_found(tmp_path: Path) -> None:
    options = dict(interval=1, out_dir=str(tmp_path / "far"))
    train(tmp_path / "run", 1, checkpoint=options)
    assert not names(tmp_path / "run")
    runner = train(tmp_path / "run", 2, checkpoint=options, resume=True)
    assert runner._load_from == str(tmp_path / "far/run/epoch_1.pth")
    newest = find_newest_of(runner, lambda content: None)
    assert newest.path == tmp_path / "far/run/epoch_2.pth"


# ---- which one is the newest ---------------------------------------------------------


def copy_of(run: Path, to: Path) -> Path:
    """As ``cp -r`` makes it: all files get the same time."""
    shutil.copytree(run, to)
    for path in to.iterdir():
        os.utime(path, ns=(10**18, 10**18))
    return to


def test_a_copied_run_goes_on_from_its_own_files(tmp_path: Path, log: list) -> None:
    """Though its note names the original's, which has gone on since."""
    run = tmp_path / "a" / "run"
    train(run, 2, checkpoint=dict(interval=1))
    copy = copy_of(run, tmp_path / "b" / "run")
    train(run, 3, checkpoint=dict(interval=1), resume=True)
    noted = (copy / "last_checkpoint").read_text()
    assert noted == str(run / "epoch_2.pth")
    assert find_newest(copy).path == copy / "epoch_2.pth"
    for path in copy.glob("*.pth"):
        path.unlink()
    assert find_newest(copy).path is None  # not the original's


@pytest.mark.parametrize("clock", ["equal", "turned back"])
def test_clocks_do_not_decide(tmp_path: Path, clock: str) -> None:
    """Ten files, as names compare otherwise than numbers."""
    train(tmp_path, 11, checkpoint=dict(interval=1))
    for epoch in range(1, 12):
        time = 10**18 - (clock == "turned back") * epoch * 10**9
        os.utime(tmp_path / f"epoch_{epoch}.pth", ns=(time, time))
    for note in ("", None):
        assert find_newest(tmp_path).path == tmp_path / "epoch_11.pth"
        if note is not None:
            (tmp_path / "last_checkpoint").write_text(note)


def test_names_do_not_decide_either(tmp_path: Path) -> None:
    train(tmp_path, 2, checkpoint=dict(interval=1))
    (tmp_path / "epoch_1.pth").rename(tmp_path / "epoch_99.pth")
    assert find_newest(tmp_path).path == tmp_path / "epoch_2.pth"


def test_of_two_runs_the_later_one_goes_on(tmp_path: Path, log: list) -> None:
    """A run began anew where a longer one had been."""

    def one(epochs: int) -> None:
        config = run_config(tmp_path, max_epochs=epochs, checkpoint=dict(interval=1))
        config["default_hooks"]["finite_guard"] = dict(type="FiniteGuardHook")
        build_runner(config).train()

    one(4)
    one(2)
    for path in tmp_path.glob("*.pth"):
        os.utime(path, ns=(10**18, 10**18))
    assert find_newest(tmp_path).path == tmp_path / "epoch_2.pth"


@pytest.mark.parametrize("note", ["", "x" * 10_000, "a\0b", "/", "/dev/full", None])
def test_any_note_will_do(tmp_path: Path, note: str | None) -> None:
    train(tmp_path / "run", 1)
    (tmp_path / "epoch_9.pth").write_bytes(b"not of this run")
    (tmp_path / "run/last_checkpoint").unlink()
    if note is None:
        os.mkfifo(tmp_path / "run/last_checkpoint")
    else:
        (tmp_path / "run/last_checkpoint").write_text(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        newest = find_newest("run")
    assert (newest.path, newest.skipped) == (tmp_path / "run/epoch_1.pth", [])


@pytest.mark.parametrize(
    "error", [MemoryError("too much"), PermissionError("no"), RecursionError("deep")]
)
def test_whatever_a_file_does_the_next_one_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    train(tmp_path, 2, checkpoint=dict(interval=1))
    read = resume.read_torch

    def fail(path: Path, **options: object) -> object:
        if path.name == "epoch_2.pth":
            raise error
        return read(path, **options)

    monkeypatch.setattr(resume, "read_torch", fail)
    newest = find_newest(tmp_path)
    assert newest.path == tmp_path / "epoch_1.pth"
    (reason,) = newest.skipped
    assert reason == f"{tmp_path}/epoch_2.pth: {type(error).__name__}: {error}"


def test_a_file_without_an_iteration_is_named(tmp_path: Path) -> None:
    train(tmp_path, 2, checkpoint=dict(interval=1))
    content = torch.load(tmp_path / "epoch_2.pth", weights_only=True)
    content["meta"]["iter"] = "many"
    torch.save(content, tmp_path / "epoch_2.pth")
    newest = find_newest(tmp_path)
    assert newest.path == tmp_path / "epoch_1.pth"
    assert "epoch_2.pth: ValueError" in newest.skipped[0]


def test_averaged_weights_count_as_well() -> None:
    net = nn.Linear(1, 1)
    state, bad = net.state_dict(), torch.tensor([[math.nan]])
    content = dict(state_dict=state, ema_state_dict={"module.weight": bad})
    assert why_not_finite(content, net) == "weight is not finite"
    content["ema_state_dict"] = {"module.weight": torch.ones(1, 1)}
    assert why_not_finite(content, net) is None
