"""A checkpoint of a whole model is loaded completely, or the run stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import Regression, run_config
from mmengine.model import BaseTTAModel
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from tiny import tiny_backbone, tiny_saim
from torch import Tensor, nn

from saim_mm.weights import CheckpointError, read_state_dict, write_state_dict
from saim_mm.weights.safe_loader import load_from_local
from saim_mm.weights.whole_model import (
    CompleteLoadHook,
    check_backbone,
    check_complete,
    forget_pretrained,
)


def classifier(classes: int = 3, **backbone: Any) -> nn.Module:
    options = {"out_type": "avg_featmap", **backbone}
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(
            dict(
                type="ImageClassifier",
                backbone=tiny_backbone(**options),
                head=dict(type="LinearClsHead", num_classes=classes, in_channels=16),
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


# ---- load_from, for training ---------------------------------------------------------


def without_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s,
        lambda s: classifier(classes=7).state_dict(),  # a head for other classes
        lambda s: {k: t for k, t in s.items() if "head" not in k},
        lambda s: {f"module.{k}": t for k, t in s.items()},
        lambda s: classifier(image_size=(32, 16)).state_dict(),  # another grid
        lambda s: {**s, "backbone.mask_token": torch.zeros(1), "teacher.x": 1},
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_whole_backbone_may_be_trained_on(change: Any, nested: bool) -> None:
    model = classifier()
    state = change(model.state_dict())
    check_backbone(model, {"state_dict": state} if nested else state, "file.pth")


def test_a_pretraining_checkpoint_may_lack_no_norm() -> None:
    state = tiny_saim().state_dict()
    check_backbone(classifier(out_type="featmap"), state, "x.pth")
    with pytest.raises(CheckpointError, match=r"ln2\.weight, ln2\.bias missing"):
        check_backbone(classifier(), state, "x.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_backbone, "missing"),  # a bare encoder
        (lambda s: {"backbone": s}, "missing"),
        (lambda s: {"model": s}, "missing"),  # where MMEngine does not look
        (lambda s: {f"encoder.{k}": t for k, t in s.items()}, "missing"),
        (lambda s: dict(list(s.items())[1:]), "cls_token missing"),
        (
            lambda s: {**s, "backbone.ln2.bias": torch.zeros(3)},
            "ln2.bias of another shape",
        ),
        (lambda s: {**s, "backbone.ln2.bias": 3}, "ln2.bias of another shape"),
        (
            lambda s: classifier(num_layers=5).state_dict(),
            r"layers\.4\.ln1\.weight.*without a place",
        ),
        (lambda s: classifier(num_layers=3).state_dict(), "missing"),
        (lambda s: classifier(patch_size=(2, 2)).state_dict(), "of another shape"),
        (lambda s: {"blocks.0.attn.qkv.weight": torch.zeros(1)}, "timm ViT"),
        (lambda s: {}, "missing"),
    ],
)
def test_a_backbone_in_part_is_refused(change: Any, message: str) -> None:
    model = classifier()
    with pytest.raises(CheckpointError, match=message) as refusal:
        check_backbone(model, {"state_dict": change(model.state_dict())}, "file.pth")
    assert str(refusal.value).startswith("file.pth: not the backbone of this Image")
    assert "model.backbone.init_cfg.checkpoint=FILE" in str(refusal.value)


def test_models_of_others_load_as_they_did() -> None:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        resnet = MODELS.build(
            dict(
                type="ImageClassifier",
                backbone=dict(
                    type="ResNet", depth=18, stem_channels=8, base_channels=8
                ),
                head=dict(type="ClsHead"),
            )
        )
    state = resnet.state_dict()
    old = {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}
    check_backbone(resnet, old, "x.pth")
    with pytest.raises(CheckpointError, match="conv1"):
        check_backbone(resnet, {k: t for k, t in state.items() if "conv1" not in k}, "")
    check_backbone(nn.Linear(2, 2), {"nothing": torch.zeros(1)}, "x.pth")


@ROOT_MODELS.register_module(force=True)
class TwoParts(Regression):
    """A backbone, and a head of ``width`` outputs."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width)
        self.backbone = nn.Linear(4, 4)

    def forward(self, inputs: Tensor, mode: str = "loss") -> Any:
        return super().forward(self.backbone(torch.stack(list(inputs))), mode)


def test_training_from_a_bare_encoder_stops_before_the_first_step(
    tmp_path: Path,
) -> None:
    path, state = tmp_path / "x.pth", TwoParts(width=3).state_dict()

    def runner_of(name: str) -> Runner:
        config = run_config(tmp_path / name, max_epochs=1, load_from=str(path))
        config["model"] = dict(type="TwoParts")
        config["optim_wrapper"]["optimizer"]["lr"] = 0.0
        return Runner.from_cfg(config)

    write_state_dict(path, without_backbone(state))
    runner = runner_of("refused")
    with pytest.raises(CheckpointError, match=r"x\.pth: .*weight, bias missing"):
        runner.train()
    assert runner.iter == 0
    write_state_dict(path, state)
    runner = runner_of("trained")
    runner.train()
    found = runner.model.state_dict()
    assert torch.equal(found["backbone.weight"], state["backbone.weight"])
    assert found["linear.weight"].shape == (4, 4)  # another head, from scratch
