"""A checkpoint of a whole model is loaded completely, or the run stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseTTAModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from tiny import tiny_backbone, tiny_saim
from torch import Tensor, nn

from saim_mm.weights import CheckpointError, read_state_dict, write_state_dict
from saim_mm.weights.safe_loader import load_from_local
from saim_mm.weights.whole_model import (
    CompleteLoadHook,
    check_complete,
    forget_pretrained,
)


def classifier(**backbone: Any) -> nn.Module:
    options = dict(out_type="avg_featmap", **backbone)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(
            dict(
                type="ImageClassifier",
                backbone=tiny_backbone(**options),
                head=dict(type="LinearClsHead", num_classes=3, in_channels=16),
            )
        )


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_complete(classifier(), state, "file.pth")
    return str(caught.value)


def test_its_own_weights_are_complete() -> None:
    model = classifier()
    state = model.state_dict()
    check_complete(model, state, "file.pth")
    check_complete(model, {f"module.{k}": v for k, v in state.items()}, "file.pth")
    state["data_preprocessor.mean"] = torch.zeros(3)
    check_complete(model, state, "file.pth")


def test_every_missing_and_unexpected_key_is_refused() -> None:
    state = classifier().state_dict()
    for key in state:
        rest = {k: v for k, v in state.items() if k != key}
        assert f"Missing: {key}." in refusal(rest)
    assert "Unexpected: head.extra." in refusal({**state, "head.extra": torch.zeros(1)})


def test_another_number_of_classes_is_named() -> None:
    state = {**classifier().state_dict(), "head.fc.bias": torch.zeros(4)}
    assert "'head.fc.bias' has shape (4,) and the model's (3,)" in refusal(state)


def test_other_layouts_name_what_to_do() -> None:
    saim = tiny_saim()
    text = refusal(saim.state_dict())
    assert "SAIM pretraining checkpoint" in text
    assert "model.backbone.init_cfg.checkpoint=FILE" in text
    text = refusal(saim.backbone.state_dict())
    assert "Missing: backbone.cls_token" in text
    assert "model.backbone.init_cfg.checkpoint=FILE" in text
    assert "needs no prefix" not in text
    timm = {"blocks.0.attn.qkv.weight": torch.zeros(1)}
    assert "encoder_to_timm.py --reverse" in refusal(timm)


def test_a_runner_with_the_hook_loads_all_or_stops(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    state = classifier().state_dict()
    write_state_dict(good, {k: v + 1 for k, v in state.items()})
    write_state_dict(bad, {k: v for k, v in state.items() if k != "head.fc.bias"})
    runner = Runner(classifier(), str(tmp_path), default_scope="mmpretrain")
    runner.load_checkpoint(str(bad))  # MMEngine's way: in part, and only logged
    runner.register_hook(CompleteLoadHook())
    with pytest.raises(CheckpointError, match=r"Missing: head\.fc\.bias\."):
        runner.load_checkpoint(str(bad))
    runner.load_checkpoint(str(good))
    for key, tensor in runner.model.state_dict().items():
        assert torch.equal(tensor, state[key] + 1)


@pytest.mark.parametrize("file", [None, "gone.pth"])
def test_a_resumed_model_needs_no_pretrained_file(file: str | None) -> None:
    model = classifier(init_cfg=dict(type="Pretrained", checkpoint=file))
    assert forget_pretrained(model) == ["backbone"]
    model.init_weights()
    assert forget_pretrained(model) == []


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_all_keys_goes(tmp_path: Path, wrapper: str) -> None:
    model, path = classifier(), tmp_path / "x.pth"
    state = {key: value + 1 for key, value in model.state_dict().items()}
    wrapped = {f"{wrapper}{key}": value for key, value in state.items()}
    check_complete(model, wrapped, "x.pth")
    write_state_dict(path, wrapped)
    assert read_state_dict(path).keys() == state.keys()
    assert load_from_local(str(path))["state_dict"].keys() == state.keys()
    # What precedes some keys only is part of the model.
    write_state_dict(path, {**wrapped, "head.x": torch.zeros(1)})
    assert f"{wrapper}head.fc.bias" in read_state_dict(path)


class AverageOfTwo(BaseTTAModel):
    """Test-time augmentation whose merging does not matter."""

    def merge_preds(self, data_samples_list: Any) -> Any:
        return [samples[0] for samples in data_samples_list]


@pytest.mark.parametrize("wrapped", [False, True])
def test_test_time_augmentation_loads_the_model_inside(
    wrapped: bool, tmp_path: Path
) -> None:
    state = {key: tensor + 1 for key, tensor in classifier().state_dict().items()}
    prefix = "module." if wrapped else ""
    write_state_dict(tmp_path / "good.pth", {prefix + k: v for k, v in state.items()})
    write_state_dict(tmp_path / "bad.pth", dict(list(state.items())[1:]))
    model = AverageOfTwo(classifier())
    runner = Runner(model, str(tmp_path), default_scope="mmpretrain")
    runner.register_hook(CompleteLoadHook())
    runner.load_checkpoint(str(tmp_path / "good.pth"))
    for key, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, state[key])
    with pytest.raises(CheckpointError, match="not a checkpoint of this ImageClass"):
        runner.load_checkpoint(str(tmp_path / "bad.pth"))
