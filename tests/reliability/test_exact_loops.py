"""The exact loops: where they begin, what they load, what they leave alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_runs import differing_bytes
from mmengine.config import Config
from mmengine.runner.loops import _InfiniteDataloaderIterator
from number_runs import build, run

from saim_mm.reliability import ExactEpochLoop, ExactIterLoop
from saim_mm.reliability.exact_loops import DataPosition, seed_training_step


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats the config for each checkpoint: most of a tiny run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.mark.parametrize("regroup", [False, True])
@pytest.mark.parametrize("loop", ["ExactEpochLoop", "ExactIterLoop"])
def test_goes_on_in_the_middle(tmp_path: Path, loop: str, regroup: bool) -> None:
    """Batch by batch, also under a sampler that groups samples its own way."""
    options = dict(loop=loop, regroup=regroup, length=3 if "Epoch" in loop else 9)
    whole = run(build(tmp_path / "whole", **options))
    assert len(whole) == 9
    for done in (1, 3, 5):
        path = tmp_path / "whole" / f"iter_{done}.pth"
        runner = build(tmp_path / str(done), checkpoint=path, **options)
        assert run(runner) == whole[done:]
        assert runner.train_dataloader.dataset.asked == 4 * (len(whole) - done)


@pytest.mark.parametrize("loop", ["ExactEpochLoop", "ExactIterLoop"])
@pytest.mark.parametrize("done", [2, 4, 5, 8])
def test_open_steps_are_repeated(tmp_path: Path, loop: str, done: int) -> None:
    """5 iterations per step, 3 per epoch: some begin in an epoch before, 8 amid it.

    The buffers of the batch norm, which were stored as they are, change only once.
    """
    options = dict(loop=loop, length=5 if "Epoch" in loop else 15, accumulation=5)
    whole = build(tmp_path / "whole", **options)
    run(whole)
    path = tmp_path / "whole" / f"iter_{done}.pth"
    resumed = build(tmp_path / "resumed", checkpoint=path, **options)
    run(resumed)
    assert differing_bytes(whole.model.state_dict(), resumed.model.state_dict()) == 0
    repeated = done % 5
    assert resumed.model.seen == whole.model.seen[done - repeated :]
    momentum = [
        runner.optim_wrapper.optimizer.state_dict()["state"]
        for runner in (whole, resumed)
    ]
    assert differing_bytes(*momentum) == 0


def test_another_batch_size_leaves_no_sample_out(tmp_path: Path) -> None:
    """After 4 samples in batches of 3, whose borders are elsewhere."""
    whole = run(build(tmp_path / "whole", length=1))
    path = tmp_path / "whole" / "iter_1.pth"
    options = dict(length=1, batch_size=3)
    resumed = run(build(tmp_path / "resumed", checkpoint=path, **options))
    seen, again = (np.concatenate([x for _, _, x in part]) for part in (whole, resumed))
    assert seen[4:].tolist() == again[:8].tolist()


def test_a_short_last_batch_stays_the_last(tmp_path: Path) -> None:
    options = dict(length=2, drop_last=False)
    whole = run(build(tmp_path / "whole", **options))
    assert [len(x) for _, _, x in whole] == [4, 4, 4, 2] * 2
    path = tmp_path / "whole" / "iter_6.pth"
    assert run(build(tmp_path / "resumed", checkpoint=path, **options)) == whole[6:]


@pytest.mark.parametrize("loop", [ExactEpochLoop, ExactIterLoop])
def test_other_samplers_are_refused(tmp_path: Path, loop: type) -> None:
    runner = build(tmp_path / "run", loop=loop.__name__)
    runner._train_dataloader["sampler"] = dict(type="DefaultSampler")
    with pytest.raises(ValueError, match="DefaultSampler.*type='ExactSampler'"):
        runner.train()


def test_iter_loop_loads_nothing_when_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmengine 0.10.7 begins to read in the constructor of its loop."""

    def read(iterator: object, loader: Iterable) -> None:
        next(iter(loader), None)

    monkeypatch.setattr(_InfiniteDataloaderIterator, "__init__", read)
    runner = build(tmp_path / "run", loop="ExactIterLoop", length=2)
    loop = runner.build_train_loop(runner._train_loop)
    assert loop.dataloader.dataset.asked == 0
    loop.resume_at(DataPosition(0, 10**6, 4 * 10**6))
    next(loop._batches_back(0))
    assert loop.dataloader.dataset.asked == 4


def test_steps_draw_from_their_own_seed() -> None:
    """All generators; another for each rank and iteration."""
    draws = set()
    for rank in range(4):
        for iteration in range(4):
            values = []
            for _ in range(2):
                seed_training_step(1, rank, iteration)
                values.append((torch.rand(()).item(), np.random.rand()))
            assert values[0] == values[1]
            draws.add(values[0])
    assert len(draws) == 16


@pytest.mark.parametrize("loop", ["ExactEpochLoop", "ExactIterLoop"])
def test_no_workers_is_enough_to_say(tmp_path: Path, loop: str) -> None:
    runner = build(tmp_path / "run", loop, checkpoint=None)
    runner._train_dataloader.update(persistent_workers=True, prefetch_factor=2)
    assert len(run(runner)) == (9 if loop == "ExactEpochLoop" else 3)


def test_fewer_images_than_a_batch(tmp_path: Path) -> None:
    """Refused where an epoch would hold no batch; a stream crosses epochs."""
    options = dict(batch_size=16, images=14)
    with pytest.raises(ValueError, match=r"14 images.*16 \(1 p.*batch_size=14 or less"):
        run(build(tmp_path / "refused", **options))
    run(build(tmp_path / "short", **options, drop_last=False))
    run(build(tmp_path / "fits", batch_size=14, images=14))
    seen = run(build(tmp_path / "stream", "ExactIterLoop", **options))
    assert [len(batch) for _, _, batch in seen] == [16, 16, 16]
