"""Runs of the real Runner: every recipe shrunk, the debug losses, real photographs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from saim_mm.datasets import without_files
from saim_mm.launch import fit_to_machine

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "data" / "saim_debug_losses.json"
DATA = os.environ.get("SAIM_MM_DATA")


class LossRecorder(Hook):
    """Keeps the loss of every step, unsmoothed."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())


def train(cfg: Config, work_dir: Path) -> tuple[Runner, list[float]]:
    """Trains a config and returns the runner and the loss of every step."""
    cfg.work_dir = str(work_dir)
    fit_to_machine(cfg)
    runner = Runner.from_cfg(cfg)
    recorder = LossRecorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder.losses


def shrink(cfg: Config, size: int = 64, patch: int = 16) -> Config:
    """Only sizes: a few narrow layers on small images in small batches."""
    cfg.model.backbone.update(
        arch=dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64),
        img_size=size,
        patch_size=patch,
    )
    cfg.model.neck.depth = 4
    loader = cfg.train_dataloader
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    for transform in loader.dataset.pipeline:
        if transform["type"] == "LoadRandomResizedCrop":
            transform["scale"] = size
    return cfg


def with_synthetic_images(cfg: Config, num_images: int) -> Config:
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type="SyntheticImages",
        num_images=num_images,
        size=(80, 80),
        pipeline=without_files(dataset.pipeline),
    )
    return cfg


@pytest.mark.parametrize(
    "letter",
    ["s", "b", *(pytest.param(letter, marks=pytest.mark.slow) for letter in "lh")],
)
def test_shrunk_recipe_trains(letter: str, tmp_path: Path) -> None:
    """31 epochs of one step: through the warm-up and into the cosine."""
    cfg = Config.fromfile(ROOT / f"configs/saim/saim_vit-{letter}_300e_in1k.py")
    cfg = with_synthetic_images(shrink(cfg), num_images=4)
    cfg.train_cfg.max_epochs = 31
    runner, losses = train(cfg, tmp_path)
    assert len(losses) == 31
    assert torch.tensor(losses).isfinite().all()
    assert losses[-1] < losses[0]
    assert (tmp_path / "epoch_31.pth").exists()


def test_debug_recipe_repeats_its_losses(tmp_path: Path) -> None:
    """No change intended: the same twenty losses. Change intended: a new file.

    ``python tests/test_training.py`` writes the file anew.
    """
    _, losses = train(Config.fromfile(ROOT / "configs/saim/saim_debug.py"), tmp_path)
    recorded = json.loads(RECORDED.read_text())["losses"]
    assert len(losses) == 20
    assert losses == pytest.approx(recorded, rel=1e-4)


@pytest.mark.skipif(not DATA, reason="SAIM_MM_DATA names no folder of real data")
def test_real_photographs_through_the_unmodified_recipe(tmp_path: Path) -> None:
    """Only sizes and root are overridden; 100 photographs of ImageNet."""
    cfg = shrink(Config.fromfile(ROOT / "configs/saim/saim_vit-b_300e_in1k.py"))
    cfg.train_dataloader.update(batch_size=50, num_workers=2, persistent_workers=True)
    cfg.train_dataloader.dataset.data_root = f"{DATA}/imagenet"
    cfg.train_cfg.max_epochs = 31
    runner, losses = train(cfg, tmp_path)
    assert len(runner.train_dataloader.dataset) == 100
    assert len(losses) == 62
    assert sum(losses[-10:]) / 10 < 0.98 * losses[0]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        config = Config.fromfile(ROOT / "configs/saim/saim_debug.py")
        _, new_losses = train(config, Path(folder))
    RECORDED.write_text(json.dumps(dict(losses=new_losses), indent=1) + "\n")
