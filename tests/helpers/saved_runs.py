"""Runs that save checkpoints, writes that fail, and a look at what is on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import build_runner, run_config
from mmengine.runner import Runner

from saim_mm.weights import verify_checkpoint
from saim_mm.weights.checksum_trailer import check_sha256
from saim_mm.weights.resume import find_newest

KEEP_ONE = dict(interval=1, max_keep_ckpts=1)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pth")}


def train(work_dir: Path, max_epochs: int, **options: Any) -> Runner:
    options.setdefault("checkpoint", KEEP_ONE)
    runner = build_runner(run_config(work_dir, max_epochs=max_epochs, **options))
    runner.train()
    return runner


def iteration_of(path: Path | None) -> int:
    assert path is not None
    return torch.load(path, weights_only=True)["meta"]["iter"]


def check_intact(work_dir: Path) -> int:
    """Asserts that all which is there is good; returns the newest iteration."""
    newest = find_newest(work_dir)
    assert newest.skipped == []
    pointed = Path((work_dir / "last_checkpoint").read_text())
    assert check_sha256(pointed)
    verify_checkpoint(pointed)
    return iteration_of(newest.path)


def fail_to_write(monkeypatch: pytest.MonkeyPatch, which: set[int], code: int) -> None:
    """Makes some of the writes of checkpoints fail, counted from 1."""
    flush, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".part"):
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            calls[0] += ".pth." in name
            if ".pth." in name and calls[0] in which:
                raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def record_errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collects what MMEngine logs as errors."""
    lines: list[str] = []
    monkeypatch.setattr(
        "mmengine.logging.MMLogger.error", lambda self, text, *a: lines.append(text)
    )
    return lines
