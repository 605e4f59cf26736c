"""ExactResumeHook: what a checkpoint holds, and what is said when it does not fit."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, ConcatDataset, RepeatDataset
from mmengine.logging import MMLogger
from number_runs import Numbers, build, run
from torch import nn

from saim_mm.datasets import SeedSample
from saim_mm.reliability.exact_loops import DataPosition
from saim_mm.reliability.exact_resume_hook import (
    ExactResumeHook,
    _lacks_seeds,
    resume_point,
)
from saim_mm.reliability.inner_datasets import with_inner_datasets


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=False)


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats the config for each checkpoint: most of a tiny run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A run over 3 epochs of 3 iterations, which saved after each iteration."""
    run(build(tmp_path / "whole", accumulation=2))
    return tmp_path / "whole"


def resume(path: Path, **options: Any) -> tuple[list, str]:
    """Goes on from a checkpoint; the batches, and what the log warns of."""
    runner = build(path.parents[1] / "resumed", checkpoint=path, **options)
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.logger.setLevel(logging.WARNING)
    assert runner.logger is MMLogger.get_current_instance()
    return run(runner), "\n".join(lines)


def test_position_is_plain_and_right(whole: Path) -> None:
    state = load(whole / "iter_5.pth")["exact_resume"]
    assert state == dict(
        seed=1,
        epoch=1,
        iteration=5,
        batches=2,
        samples=8,
        global_batch_size=4,
        dataset_length=14,
        accumulation=2,
        unstepped=1,
    )
    assert {type(value) for value in state.values()} == {int}
    # The last step is made of what there is.
    assert load(whole / "iter_9.pth")["exact_resume"]["unstepped"] == 0


#: In the third of four batches of an epoch; one iteration waits for its step.
SAVED = dict(
    seed=1,
    epoch=2,
    iteration=11,
    batches=3,
    samples=12,
    global_batch_size=4,
    dataset_length=16,
    accumulation=2,
    unstepped=1,
)
#: By an epoch's start.
NOW = dict(SAVED, seed=7, batches=0, samples=0, unstepped=0)


@pytest.mark.parametrize(
    ("saved", "change", "position", "pending", "said"),
    [
        (SAVED, {}, (2, 3, 12), 1, []),
        (SAVED, dict(epoch=0, batches=11, samples=44), (2, 3, 12), 1, []),  # as saved
        (SAVED, dict(global_batch_size=2), (2, 6, 12), 0, ["takes 2 images and took"]),
        (SAVED, dict(global_batch_size=8), (2, 1, 12), 0, ["takes 8 images and took"]),
        (SAVED, dict(accumulation=3), (2, 3, 12), 0, ["accumulates 3 iterations"]),
        (SAVED, dict(dataset_length=20), (2, 3, 12), 1, ["holds 20 images and held"]),
        (
            SAVED,
            dict(global_batch_size=2, dataset_length=20, accumulation=3),
            (2, 6, 12),
            0,
            ["takes 2", "holds 20", "accumulates 3"],
        ),
        (None, {}, (2, 0, 0), 0, ["no position in the data"]),
        (
            None,
            dict(epoch=0, batches=11, samples=44),
            (0, 11, 44),
            0,
            ["no position in the data"],
        ),
    ],
)
def test_resume_point(
    saved: dict[str, int] | None,
    change: dict[str, Any],
    position: tuple[int, int, int],
    pending: int,
    said: list[str],
) -> None:
    found = resume_point(saved, dict(NOW, **change))
    assert found[:2] == (DataPosition(*position), pending)
    assert len(found[2]) == len(said)
    assert all(part in text for part, text in zip(said, found[2], strict=True))


@pytest.mark.parametrize("by_epoch", [True, False])
def test_meta_is_right_whoever_saves(tmp_path: Path, by_epoch: bool) -> None:
    """In mid-epoch, MMEngine would count an epoch too many, or an iteration too few."""
    runner = build(tmp_path / "run", length=2, save_by_epoch=by_epoch)
    run(runner)
    meta = load(tmp_path / "run" / "iter_5.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 5)


def test_without_warnings_if_all_is_as_before(whole: Path) -> None:
    batches, log = resume(whole / "iter_5.pth", accumulation=2)
    assert len(batches) == 4
    assert "exact" not in log


def test_weights_alone_begin_a_new_run(whole: Path) -> None:
    runner = build(
        whole.parent / "new", accumulation=2, checkpoint=whole / "iter_5.pth"
    )
    runner._resume = False
    assert len(run(runner)) == 9


def test_seed_comes_from_the_checkpoint(whole: Path) -> None:
    """A run without a seed draws one; a resumed run must go on with that."""
    expected = resume(whole / "iter_5.pth", accumulation=2)[0]
    assert resume(whole / "iter_5.pth", accumulation=2, sampler_seed=77)[0] == expected


def test_another_batch_size_goes_on_with_the_next_sample(whole: Path) -> None:
    """8 of 14 samples were seen in batches of 4; 6 are left for batches of 2."""
    first = [batch for _, _, batch in resume(whole / "iter_5.pth", accumulation=2)[0]]
    batches, log = resume(whole / "iter_5.pth", accumulation=2, batch_size=2)
    assert [index for _, index, _ in batches[:3]] == [4, 5, 6]
    assert batches[0][2] + batches[1][2] == first[0]
    assert "takes 2 images and took 4" in log
    assert "processes x batch_size is 4" in log


def test_another_dataset_or_accumulation_is_named(whole: Path) -> None:
    _, log = resume(whole / "iter_5.pth", accumulation=3, images=20)
    assert "holds 20 images and held 14" in log
    assert "accumulates 3 iterations and accumulated 2" in log


@pytest.mark.parametrize(
    ("loop", "left", "first"), [("ExactEpochLoop", 6, 0), ("ExactIterLoop", 4, 5)]
)
def test_checkpoint_of_a_plain_run(
    tmp_path: Path, loop: str, left: int, first: int
) -> None:
    """An epoch begins anew; a stream goes on by the count of iterations."""
    length = 3 if "Epoch" in loop else 9
    expected = run(build(tmp_path / "whole", loop=loop, length=length))
    path = tmp_path / "whole" / "iter_5.pth"
    checkpoint = load(path)
    del checkpoint["exact_resume"]
    torch.save(checkpoint, path)
    batches, log = resume(path, loop=loop, length=length)
    assert "the checkpoint holds no position in the data" in log
    assert batches == expected[-left:]
    assert batches[0][1] == first


def test_unseeded_pipelines_are_named() -> None:
    """Within wrappers too; without transforms there is nothing to seed."""
    seeded, unseeded, empty = Numbers(14), Numbers(14), Numbers(14)
    seeded.pipeline = Compose([SeedSample(), dict])
    unseeded.pipeline = Compose([dict])

    def named(dataset: Any) -> list[Any]:
        return list(filter(_lacks_seeds, with_inner_datasets(dataset)))

    assert named(RepeatDataset(seeded, 2)) == []
    assert named(ConcatDataset([seeded, unseeded, empty])) == [unseeded]


def test_other_loops_and_samplers_are_named(tmp_path: Path) -> None:
    runner = build(tmp_path / "run", loop="EpochBasedTrainLoop", length=1)
    runner._train_dataloader["sampler"] = dict(type="DefaultSampler")
    lines: list[str] = []
    runner.logger.warning = lines.append
    run(runner)
    (line,) = [line for line in lines if "cannot go on" in line]
    assert "EpochBasedTrainLoop" in line
    assert "type='ExactEpochLoop'" in line
    assert "sampler=dict(type='ExactSampler')" in line
    assert "exact_resume" not in load(tmp_path / "run" / "iter_1.pth")


@pytest.mark.parametrize("built, saved", [(False, True), (True, False)])
def test_a_resumed_optimiser_keeps_its_own_kernel(built: bool, saved: bool) -> None:
    """As a fused one of a GPU where there is none; any torch has these on a CPU."""

    def make(foreach: bool) -> tuple[nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, foreach=foreach)

    def step(layer: nn.Linear, optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    first, writer = make(saved)
    step(first, writer)
    checkpoint = copy.deepcopy(dict(optimizer=writer.state_dict()))
    second, reader = make(built)
    second.load_state_dict(first.state_dict())
    runner: Any = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=reader))
    ExactResumeHook().after_load_checkpoint(runner, checkpoint)
    reader.load_state_dict(checkpoint["optimizer"])
    assert [group["foreach"] for group in reader.param_groups] == [built]
    step(first, writer)
    step(second, reader)
    torch.testing.assert_close(second.weight, first.weight)


def test_a_checkpoint_without_an_optimiser_is_no_error() -> None:
    for wrapper in (None, dict(optimizer=dict(type="AdamW"))):
        runner: Any = SimpleNamespace(optim_wrapper=wrapper)
        for checkpoint in ({}, dict(optimizer=None), dict(optimizer=dict(a={}))):
            ExactResumeHook().after_load_checkpoint(runner, checkpoint)
