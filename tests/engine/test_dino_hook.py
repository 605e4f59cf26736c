"""DINOHook: clipping, freezing, the teacher's path, and runs that go on exactly."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exact_runs import differing_bytes, make_images, run_config, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from torch import nn

from saim_mm.engine import DINOHook
from saim_mm.engine.dino_hook import clip_each

SIZES = dict(hidden_channels=12, bottleneck_channels=8, out_channels=10)
MODEL = dict(
    type="DINOPretraining",
    backbone=dict(
        type="VisionTransformer",
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=16,
        patch_size=4,
        drop_path_rate=0.3,
    ),
    neck=dict(type="DINOProjector", in_channels=16, learn_gain=True, **SIZES),
    head=dict(type="DINOHead", out_channels=10, warmup_epochs=3),
)
CROP = dict(type="RandomResizedCrop", scale=16, backend="pillow")
COLOUR = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
    dict(type="RandomGrayscale", prob=0.2, keep_channels=True),
]
BLUR = dict(type="GaussianBlur", magnitude_range=(0.1, 2.0), magnitude_std="inf")
VIEWS = [
    [CROP, *COLOUR, {**BLUR, "prob": 1.0}],
    [CROP, *COLOUR, dict(type="Solarize", thr=128, prob=0.5)],
    [{**CROP, "scale": 8, "crop_ratio_range": (0.05, 0.3)}, *COLOUR],
]
WEIGHT_DECAY = dict(
    type="CosineAnnealingParamScheduler",
    param_name="weight_decay",
    eta_min_ratio=10,
    by_epoch=True,
    convert_to_iter_based=True,
)


@HOOKS.register_module(force=True)
class Keep(Hook):
    """Keeps student, teacher and groups after every iteration."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        model = runner.model
        self.rows.append(
            dict(
                student=[p.detach().clone() for p in model.student.parameters()],
                teacher=[
                    p.clone()
                    for part in model.student
                    for p in getattr(model, part).parameters()
                ],
                last=[p.detach().clone() for p in model.student["neck"].last_layer],
                decay=[g["weight_decay"] for g in runner.optim_wrapper.param_groups],
                temperature=model.head.temperature.item(),
            )
        )


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats the config for each checkpoint: most of a tiny run."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_images(tmp_path_factory.mktemp("images"), 13)


def dino_run(images: str, work_dir: Path, **options: Any) -> Config:
    """3 epochs of 3 iterations of 4 images, 2 large and 2 small crops of each."""
    hook = options.pop("hook", {})
    options = dict(accumulation=1, model=MODEL) | options
    cfg = run_config(images, work_dir, **options)
    cfg.train_dataloader.dataset.pipeline[1:-1] = [
        dict(type="MultiView", num_views=[1, 1, 2], transforms=VIEWS)
    ]
    cfg.optim_wrapper.update(
        constructor="SAIMOptimWrapperConstructor",
        optimizer=dict(type="AdamW", lr=1e-2, weight_decay=0.04),
    )
    cfg.param_scheduler = [WEIGHT_DECAY]
    cfg.custom_hooks += [dict(type="DINOHook", **hook), dict(type="Keep")]
    return cfg


def rows_of(runner: Any) -> list[dict[str, Any]]:
    return next(hook for hook in runner.hooks if isinstance(hook, Keep)).rows


def test_teacher_is_the_closed_form_of_its_average(images: str, tmp_path: Path) -> None:
    cfg = dino_run(images, tmp_path, hook=dict(momentum=0.9))
    rows = rows_of(train(cfg)["runner"])
    assert len(rows) == 9
    # m_1..m_8 of teacher 0, and of each student what the later steps left of it.
    moments = [1 - 0.1 * (1 + math.cos(math.pi * t / 9)) / 2 for t in range(9)]
    weights = [(1 - moments[t]) * math.prod(moments[t + 1 :]) for t in range(1, 9)]
    for place, teacher in enumerate(rows[-1]["teacher"]):
        average = math.prod(moments[1:]) * rows[0]["teacher"][place]
        for row, weight in zip(rows[1:], weights, strict=True):
            average = average + weight * row["student"][place]
        torch.testing.assert_close(teacher, average, rtol=1e-5, atol=1e-6)


def test_last_layer_stays_in_the_first_epoch_bit_for_bit(
    images: str, tmp_path: Path
) -> None:
    rows = rows_of(train(dino_run(images, tmp_path))["runner"])
    for place in (0, 1):  # prototypes and their gain
        last = [row["last"][place] for row in rows]
        assert all(torch.equal(last[0], value) for value in last[:3])
        assert not torch.equal(last[2], last[3])
    assert [row["temperature"] for row in rows] == pytest.approx(
        [0.04] * 3 + [0.055] * 3 + [0.07] * 3
    )


def test_weight_decay_rises_where_there_is_any(images: str, tmp_path: Path) -> None:
    rows = rows_of(train(dino_run(images, tmp_path))["runner"])
    for step, row in enumerate(rows[:-1]):  # the scheduler has made one more step
        rising = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * (step + 1) / 9)) / 2
        assert sorted({*row["decay"][:2]}) == pytest.approx([0, rising])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_is_the_uninterrupted_one(
    images: str, tmp_path: Path, accumulation: int
) -> None:
    """Student, teacher, centre, schedules and crops; also in the frozen epoch."""
    options = dict(accumulation=accumulation, hook=dict(frozen_epochs=2))
    points = ["iter_2", "epoch_1", "iter_5"]
    cfg = dino_run(images, tmp_path / "whole", points=points, **options)
    whole = train(cfg)
    for point in points:
        cfg = dino_run(images, tmp_path / point, **options)
        resumed = train(cfg, tmp_path / "whole" / f"{point}.pth")
        done = 9 - len(resumed["rows"])
        assert resumed["rows"] == whole["rows"][done:], point
        assert differing_bytes(resumed["state"], whole["state"]) == 0, point


def test_accumulated_iterations_move_nothing(images: str, tmp_path: Path) -> None:
    rows = rows_of(train(dino_run(images, tmp_path, accumulation=3))["runner"])
    for first in (0, 3, 6):
        teachers = [row["teacher"] for row in rows[first : first + 3]]
        assert differing_bytes(teachers[0], teachers[1]) == 0
        assert differing_bytes(teachers[1], teachers[2]) > 0


def test_skipped_step_moves_nothing(images: str, tmp_path: Path) -> None:
    cfg = dino_run(images, tmp_path)
    cfg.custom_hooks += [dict(type="FiniteGuardHook"), dict(type="SpoilLoss", at=4)]
    rows = rows_of(train(cfg)["runner"])
    assert differing_bytes(rows[3]["teacher"], rows[4]["teacher"]) == 0
    assert differing_bytes(rows[4]["teacher"], rows[5]["teacher"]) > 0


class Fused(torch.optim.Optimizer):
    """Takes ``found_inf`` as a fused one does; only those of a GPU do in all torch."""

    def step(self, closure: Any = None) -> None:
        """Leaves the student as it is, in either case."""


@pytest.mark.parametrize("skipped", [True, False])
def test_step_that_a_fused_optimiser_skips_moves_nothing(skipped: bool) -> None:
    """The host does not know of it, but for what the optimiser was handed."""
    model = MODELS.build(MODEL)
    model.init_weights()
    parameters = list(model.student.parameters())
    optimizer = Fused(parameters, {})
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=SimpleNamespace(optimizer=optimizer),
        train_dataloader=[None],
        iter=0,
        max_iters=10,
    )
    DINOHook(momentum=0.5, frozen_epochs=0).before_train(runner)
    for parameter in parameters:
        parameter.data += 1
        parameter.grad = torch.zeros_like(parameter)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.head._means = [torch.full((10,), math.nan if skipped else 1.0)]
    optimizer.found_inf = torch.tensor(float(skipped))
    optimizer.step()
    after = model.state_dict()
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    assert ("head.center" in moved) is not skipped
    assert ("backbone.cls_token" in moved) is not skipped
    assert not (skipped and moved)
    if not skipped:
        torch.testing.assert_close(after["head.center"], torch.full((10,), 0.1))


@HOOKS.register_module(force=True)
class SpoilLoss(Hook):
    """Makes the centre, and with it the loss of one iteration, not a number."""

    def __init__(self, at: int) -> None:
        self.at = at

    def before_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        centre = runner.model.head.center
        if runner.iter == self.at:
            self.kept = centre.clone()
            centre.fill_(math.nan)
        elif runner.iter == self.at + 1:
            centre.copy_(self.kept)


@pytest.mark.parametrize("scale", [None, 8.0])
def test_each_gradient_is_clipped_by_itself(scale: float | None) -> None:
    large, small = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    unused = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([large, small, unused], lr=1)
    factor = scale or 1.0
    large.grad = torch.tensor([30.0, 40.0]) * factor
    small.grad = torch.tensor([0.3, 0.4]) * factor
    if scale:
        optimizer.grad_scale = torch.tensor(scale)
    clip_each(optimizer, 3.0)
    assert large.grad.tolist() == pytest.approx([1.8 * factor, 2.4 * factor])
    assert small.grad.tolist() == pytest.approx([0.3 * factor, 0.4 * factor])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(momentum=1.5), r"momentum=1.5.*\[0, 1\]"),
        (dict(max_norm=0), "max_norm=0.*None"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DINOHook(**options)


def test_another_model_is_refused(images: str, tmp_path: Path) -> None:
    cfg = run_config(images, tmp_path)
    cfg.custom_hooks += [dict(type="DINOHook")]
    with pytest.raises(ValueError, match="serves DINOPretraining.*SAIM"):
        train(cfg)
