"""Schedules follow the length of a run, and stay as written where they fit."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import MultiStepLR
from mmengine.registry import PARAM_SCHEDULERS

from saim_mm.reliability import MultiStepShareLR
from saim_mm.reliability.schedules import fit_warm_ups

ROOT = Path(__file__).parents[2]


def recipes() -> dict[str, Config]:
    """The configs that train, one of each schedule and length."""
    found: dict[tuple[str, str], tuple[str, Config]] = {}
    for folder in ("configs", "projects"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_base_" in path.parts or "configs" not in path.parts:
                continue
            cfg = Config.fromfile(path, import_custom_modules=False)
            if cfg.get("param_scheduler") and cfg.get("train_cfg"):
                key = repr(cfg.param_scheduler), repr(cfg.train_cfg)
                found.setdefault(key, (path.stem, cfg))
    return dict(found.values())


RECIPES = recipes()


def fitted(
    schedules: Any, iterations: int, epoch_length: int = 1
) -> list[dict[str, Any]]:
    runner: Any = SimpleNamespace(
        param_schedulers=copy.deepcopy(schedules), logger=logging.getLogger("fit")
    )
    fit_warm_ups(runner, iterations, epoch_length)
    return runner.param_schedulers


def rates(
    schedules: Any, iterations: int, epoch_length: int = 1, lr: float = 1.0
) -> list[float]:
    """The rate at every iteration, with schedules built as Runner builds them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    built = []
    for schedule in fitted(schedules, iterations, epoch_length):
        epochs = iterations // epoch_length
        end = epochs if schedule.get("by_epoch", True) else iterations
        default = dict(optimizer=optimizer, epoch_length=epoch_length)
        built.append(
            PARAM_SCHEDULERS.build({"end": end, **schedule}, default_args=default)
        )
    found = []
    for iteration in range(1, iterations + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for schedule in built:
            if not schedule.by_epoch or iteration % epoch_length == 0:
                schedule.step()
    return found


def test_there_are_recipes_of_every_kind() -> None:
    """The other tests go through them."""
    kinds = ("saim", "mask-rcnn", "vitdet", "upernet", "mae", "linear", "finetune")
    assert all(any(kind in name for name in RECIPES) for kind in kinds)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_its_own_length_is_as_it_is_written(name: str) -> None:
    cfg = RECIPES[name]
    length = 625
    total = cfg.train_cfg.get("max_iters", cfg.train_cfg.get("max_epochs", 0) * length)
    assert fitted(cfg.param_scheduler, total, length) == cfg.param_scheduler


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_runs_for_one_short_epoch(name: str) -> None:
    cfg = RECIPES[name]
    peak = cfg.optim_wrapper.optimizer.lr
    for length in (1, 2, 3, 7, 100):
        found = rates(cfg.param_scheduler, length, length, peak)
        assert max(found) == pytest.approx(peak)
        assert found.index(max(found)) <= length // 2
        assert length < 100 or found[-1] < 0.05 * peak
        if len(cfg.param_scheduler) > 1 and length >= 4:
            # There is a warm-up; XTRA's begins at a tenth of the rate.
            assert found[0] < 0.11 * peak


@pytest.mark.parametrize("epochs", [59, 61, 300])
def test_the_warm_up_takes_half_of_the_run_at_most(epochs: int) -> None:
    cfg = Config.fromfile(ROOT / "configs/saim/saim_vit-b_300e_in1k.py")
    for length in (1, 7):
        found = rates(cfg.param_scheduler, epochs * length, length)
        assert found.index(max(found)) + 1 == min(30 * length, epochs * length // 2)


def test_milestones_are_shares_of_the_run() -> None:
    """ViTDet's own numbers for its own length; the same shares of a shorter one."""
    path = ROOT / "configs/coco/vitdet_saim-vit-b_100e_coco.py"
    cfg = Config.fromfile(path, import_custom_modules=False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {**cfg.param_scheduler[1], "end": cfg.train_cfg.max_iters}
    built = PARAM_SCHEDULERS.build(options, default_args=dict(optimizer=optimizer))
    assert built.milestones == {163889: 1, 177546: 1}
    found = rates(cfg.param_scheduler, 2700)
    assert [i for i in range(300, 2700) if found[i] < 0.5 * found[i - 1]] == [
        2400,
        2600,
    ]


def test_milestones_may_be_steps() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    own = MultiStepShareLR(optimizer, milestones=[3, 5.0], end=9)
    other = MultiStepLR(optimizer, milestones=[3, 5], end=9)
    assert own.milestones == other.milestones


WARM_UP = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=60)


@pytest.mark.parametrize(
    "schedules",
    [
        pytest.param([WARM_UP], id="rates are tried out"),
        pytest.param(
            [{**WARM_UP, "start_factor": 1.0, "end_factor": 0.1}], id="linear decay"
        ),
        pytest.param(
            [{**WARM_UP, "end": 50}, dict(type="PolyLR", by_epoch=False, begin=50)],
            id="half",
        ),
        pytest.param(
            [WARM_UP, dict(type="PolyLR", by_epoch=False, begin=0)], id="at once"
        ),
    ],
)
def test_what_fits_is_left_alone(schedules: list[dict[str, Any]]) -> None:
    length = schedules[0]["end"] if len(schedules) == 1 else 100
    assert fitted(schedules, length) == schedules


def test_one_dict_and_built_schedules() -> None:
    assert fitted(WARM_UP, 20)["end"] == 10
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    built = [MultiStepLR(optimizer, milestones=[3])]
    runner: Any = SimpleNamespace(param_schedulers=built)
    fit_warm_ups(runner, 2, 1)
    assert runner.param_schedulers is built
