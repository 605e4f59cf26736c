"""LiveLoggerHook: never silent for a minute, never too loud, and no other numbers."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from number_runs import Normalised, Numbers

from saim_mm.engine import ProgressHook, logger_hook
from saim_mm.utils import progress_line
from saim_mm.utils.progress_line import ProgressLine


class Time:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(logger_hook, "time", clock)
    monkeypatch.setattr(progress_line, "time", clock)
    return clock


class Slow(Hook):
    """Each step takes some seconds, and says what the loss was."""

    priority = "HIGH"

    def __init__(self, clock: Time, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.losses: list[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.clock.now += self.seconds
        self.losses.append(float(outputs["loss"]))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.clock.now += self.seconds


def train(
    folder: Path,
    clock: Time,
    steps: int,
    seconds: float,
    hooks: tuple[Hook, ...] = (),
    by_epoch: bool = False,
    **logger: Any,
) -> tuple[list[str], list[dict[str, Any]], list[float]]:
    """Lines of the log about steps, rows of scalars, and the losses."""
    torch.manual_seed(0)
    slow = Slow(clock, seconds)
    loop: dict[str, Any] = dict(type="ExactIterLoop", max_iters=steps)
    if by_epoch:
        loop = dict(type="ExactEpochLoop", max_epochs=1)
    runner = Runner(
        model=Normalised(),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Numbers(2 * steps if by_epoch else 4 * steps),
            batch_size=2,
            num_workers=0,
            sampler=dict(type="ExactSampler", seed=1),
            collate_fn=pseudo_collate,
        ),
        train_cfg=loop,
        optim_wrapper=dict(
            type="OptimWrapper", optimizer=dict(type="SGD", lr=1e-3, momentum=0.9)
        ),
        log_processor=dict(by_epoch=by_epoch),
        default_hooks=dict(
            checkpoint=None,
            runtime_info=dict(type="DeferredRuntimeInfoHook"),
            logger={"type": "LiveLoggerHook", **logger},
        ),
        custom_hooks=[slow, *hooks],
        visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
        randomness=dict(seed=1),
        experiment_name=f"{folder.parent.name}_{folder.name}",
    )
    runner.train()
    log = next(folder.glob("*/*.log")).read_text()
    lines = [line for line in log.splitlines() if " loss: " in line]
    files = list(folder.glob("*/vis_data/scalars.json"))
    rows = [json.loads(x) for file in files for x in file.read_text().splitlines()]
    return lines, rows, slow.losses


def steps_of(lines: list[str]) -> list[int]:
    found = [re.search(r"(?:step |\[ *)(\d+)/", line) for line in lines]
    return [int(match[1]) for match in found if match]


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("interval", [100, 10**6])
def test_the_first_step_has_a_line(
    tmp_path: Path, clock: Time, steps: int, interval: int
) -> None:
    lines, rows, losses = train(tmp_path / "run", clock, steps, 1.0, interval=interval)
    assert steps_of(lines) == [1]
    assert f"loss: {losses[0]:.4f}" in lines[0]
    assert rows == []


@pytest.mark.parametrize("seconds", [0.1, 3.0, 9.0])
def test_no_minute_is_silent(tmp_path: Path, clock: Time, seconds: float) -> None:
    lines, rows, losses = train(tmp_path / "run", clock, 60, seconds, interval=20)
    found = steps_of(lines)
    assert {1, 20, 40, 60} <= set(found)
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert max(gaps) * seconds <= 60
    assert [row["step"] for row in rows] == [20, 40, 60]
    assert len(found) <= 4 + 60 * seconds / 50
    for line, step in zip(lines, found, strict=True):
        if "step " in line:
            assert f"loss: {losses[step - 1]:.4f}" in line


@pytest.mark.parametrize("by_epoch", [False, True])
@pytest.mark.parametrize("interval", [1, 7, 100])
def test_the_numbers_are_those_of_mmengine(
    tmp_path: Path, clock: Time, interval: int, by_epoch: bool
) -> None:
    runs = []
    for kind in ("LoggerHook", "LiveLoggerHook"):
        options = dict(type=kind, interval=interval, by_epoch=by_epoch)
        _, rows, _ = train(tmp_path / kind, clock, 30, 9.0, **options)
        runs.append([{k: row[k] for k in ("step", "loss", "lr")} for row in rows])
    assert runs[0] == runs[1]
    assert bool(runs[0]) == (interval < 30 or by_epoch)


def test_a_line_in_five_seconds_and_every_number(tmp_path: Path, clock: Time) -> None:
    options = dict(interval=1, seconds_per_line=5.0)
    lines, rows, _ = train(tmp_path / "run", clock, 32, 0.5, **options)
    assert steps_of(lines) == [1, 11, 21, 31, 32]
    assert [row["step"] for row in rows] == list(range(1, 33))


def test_misspelt_option() -> None:
    with pytest.raises(TypeError, match="intervall"):
        logger_hook.LiveLoggerHook(intervall=3)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_progress_of_a_run(tmp_path: Path, clock: Time, stream: io.StringIO) -> None:
    line = ProgressLine(stream)
    hooks = (ProgressHook(line, "training, "),)
    train(tmp_path / "run", clock, 22, 0.5, hooks, interval=100)
    line.close()
    text = stream.getvalue()
    found = [int(step) for step in re.findall(r"training, step (\d+)/22  loss: ", text)]
    if stream.isatty():
        assert found == list(range(1, 23))
        assert text.count("\n") == 1
        assert text.count("\r") == 22
    else:
        assert found == [1, 11, 21, 22]
        assert text.count("\n") == 4
