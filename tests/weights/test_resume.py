"""The checkpoint that a run goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forked_runs import build_runner, run_config
from saved_runs import check_intact, names, record_errors, train

from saim_mm.weights import CheckpointError
from saim_mm.weights.resume import find_newest, resume_from_newest


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
    newest = find_newest(tmp_path / "run")
    assert newest.path == tmp_path / "far/run/epoch_1.pth"
