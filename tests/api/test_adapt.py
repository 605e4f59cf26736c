"""A SAIM encoder in any config by one call."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from tiny import randomise, tiny_config
from torch import nn

from saim_mm.api import _outputs
from saim_mm.api._outputs import Outputs, outputs_of, without_weights
from saim_mm.api._trial import made_up_batch
from saim_mm.api.adapt import adapt, config_path
from saim_mm.cli import adapt as verb
from saim_mm.weights import CheckpointError

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

SIZE = (64, 64)
RETINANET = "mmdet::retinanet/retinanet_r50-caffe_fpn_1x_coco.py"
FCN = "mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"
RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
VIT = "mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py"


def save_encoder(folder: Path, **options: Any) -> Path:
    sizes = dict(image_size=224, patch_size=16, embed_dims=64, depth=1)
    saim = MODELS.build(tiny_config(**{**sizes, **options}))
    randomise(saim, seed=0)
    torch.save(dict(state_dict=saim.state_dict()), folder / "epoch_800.pth")
    return folder / "epoch_800.pth"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four layers, two heads and 64 channels."""
    return save_encoder(tmp_path_factory.mktemp("pretraining"))


def backbone_of(config: str) -> ConfigDict:
    return Config.fromfile(config_path(config)).model.backbone


CHANGED = {
    RETINANET: (
        Outputs((256, 512, 1024, 2048), (4, 8, 16, 32)),
        {"_base_", "custom_imports", "model", "optim_wrapper"}
        | {"find_unused_parameters"},  # its neck starts at the second level
    ),
    FCN: (
        Outputs((64, 128, 256, 512), (4, 8, 8, 8)),
        {"_base_", "custom_imports", "model", "optim_wrapper", "param_scheduler"}
        | {"find_unused_parameters"},  # its heads read two of four levels
    ),
    RESNET: (
        Outputs((512,), (32,)),
        {"_base_", "custom_imports", "model", "data_preprocessor", "optim_wrapper"},
    ),
}


@pytest.mark.parametrize("config", CHANGED)
def test_only_the_named_settings_change(
    config: str, encoder: Path, tmp_path: Path
) -> None:
    done = adapt(config, encoder, tmp_path / "child.py", num_heads=2, image_size=SIZE)
    assert (tmp_path / "child.py").read_text() == done.text
    assert done.path == tmp_path / "child.py"
    outputs, names = CHANGED[config]
    assert done.outputs == outputs
    settings: dict[str, Any] = {}
    exec(done.text, settings)
    assert set(settings) - {"__builtins__"} == names
    child, parent = Config.fromfile(done.path), Config.fromfile(config_path(config))
    backbone = child.model.pop("backbone")
    assert backbone.type == "MultiLevelViT"
    assert (backbone.out_channels, backbone.out_strides) == (
        outputs.channels,
        outputs.strides,
    )
    parent.model.pop("backbone")
    for cfg in (child, parent):
        assert cfg.model.pop("pretrained", None) is None or cfg is parent
        preprocessor = cfg.model.pop("data_preprocessor", None)
        preprocessor = preprocessor or cfg.pop("data_preprocessor")
        if cfg is child:
            assert preprocessor.mean == [123.675, 116.28, 103.53]
            assert preprocessor.std == [58.395, 57.12, 57.375]
            rgb = {preprocessor.get("bgr_to_rgb"), preprocessor.get("to_rgb")}
            assert rgb == {True, None}
        cfg.pop("optim_wrapper")
        for name in names - {"model"}:
            cfg.pop(name, None)
    assert without_scope(child.to_dict()) == without_scope(parent.to_dict())


def without_scope(value: Any) -> Any:
    """Without the mark of a parent that is named as PACKAGE::PATH."""
    if isinstance(value, dict):
        return {k: without_scope(v) for k, v in value.items() if k != "_scope_"}
    if isinstance(value, (list, tuple)):
        return [without_scope(item) for item in value]
    return value


def test_the_trial_is_a_step_of_the_child(encoder: Path, tmp_path: Path) -> None:
    done = adapt(RESNET, encoder, tmp_path / "child.py", num_heads=2, image_size=SIZE)
    child = Config.fromfile(done.path)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(child.model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert done.trial.parameters == trained
    # 1000 classes, and a head that starts near zero.
    assert done.trial.loss == pytest.approx(6.91, abs=0.5)
    assert done.trial.memory > 4 * trained
    assert done.trial.device == "cpu"
    assert done.trial.unreached == ()


def test_levels_that_no_head_reads_are_told(encoder: Path) -> None:
    """Data parallelism stops where a parameter gets no gradient."""
    done = adapt(FCN, encoder, num_heads=2, image_size=SIZE)
    levels = {name.split(".")[2] for name in done.trial.unreached}
    assert levels == {"0", "1"}
    assert all(name.startswith("backbone.levels.") for name in done.trial.unreached)
    assert "find_unused_parameters = True\n" in done.text


def test_the_optimizer_says_what_it_was(encoder: Path) -> None:
    sgd = adapt(RESNET, encoder, num_heads=2, image_size=SIZE)
    assert sgd.path is None
    said = "\n".join(sgd.changes)
    assert "AdamW with rate 0.0001 and layer decay 0.65" in said
    assert "instead of SGD with rate 0.1" in said
    adamw = adapt(VIT, encoder, num_heads=2, image_size=(224, 224))
    assert "rate 0.003 and layer decay 0.65, rate and decay as they were" in "\n".join(
        adamw.changes
    )
    kept = adapt(RESNET, encoder, num_heads=2, image_size=SIZE, keep_optimizer=True)
    assert "optim_wrapper" not in kept.text
    assert len(kept.changes) == len(sgd.changes) - 1


def test_a_vit_of_the_same_width_gives_its_class_token(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'\n"
        "arch = dict(_delete_=True, embed_dims=64, num_layers=2, num_heads=2,"
        " feedforward_channels=64)\n"
        "model = dict(backbone=dict(arch=arch), head=dict(in_channels=64))\n"
    )
    path = save_encoder(tmp_path)
    done = adapt(tmp_path / "parent.py", path, num_heads=2, image_size=SIZE)
    assert done.outputs == Outputs((64,), (None,))
    assert 'type="SAIMViT"' in done.text
    assert 'out_type="cls_token"' in done.text


def test_paths_and_imports_of_the_parent_stay(encoder: Path, tmp_path: Path) -> None:
    """The name of a parent is kept where MMEngine knows it; imports are added to."""
    (tmp_path / "parent.py").write_text(
        f"_base_ = {RESNET!r}\n"
        "custom_imports = dict(imports='json.tool', allow_failed_imports=False)\n"
        "load_from = 'old_model.pth'\n"
    )
    done = adapt(tmp_path / "parent.py", encoder, num_heads=2, image_size=SIZE)
    assert done.text.startswith(f'_base_ = "{tmp_path}/parent.py"\n')
    assert 'imports=["json.tool", "saim_mm"]' in done.text
    assert "load_from = None\n" in done.text
    named = adapt(RESNET, encoder, num_heads=2, image_size=SIZE)
    assert named.text.startswith(f'_base_ = "{RESNET}"\n')


@MODELS.register_module()
class OddBackbone(nn.Module):
    """Gives whatever its ``kind`` says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        small = x[:, :, ::16, ::16]
        if self.kind == "values":  # which no meta tensor has
            return (small, x.mean((2, 3))) if x.sum().item() > 0 else ()
        return {
            "tensor": small,
            "tokens": (small, small.flatten(2)),
            "grouped": ((small, small),),
            "nested": ((small,), (small,)),
            "image": (x, small),
            "branches": (torch.cat([small] * 3),),
            "modes": (small, small) if self.training else (small,),
        }[self.kind]


def test_a_backbone_that_asks_for_values_is_run_for_real() -> None:
    outputs = outputs_of(ConfigDict(type="OddBackbone", kind="values"), 3)
    assert outputs == Outputs((3, 3), (16, None))


def test_outputs_that_come_as_one() -> None:
    outputs = outputs_of(ConfigDict(type="OddBackbone", kind="grouped"), 3)
    assert outputs == Outputs((3, 3), (16, 16), grouped=True)
    assert outputs != Outputs((3, 3), (16, 16))


def test_a_distilled_vit(encoder: Path) -> None:
    """Its head reads two tokens out of one output."""
    config = "mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py"
    done = adapt(config, encoder, num_heads=2, image_size=SIZE)
    assert done.outputs == Outputs((192, 192), (None, None), grouped=True)
    assert "grouped=True" in done.text
    assert done.trial.unreached == ()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("tensor", "gives a Tensor, not a tuple"),
        ("tokens", r"gives \(2, 3, 256\) beside or instead of maps"),
        ("nested", "gives tuple beside or instead"),
        ("image", "the image itself"),
        ("branches", "6 outputs of 2 images"),
        ("modes", "in training and .* in evaluation"),
        ("absent", "cannot be run: KeyError"),
    ],
)
def test_odd_backbones_are_refused(kind: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"OddBackbone.*{named}"):
        outputs_of(ConfigDict(type="OddBackbone", kind=kind), 3)


def test_backbones_are_asked_without_computing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shapes of any size of network, for nothing."""
    devices = []
    run = _outputs._run
    monkeypatch.setattr(
        _outputs, "_run", lambda *args: devices.append(args[3:]) or run(*args)
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        outputs = outputs_of(backbone_of(RETINANET), 3)
    assert outputs == CHANGED[RETINANET][0]
    assert devices == [("meta", "meta")]


def test_no_weights_of_the_old_model_are_asked_for() -> None:
    net = dict(type="Pretrained", checkpoint="https://example.org/x.pth")
    config = ConfigDict(
        backbone=dict(type="A", init_cfg=net, pretrained="b.pth"),
        heads=[dict(type="B", init_cfg=[net]), dict(type="C", init_cfg=dict(std=1))],
        pretrained=True,
    )
    assert without_weights(config) == dict(
        backbone=dict(type="A", pretrained=None),
        heads=[dict(type="B"), dict(type="C", init_cfg=dict(std=1))],
        pretrained=False,
    )
    assert config.backbone.init_cfg == net


@pytest.mark.parametrize("head", ["mask_head", "head"])
def test_only_what_reads_masks_gets_some(head: str) -> None:
    """RTMDet's detectors fail on masks."""
    model = {"backbone": dict(in_channels=4), head: dict(num_classes=3)}
    batch = made_up_batch(Config(dict(default_scope="mmdet", model=model)), (32, 48))
    assert [tuple(image.shape) for image in batch["inputs"]] == [(4, 32, 48)] * 2
    for sample in batch["data_samples"]:
        things = sample.gt_instances
        assert ("masks" in things) == (head == "mask_head")
        assert things.labels.max() < 3
        left, top, right, bottom = things.bboxes.T
        assert (left >= 0).all() and (right <= 48).all() and (left < right).all()
        assert (top >= 0).all() and (bottom <= 32).all() and (top < bottom).all()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("default_scope = 'mmpretrain'\nmodel = dict(type='A')", "no model.backbone"),
        ("model = dict(backbone=dict(type='ResNet', depth=18))", "default_scope=None"),
        (
            "default_scope = 'mmpretrain'\n"
            "model = dict(backbone=dict(type='ResNet', depth=18))",
            "no optim_wrapper",
        ),
        (
            f"_base_ = {RESNET!r}\nmodel = dict(backbone=dict(type='OddBackbone',"
            " _delete_=True, kind='tensor'))",
            "not a tuple of maps",
        ),
        (
            f"_base_ = {RESNET!r}\nmodel = dict(head=dict(in_channels=7))",
            "first training step on made-up images .* fails: RuntimeError",
        ),
    ],
)
def test_what_cannot_take_it_is_refused(
    text: str, named: str, encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "parent.py").write_text(text)
    with pytest.raises(ValueError, match=named):
        adapt(
            tmp_path / "parent.py",
            encoder,
            tmp_path / "child.py",
            num_heads=2,
            image_size=SIZE,
        )
    assert not (tmp_path / "child.py").exists()


def test_nothing_is_overwritten(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("mine")
    with pytest.raises(FileExistsError, match="another name"):
        adapt(RESNET, encoder, tmp_path / "child.py", num_heads=2)
    assert (tmp_path / "child.py").read_text() == "mine"


@pytest.mark.parametrize("config", ["mmdet::no/such.py", "nowhere::x.py", "absent.py"])
def test_a_config_that_is_not_there(config: str, encoder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=config):
        adapt(config, encoder, num_heads=2)


def test_an_encoder_that_is_none(tmp_path: Path) -> None:
    torch.save(dict(state_dict={"fc.weight": torch.zeros(1)}), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no encoder"):
        adapt(RESNET, tmp_path / "x.pth")


def test_the_verb_prints_what_was_done(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    line = [RESNET, "--encoder", str(encoder), "--num-heads", "2"]
    line += ["--image-size", "64", "64"]
    verb.run(**vars(parser.parse_args(line)))
    printed = capsys.readouterr().out
    child = tmp_path / "child.py"
    verb.run(**vars(parser.parse_args([*line, "-o", str(child)])))
    written = capsys.readouterr().out
    assert child.read_text() in printed
    assert f"written: {child}" in written
    for text in (printed, written):
        assert "ResNet -> MultiLevelViT" in text
        assert "AdamW" in text
        assert "one step on cpu: loss " in text
