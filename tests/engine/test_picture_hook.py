"""The picture hook: what it logs, what it leaves alone, and what time it takes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from saim_mm.engine import PictureHook, picture_hook
from saim_mm.engine.picture_hook import QUARTERS
from saim_mm.visualization import position_errors

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats a config several times a run, which takes most of a tiny one."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.fixture(autouse=True)
def pictures_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a busy machine, where the first one is slow to draw, leaves out the next."""
    monkeypatch.setattr(picture_hook, "perf_counter", lambda: 0.0)


class Recorder(Hook):
    """The exact losses, and what the next step meets."""

    priority = "VERY_LOW"  # after PictureHook

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.states: list = []

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())
        modes = [module.training for module in runner.model.modules()]
        numbers = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
        self.states.append((modes, numbers))


def train(work_dir: Path, *hooks: dict) -> tuple[Runner, Recorder]:
    cfg = Config.fromfile(ROOT / "configs/saim/saim_debug.py")
    cfg.work_dir = str(work_dir)
    cfg.train_dataloader.dataset.num_images = 128
    cfg.train_dataloader.pin_memory = False
    cfg.train_cfg.max_epochs = 2  # of 4 iterations
    cfg.model.backbone.drop_path_rate = 0.3  # draws in training mode only
    cfg.custom_hooks = list(hooks)
    cfg.log_level = "ERROR"
    runner = Runner.from_cfg(cfg)
    runner.model.backbone.layers[0].eval()  # frozen
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def logged(work_dir: Path) -> list[dict]:
    (scalars,) = work_dir.rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [line for line in lines if f"loss_by_step/{QUARTERS[0]}" in line]


@pytest.mark.slow
def test_losses_are_the_same_bit_by_bit_with_and_without(tmp_path) -> None:
    _, without = train(tmp_path / "without")
    hook = dict(type="PictureHook", interval=3, number=2, max_share=1.0)
    runner, with_hook = train(tmp_path / "with", hook)
    assert len(without.losses) == 8
    assert with_hook.losses == without.losses
    assert with_hook.states == without.states

    lines = logged(tmp_path / "with")
    assert [line["step"] for line in lines] == [3, 6]
    pictures = {p.name: p for p in (tmp_path / "with").rglob("vis_image/*.png")}
    assert pictures.keys() == {
        f"{name}_{step}.png"
        for name in ("reconstruction", "feature_maps", "loss_by_step")
        for step in (3, 6)
    }
    sheets = [cv2.imread(str(pictures[f"reconstruction_{s}.png"])) for s in (3, 6)]
    assert sheets[0].shape == sheets[1].shape
    assert not np.array_equal(*sheets)  # another prediction
    assert np.array_equal(*(sheet[:, :250] for sheet in sheets))  # the same images
    (hook,) = (h for h in runner.hooks if isinstance(h, PictureHook))
    assert hook._shown.shape[0] == 2


@pytest.mark.slow
def test_shows_a_folder_and_logs_its_losses_by_quarter(tmp_path) -> None:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    hook = dict(type="PictureHook", interval=8, max_share=1.0, images=str(tmp_path))
    runner, _ = train(tmp_path / "run", hook)
    (line,) = logged(tmp_path / "run")
    (hook,) = (h for h in runner.hooks if isinstance(h, PictureHook))
    assert len(hook._shown) == 3
    errors = position_errors(
        runner.model, [hook._shown], torch.Generator().manual_seed(0)
    )
    steps = errors.mean(dim=0).unflatten(0, (4, -1)).mean(dim=1)
    found = [line[f"loss_by_step/{name}"] for name in QUARTERS]
    assert found == pytest.approx(steps.tolist(), rel=1e-5)


class FakeRunner:
    """As much of a runner as the time-keeping needs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.iter = 0
        self.logger = self
        self.told: list[str] = []

    def info(self, text: str) -> None:
        self.told.append(text)


def test_it_leaves_out_pictures_that_would_take_too_long(monkeypatch) -> None:
    """An iteration takes 1 s and a picture 3 s."""
    now, drawn = 0.0, []
    monkeypatch.setattr(picture_hook, "perf_counter", lambda: now)

    def draw(self, runner) -> None:
        nonlocal now
        now += 3
        drawn.append(runner.iter + 1)

    monkeypatch.setattr(PictureHook, "_draw", draw)
    hook, runner = PictureHook(interval=10, max_share=0.02), FakeRunner(_a_saim())
    hook.before_train(runner)
    for runner.iter in range(2000):
        now += 1
        hook.after_train_iter(runner, runner.iter)
        if len(drawn) > 1:  # from the second on, which the first one paid for
            assert 3 * len(drawn) <= 0.02 * now + 1e-9 + 3 * 0.02
    # The first as soon as it is due; then one each 150 s, at multiples of 10.
    assert drawn[0] == 10
    assert drawn[1] == 300
    assert np.diff(drawn[1:]).min() >= 140
    assert len(drawn) == 2 + (2000 - 300) // 150
    (text,) = runner.told
    assert "takes 3.0 s" in text


def _a_saim() -> nn.Module:
    from tiny import tiny_saim

    return tiny_saim()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(interval=0), "interval=0"),
        (dict(number=0), "number=0"),
        (dict(max_share=0), "max_share=0"),
        (dict(max_share=1.1), "max_share=1.1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PictureHook(**options)


def test_a_model_that_predicts_nothing() -> None:
    with pytest.raises(ValueError, match="the model is a Linear"):
        PictureHook().before_train(FakeRunner(nn.Linear(1, 1)))
