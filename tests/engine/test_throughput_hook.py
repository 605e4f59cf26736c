"""ThroughputHook: figures by a fake clock, and what it leaves alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from tiny import tiny_saim
from torch import nn

from saim_mm.engine import throughput_hook
from saim_mm.engine.throughput_hook import ThroughputHook
from saim_mm.evaluation.flops import saim_flops

CONFIGS = Path(__file__).parents[2] / "configs"
FIGURES = {"images_per_s", "data_share"}


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(throughput_hook, "perf_counter", fake)
    return fake


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> SimpleNamespace:
    """As much of a runner as the hook needs."""
    return SimpleNamespace(
        model=nn.Identity(),
        message_hub=MessageHub(request.node.name),
        logger=SimpleNamespace(info=lambda text: None),
    )


def batch_of(images: int) -> dict[str, Any]:
    return dict(inputs=torch.zeros(images, 3, 8, 12), data_samples=[None] * images)


def iterate(
    hook: ThroughputHook,
    runner: Any,
    clock: Clock,
    wait: float,
    work: float,
    batch: Any = None,
) -> None:
    """One iteration; the loop asks for the batch first."""
    batch = batch or batch_of(4)
    clock.now += wait
    hook.before_train_iter(runner, 0, batch)
    clock.now += work
    hook.after_train_iter(runner, 0, batch, {})


def figures(runner: Any) -> dict[str, float]:
    return {
        key.removeprefix("train/"): scalar.current()
        for key, scalar in runner.message_hub.log_scalars.items()
    }


def test_images_per_second_and_share_of_the_last_iterations(clock, runner) -> None:
    hook = ThroughputHook(window=2)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=3, work=1)
    assert figures(runner) == dict(images_per_s=1, data_share=0.75)
    iterate(hook, runner, clock, wait=1, work=3, batch=batch_of(12))
    assert figures(runner) == dict(images_per_s=2, data_share=0.5)
    iterate(hook, runner, clock, wait=0, work=1)  # the first one has left the window
    assert figures(runner) == pytest.approx(dict(images_per_s=16 / 5, data_share=0.2))


def test_all_processes_count(clock, runner, monkeypatch) -> None:
    monkeypatch.setattr(throughput_hook, "get_world_size", lambda: 8)
    hook = ThroughputHook(peak_tflops=1)
    runner.model = tiny_saim()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=0, work=2)
    found = figures(runner)
    assert found["images_per_s"] == 16
    # Of one process, as its peak is.
    assert found["mfu"] == pytest.approx(2 * saim_flops(runner.model).step / 1e12)


def test_validation_and_the_end_of_an_epoch_are_left_out(clock, runner) -> None:
    hook = ThroughputHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=1, work=1)
    clock.now += 1000
    hook.after_val(runner)
    iterate(hook, runner, clock, wait=1, work=1)
    clock.now += 1000
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=1, work=1)
    assert figures(runner) == dict(images_per_s=2, data_share=0.5)


@pytest.mark.parametrize(
    ("batch", "images"),
    [
        (dict(inputs=[torch.zeros(3, 4, 4)] * 5, data_samples=[None] * 5), 5),
        (dict(inputs=[torch.zeros(6, 3, 4, 4)] * 2, data_samples=[None] * 6), 6),
        (dict(inputs=torch.zeros(3, 1)), 3),
        ((torch.zeros(3, 1), torch.zeros(3)), None),
        (dict(img=torch.zeros(3, 1)), None),
    ],
    ids=["detector", "views", "inputs only", "tuple", "other keys"],
)
def test_any_batch(clock, runner, batch: Any, images: int | None) -> None:
    hook = ThroughputHook(peak_tflops=1)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=1, work=1, batch=batch)
    found = figures(runner)
    assert found.pop("data_share") == 0.5
    # No closed form for other models than SAIM, so no MFU.
    assert found == ({} if images is None else dict(images_per_s=images / 2))


def test_no_utilisation_without_a_peak(clock, runner) -> None:
    if torch.cuda.is_available():
        pytest.skip("the GPU's peak may be known")
    hook = ThroughputHook()
    runner.model = tiny_saim()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    iterate(hook, runner, clock, wait=1, work=1)
    assert set(figures(runner)) == FIGURES


@pytest.mark.parametrize("window", [0, -1, 2.5, "100"])
def test_wrong_window(window: Any) -> None:
    with pytest.raises(ValueError, match="window=.* must be a positive number"):
        ThroughputHook(window=window)


def test_wrong_peak() -> None:
    with pytest.raises(ValueError, match=r"peak_tflops=0 must be positive"):
        ThroughputHook(peak_tflops=0)


class Losses(Hook):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.seen.append(outputs["loss"].item())


def train(work_dir: Path, throughput: dict[str, Any] | None) -> list[float]:
    cfg = Config.fromfile(CONFIGS / "saim/saim_debug.py")
    cfg.work_dir = str(work_dir)
    del cfg.default_hooks.throughput
    cfg.custom_hooks = [] if throughput is None else [throughput]
    cfg.train_dataloader.dataset.num_images = 96
    cfg.train_dataloader.pin_memory = False
    cfg.train_cfg.max_epochs = 2
    runner = Runner.from_cfg(cfg)
    losses = Losses()
    runner.register_hook(losses)
    runner.train()
    return losses.seen


def test_losses_are_the_same_bit_by_bit_and_the_figures_are_logged(
    tmp_path: Path,
) -> None:
    default = Config.fromfile(CONFIGS / "saim/saim_debug.py").default_hooks.throughput
    without = train(tmp_path / "without", None)
    hook = dict(default, peak_tflops=0.1)
    assert train(tmp_path / "with", hook) == without
    assert len(without) == 6

    (scalars,) = (tmp_path / "with").rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert not FIGURES & set(lines[0])  # nothing is behind it yet
    for line in lines[1:]:
        assert FIGURES | {"mfu"} <= set(line)
        assert 0 <= line["data_share"] <= 1
        assert line["mfu"] > 0
    (log,) = (tmp_path / "with").rglob("*.log")
    assert "GFLOP per image and step, of 0.1 TFLOP/s per process." in log.read_text()
    shown = r"images_per_s: \d+\.\d+  mfu: \d\.\d+"
    assert len(re.findall(shown, log.read_text())) == 5


@pytest.mark.parametrize(
    "name",
    [
        "coco/mask-rcnn_saim-vit-b_100e_coco.py",
        "ade20k/upernet_saim-vit-b_160k_ade20k-512.py",
        "saim/saim_vit-b_800e_in1k.py",
    ],
)
def test_every_kind_of_run_has_it(name: str) -> None:
    cfg = Config.fromfile(CONFIGS / name, import_custom_modules=False)
    assert cfg.default_hooks.throughput == dict(type="ThroughputHook")
