"""A run on images of 13 bands, from files to features that know what is in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bands import write_kinds
from mmengine.config import Config
from mmengine.runner import Runner, save_checkpoint
from test_training import ROOT, shrink, train

from saim_mm import api
from saim_mm.datasets.channel_preprocessor import channel_statistics

RECIPE = ROOT / "configs/saim/saim_vit-s_300e_bands-13.py"
KINDS, STEPS = 6, 400


def small_run(data: Path) -> Config:
    """The recipe on small images, and for so many steps."""
    cfg = shrink(Config.fromfile(RECIPE), size=32, patch=8)
    found = channel_statistics(data, 13)
    cfg.data_preprocessor.update(mean=found.mean.tolist(), std=found.std.tolist())
    arch = dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=128)
    cfg.model.backbone.arch = arch
    loader = cfg.train_dataloader
    loader.update(batch_size=32, sampler=dict(type="ExactSampler", shuffle=True))
    loader.dataset.data_root = str(data)
    cfg.train_cfg = dict(type="ExactIterLoop", max_iters=STEPS)
    cfg.optim_wrapper = dict(
        type="OptimWrapper", optimizer=dict(type="AdamW", lr=4e-3, weight_decay=0.05)
    )
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=20),
        dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=20),
    ]
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=STEPS)
    cfg.randomness = dict(seed=0)
    return cfg


def untrained(cfg: Config, folder: Path) -> Path:
    """The model that a run begins with."""
    model = Runner.from_cfg(Config({**cfg.to_dict(), "work_dir": str(folder)})).model
    model.init_weights()
    content = dict(state_dict=model.state_dict(), meta=dict(cfg=cfg.pretty_text))
    save_checkpoint(content, str(folder / "untrained.pth"))
    return folder / "untrained.pth"


@pytest.mark.slow
def test_saim_learns_what_is_below_the_haze(tmp_path: Path) -> None:
    """Six kinds, of which a sixth is right by chance; brightness tells nothing."""
    pytest.importorskip("tifffile")
    data = write_kinds(tmp_path / "data", KINDS, train=24, judged=20, haze=4000)
    cfg = small_run(data / "train")
    before = untrained(cfg, tmp_path / "before")
    _, losses = train(cfg, tmp_path / "run")
    assert losses[0] > 1 and np.mean(losses[-10:]) < 0.3
    after = tmp_path / "run" / f"iter_{STEPS}.pth"
    first, last = (
        api.knn(encoder, data, k=(10,), workers=0, device="cpu").figures["accuracy_k10"]
        for encoder in (before, after)
    )
    assert first < 65 and last > 85
