"""A model from config and checkpoint: with all of its weights, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from tiny import tiny_config, tiny_saim

from saim_mm.weights import CheckpointError
from saim_mm.weights.load_model import build_model, load_model


def write(folder: Path, **options) -> tuple[Path, Path]:
    config, checkpoint = folder / "config.py", folder / "model.pth"
    preprocessor = dict(type="SelfSupDataPreprocessor", mean=[1.0] * 3, std=[2.0] * 3)
    config.write_text(
        f"model = {tiny_config(**options)!r}\ndata_preprocessor = {preprocessor!r}\n"
    )
    torch.save(dict(state_dict=tiny_saim(**options).state_dict()), checkpoint)
    return config, checkpoint


def test_loads_weights_and_preprocessor(tmp_path: Path) -> None:
    model = load_model(*write(tmp_path))
    expected = tiny_saim().state_dict()
    found = model.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not model.training
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    config, _ = write(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, checkpoint = write(other, depth=2)
    with pytest.raises(CheckpointError, match="Missing"):
        load_model(config, checkpoint)
    with pytest.raises(FileNotFoundError):
        load_model(config, tmp_path / "none.pth")
    config.write_text("a = 1\n")
    with pytest.raises(ValueError, match="has no model"):
        load_model(config, checkpoint)


def test_builds_as_the_runner_does_and_changes_nothing(tmp_path: Path) -> None:
    cfg = Config.fromfile(write(tmp_path)[0])
    cfg.default_scope = "mmpretrain"
    before = cfg.to_dict()
    model = build_model(cfg)
    assert model.training
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3
    cfg.model.data_preprocessor = dict(mean=[3.0] * 3, std=[1.0] * 3)
    assert build_model(cfg).data_preprocessor.mean.flatten().tolist() == [3.0] * 3
    del cfg.model.data_preprocessor
    assert cfg.to_dict() == before
    assert DefaultScope.get_current_instance() is None


def test_initialises_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = Config.fromfile(write(tmp_path)[0])
    logger = MMLogger.get_current_instance()
    logger.setLevel("INFO")
    lines: list[str] = []
    monkeypatch.setattr(
        type(logger), "handle", lambda self, record: lines.append(record.getMessage())
    )
    assert build_model(cfg, init_weights=True).is_init
    assert not lines
    assert logger.level == 20
    assert not build_model(cfg).is_init
