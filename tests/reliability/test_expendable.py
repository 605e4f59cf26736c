"""A run outlives a disk on which nothing can be written for a while."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import Child, Ledger, build_runner, run_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from saved_runs import iteration_of

from saim_mm.weights.resume import find_newest


@HOOKS.register_module(force=True)
class FullDisk(Hook):
    """No file can grow in some iterations, in the middle of which the loss is NaN."""

    priority = "HIGHEST"

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        full = self.first <= runner.iter < self.last
        limit = 0 if full else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        if runner.iter in (self.first + 2, self.last - 2):
            data_batch["inputs"][0].fill_(torch.nan)


def run(pipe: int, config: dict[str, Any]) -> None:
    runner = build_runner(config)
    runner.register_hook(Ledger(pipe))
    # What is said on the terminal, as the log cannot hold it.
    runner.logger.handlers[0].setStream(os.fdopen(os.dup(pipe), "w"))
    runner.logger.handlers[0].setLevel("WARNING")
    runner.train()


def full_disk(work_dir: Path, **checkpoint: Any) -> Child:
    config = run_config(work_dir, max_epochs=4, checkpoint=checkpoint)
    config["default_hooks"].update(
        logger=dict(type="LoggerHook", interval=1),
        finite_guard=dict(type="FiniteGuardHook"),
        full=dict(type="FullDisk", first=4, last=20),
    )
    config["visualizer"] = dict(
        type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]
    )
    config["log_level"] = "INFO"
    return Child(lambda pipe: run(pipe, config))


@pytest.mark.parametrize("interval", [100, 2])
def test_a_full_disk_costs_lines_and_no_step(tmp_path: Path, interval: int) -> None:
    child = full_disk(tmp_path, by_epoch=False, interval=interval)
    assert child.join() == 0
    told = child.told.decode()
    assert told.count("i") >= 24
    for what in ("the log", "scalars and pictures", f"{tmp_path}/not_finite"):
        assert told.count(f"{what} could not be written: File too large") == 1, what
    assert "Traceback" not in told
    assert told.count("checkpoint not written: [Errno 27]") == (interval == 2) * 8
    newest = find_newest(tmp_path)
    assert (iteration_of(newest.path), newest.skipped) == (24, [])
    (log,) = tmp_path.glob("*/*.log")
    assert "[6/6]" in log.read_text().splitlines()[-2]
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    steps = [json.loads(line)["step"] for line in scalars.read_text().splitlines()]
    assert steps == [*range(1, 5), *range(21, 25)]


def test_a_checkpoint_counts_without_its_note(tmp_path: Path) -> None:
    """The note says where MMEngine finds it; ours is found without."""
    (tmp_path / "last_checkpoint").mkdir()
    options = dict(interval=1, max_keep_ckpts=1)
    build_runner(run_config(tmp_path, max_epochs=2, checkpoint=options)).train()
    assert {path.name for path in tmp_path.glob("*.pth")} == {"epoch_2.pth"}
    assert find_newest(tmp_path).path == tmp_path / "epoch_2.pth"
