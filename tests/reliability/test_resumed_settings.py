"""A resumed run learns at the rates of its config, from where it is in its data."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from number_runs import Normalised, Numbers

from saim_mm.weights import CheckpointError

WARM_UP = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3)
COSINE = dict(type="CosineAnnealingLR", by_epoch=False, begin=3)
STEPS = dict(type="MultiStepLR", by_epoch=True, milestones=[1, 3], gamma=0.5)
BY_EPOCH = [
    dict(
        type="LinearLR",
        start_factor=0.1,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.01,
        by_epoch=True,
        begin=1,
        convert_to_iter_based=True,
    ),
]
SGD = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.01)


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats the config for each checkpoint: most of a tiny run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


class Watch(Hook):
    """Keeps the optimiser's groups before each iteration; saves where it is told."""

    priority = "LOWEST"

    def __init__(self, save_at: int, **without: bool) -> None:
        self.save_at, self.without = save_at, without
        self.groups: dict[int, list[dict[str, Any]]] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        self.groups[runner.iter] = [
            {k: v for k, v in group.items() if k not in ("params", "foreach")}
            for group in groups
        ]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.save_at:
            runner.save_checkpoint(
                runner.work_dir, "saved.pth", by_epoch=False, **self.without
            )


def build(
    work_dir: Path,
    schedules: list[dict[str, Any]] | None,
    optimizer: dict[str, Any] = SGD,
    length: dict[str, int] | None = None,
    batch_size: int = 2,
    paramwise: dict[str, Any] | None = None,
    resume: Path | None = None,
    save_at: int = 5,
    without: dict[str, bool] | None = None,
    exact: dict[str, Any] | None = None,
) -> Runner:
    length = length or dict(max_epochs=4)
    loop = "ExactEpochLoop" if "max_epochs" in length else "ExactIterLoop"
    torch.manual_seed(0)
    return Runner(
        model=Normalised(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Numbers(8),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type="ExactSampler", seed=1),
            collate_fn=pseudo_collate,
        ),
        train_cfg=dict(type=loop, **length),
        optim_wrapper=dict(
            type="OptimWrapper", optimizer=optimizer, paramwise_cfg=paramwise
        ),
        param_scheduler=schedules,
        default_hooks=dict(
            checkpoint=None, exact=dict(type="ExactResumeHook", **(exact or {}))
        ),
        custom_hooks=[Watch(save_at, **(without or {}))],
        resume=resume is not None,
        load_from=resume and str(resume),
        randomness=dict(seed=1),
        experiment_name=f"{work_dir.parent.name}_{work_dir.name}",
    )


def run(runner: Runner) -> tuple[dict[int, list[dict[str, Any]]], list[str]]:
    """The groups before each iteration, and the warnings that are ours."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    runner.logger.addHandler(handler)
    try:
        runner.train()
    finally:
        runner.logger.removeHandler(handler)
    watch = next(hook for hook in runner.hooks if isinstance(hook, Watch))
    return watch.groups, [line for line in lines if "not an exact" in line]


def save(tmp_path: Path, *args: Any, **options: Any) -> Path:
    run(build(tmp_path / "saved", *args, **options))
    return tmp_path / "saved" / "saved.pth"


def rates(groups: dict[int, list[dict[str, Any]]]) -> dict[int, list[float]]:
    return {i: [group["lr"] for group in some] for i, some in groups.items()}


SCHEDULES = dict(
    iterations=[WARM_UP, COSINE],
    mixed=[WARM_UP, COSINE, STEPS],
    epochs=BY_EPOCH,
    none=None,
)
EACH = pytest.mark.parametrize("schedules", SCHEDULES.values(), ids=SCHEDULES)


@EACH
def test_nothing_is_said_or_changed_if_nothing_differs(
    tmp_path: Path, schedules: Any
) -> None:
    whole, _ = run(build(tmp_path / "whole", schedules))
    path = save(tmp_path, schedules)
    rest, said = run(build(tmp_path / "rest", schedules, resume=path))
    assert said == []
    assert rest == {i: groups for i, groups in whole.items() if i >= 5}


@EACH
@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.3), ("weight_decay", 0.5), ("momentum", 0.5)]
)
def test_the_optimiser_of_the_config_counts(
    tmp_path: Path, schedules: Any, name: str, value: float
) -> None:
    path = save(tmp_path, schedules)
    changed = {**SGD, name: value}
    whole, _ = run(build(tmp_path / "whole", schedules, changed))
    rest, said = run(build(tmp_path / "rest", schedules, changed, resume=path))
    assert rest == {i: groups for i, groups in whole.items() if i >= 5}
    assert len(said) == 1
    assert f"{name} {value} (was {SGD[name]})" in said[0]


@pytest.mark.parametrize("unit", ["max_epochs", "max_iters"])
@pytest.mark.parametrize("long", [False, True])
@EACH
def test_the_schedule_is_that_of_the_new_length(
    tmp_path: Path, schedules: Any, unit: str, long: bool
) -> None:
    if schedules is BY_EPOCH and unit == "max_iters":
        pytest.skip("MMEngine counts no epochs in a loop of iterations")
    short, other = (4, 8) if unit == "max_epochs" else (16, 32)
    if not long:
        short, other = other, short
    path = save(tmp_path, schedules, length={unit: short})
    whole, _ = run(build(tmp_path / "whole", schedules, length={unit: other}))
    again = build(tmp_path / "rest", schedules, length={unit: other}, resume=path)
    rest, said = run(again)
    assert rates(rest) == {i: r for i, r in rates(whole).items() if i >= 5}
    assert bool(said) == bool(schedules)


def test_a_finished_run_is_prolonged(tmp_path: Path) -> None:
    path = save(tmp_path, BY_EPOCH, save_at=16)
    whole, _ = run(build(tmp_path / "whole", BY_EPOCH, length=dict(max_epochs=8)))
    again = build(tmp_path / "rest", BY_EPOCH, length=dict(max_epochs=8), resume=path)
    rest, said = run(again)
    assert rates(rest) == {i: r for i, r in rates(whole).items() if i >= 16}
    assert rest[16][0]["lr"] > 0.03
    assert "T_max 28 (was 12)" in said[0]


def test_schedules_by_epochs_follow_another_batch(tmp_path: Path) -> None:
    """As if it had been the batch from the start; the paper's rule gives the rate."""
    path = save(tmp_path, BY_EPOCH, save_at=6)  # half of the second epoch
    double = dict(optimizer={**SGD, "lr": 0.2}, batch_size=4)
    whole, _ = run(build(tmp_path / "whole", BY_EPOCH, **double))
    rest, said = run(build(tmp_path / "rest", BY_EPOCH, resume=path, **double))
    assert list(rates(rest).values()) == [r for i, r in rates(whole).items() if i >= 3]
    assert "lr 0.2 (was 0.1)" in "".join(said)
    assert "takes 4 images and took 2" in "".join(said)


def test_groups_of_several_rates(tmp_path: Path) -> None:
    paramwise = dict(norm_decay_mult=0.0, custom_keys=dict(weight=dict(lr_mult=0.5)))
    options = dict(paramwise=paramwise)
    path = save(tmp_path, BY_EPOCH, **options)
    options["optimizer"] = {**SGD, "lr": 1.0}
    whole, _ = run(build(tmp_path / "whole", BY_EPOCH, **options))
    rest, said = run(build(tmp_path / "rest", BY_EPOCH, resume=path, **options))
    assert rest == {i: groups for i, groups in whole.items() if i >= 5}
    assert len(rest[5]) > 2  # the last one stands for the rates in the log
    assert "lr 1.0 (was 0.1)" in said[0]


@pytest.mark.parametrize("count", [0, 1])
def test_another_number_of_schedules(tmp_path: Path, count: int) -> None:
    path = save(tmp_path, [WARM_UP, COSINE])
    schedules = [STEPS][:count] or None
    whole, _ = run(build(tmp_path / "whole", schedules))
    rest, said = run(build(tmp_path / "rest", schedules, resume=path))
    assert rates(rest) == {i: r for i, r in rates(whole).items() if i >= 5}
    assert f"schedules {count} (was 2)" in "".join(said)


def test_a_checkpoint_without_schedules(tmp_path: Path) -> None:
    path = save(tmp_path, BY_EPOCH, without=dict(save_param_scheduler=False))
    whole, _ = run(build(tmp_path / "whole", BY_EPOCH))
    rest, said = run(build(tmp_path / "rest", BY_EPOCH, resume=path))
    assert rates(rest) == {i: r for i, r in rates(whole).items() if i >= 5}
    assert "schedules 2 (was 0)" in said[0]


def test_a_checkpoint_without_optimiser(tmp_path: Path) -> None:
    path = save(tmp_path, BY_EPOCH, without=dict(save_optimizer=False))
    with pytest.raises(CheckpointError, match="without_optimizer=True"):
        run(build(tmp_path / "refused", BY_EPOCH, resume=path))
    whole, _ = run(build(tmp_path / "whole", BY_EPOCH))
    exact = dict(without_optimizer=True)
    rest, said = run(build(tmp_path / "rest", BY_EPOCH, resume=path, exact=exact))
    assert rates(rest) == {i: r for i, r in rates(whole).items() if i >= 5}
    assert "holds no state of the optimiser" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(dict(optimizer=dict(type="AdamW", lr=0.1)), id="kind"),
        pytest.param(dict(paramwise=dict(norm_decay_mult=0.0)), id="groups"),
    ],
)
def test_another_optimiser_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = save(tmp_path, BY_EPOCH)
    with pytest.raises(CheckpointError, match="begin a new run from its weights"):
        run(build(tmp_path / "rest", BY_EPOCH, resume=path, **change))


def test_weights_alone_are_no_resume(tmp_path: Path) -> None:
    path = save(tmp_path, BY_EPOCH, without=dict(save_optimizer=False))
    runner = build(tmp_path / "rest", BY_EPOCH)
    runner._load_from = str(path)
    groups, said = run(runner)
    assert list(groups) == list(range(16))
    assert said == []
