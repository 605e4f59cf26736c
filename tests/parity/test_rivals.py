"""What AIM, NEPA and DINO released becomes an encoder, with a certificate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from release_states import without
from rival_states import NEPA_CONFIG, WIDTH, aim_state, dino_state, nepa_state
from tiny import relative

from saim_mm.api import convert
from saim_mm.models import RotaryViT, SAIMViT
from saim_mm.parity.certificate import certify_aim, certify_nepa
from saim_mm.parity.rival_models import aim_features, nepa_features
from saim_mm.weights import (
    CheckpointError,
    StateDict,
    aim_to_encoder,
    dino_to_encoder,
    load_encoder,
    nepa_to_encoder,
    read_state_dict,
)
from saim_mm.weights.keymap import describe
from saim_mm.weights.rivals import NEPAConfig

GATED = dict(use_gated_mlp=True, hidden_act="silu", intermediate_size=24)
AFFINE = dict(qk_norm_affine=True)
VARIANTS: list[dict[str, Any]] = [
    {},
    AFFINE,
    GATED,
    dict(**GATED, **AFFINE),
    dict(qk_norm=False),
    dict(rope_theta=50.0, layer_norm_eps=1e-3),
]


def folder(path: Path, state: StateDict, config: dict[str, Any]) -> Path:
    path.mkdir()
    torch.save(state, path / "pytorch_model.bin")
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("probe", [False, True])
def test_aim_becomes_an_encoder(probe: bool, tmp_path: Path) -> None:
    src, dst = tmp_path / "aim.pth", tmp_path / "encoder.pth"
    state = aim_state(probe)
    torch.save(state, src)
    found = convert(src, dst, "aim", num_heads=2)
    assert found.passed and found.differences["features"] < 1e-5
    assert len(found.conversion.used) == len(aim_state())
    assert sum(map(len, found.conversion.dropped.values())) == (7 if probe else 0)

    model = SAIMViT(
        arch=found.arch.backbone["arch"],
        img_size=224,
        patch_size=56,
        with_cls_token=False,
        out_type="raw",
        patch_cfg=dict(norm_cfg=dict(type="LN", eps=1e-6)),
    )
    report = load_encoder(model.eval() or model, dst)
    assert not report.as_initialised and not report.unused
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert relative(model(images)[-1], aim_features(state, images, 2)) < 1e-5
    biases = [k for k, t in model.state_dict().items() if "bias" in k and not t.any()]
    assert len(biases) == 2 * 4


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("prefix", ["", "vit_nepa."])
def test_nepa_becomes_a_rotary_encoder(
    prefix: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = {**NEPA_CONFIG, **changes}
    state = nepa_state(config, prefix)
    beside = {"classifier.weight": torch.ones(3, WIDTH)} if prefix else {}
    dst = tmp_path / "encoder.pth"
    found = convert(folder(tmp_path / "nepa", {**state, **beside}, config), dst, "nepa")
    assert found.passed and max(found.differences.values()) < 1e-5
    assert len(found.differences) == 2
    assert set(found.conversion.used) == {k.removeprefix(prefix) for k in state}

    gated = dict(ffn_type="swiglu_fused") if config["use_gated_mlp"] else {}
    norm = "affine" if config["qk_norm_affine"] else "plain"
    model = RotaryViT(
        arch=found.arch.backbone["arch"],
        img_size=12,
        patch_size=4,
        out_type="raw",
        rope_theta=config["rope_theta"],
        qk_norm=norm if config["qk_norm"] else "off",
        layer_scale_init_value=1e-5,
        norm_cfg=dict(type="LN", eps=config["layer_norm_eps"]),
        layer_cfgs=gated,
    )
    report = load_encoder(model.eval() or model, dst)
    assert not report.as_initialised and not report.unused
    images = torch.randn(2, 3, 12, 12)
    expected = nepa_features(state, images, NEPAConfig.parse(config), causal=False)
    with torch.no_grad():
        assert relative(model(images)[-1], expected) < 1e-5


def test_nepas_averaged_weights_come_first(tmp_path: Path) -> None:
    path = folder(tmp_path / "nepa", nepa_state(), NEPA_CONFIG)
    averaged = {key: 2 * tensor for key, tensor in nepa_state().items()}
    torch.save(averaged, path / "pytorch_model_ema.bin")
    for src, factor in ((path, 2), (path / "pytorch_model.bin", 1)):
        dst = tmp_path / f"{factor}.pth"
        assert convert(src, dst, "nepa").passed
        expected = factor * nepa_state()["embeddings.cls_token"]
        assert torch.equal(read_state_dict(dst)["cls_token"], expected)


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
@pytest.mark.parametrize("whole", [False, True])
def test_dino_becomes_an_encoder(whole: bool, prefix: str, tmp_path: Path) -> None:
    """The backbone alone, or all that training wrote, of which the teacher counts."""
    pytest.importorskip("timm", reason="timm is an optional extra")
    src, dst = tmp_path / "dino.pth", tmp_path / "encoder.pth"
    teacher = dino_state(prefix, head=whole)
    content: dict[str, Any] = teacher
    if whole:
        student = {key: 3 * tensor for key, tensor in teacher.items()}
        args = argparse.Namespace(arch="vit_base")
        content = dict(student=student, teacher=teacher, epoch=400, args=args)
    torch.save(content, src)
    found = convert(src, dst, "dino", num_heads=2)
    assert found.passed
    encoder = read_state_dict(dst)
    assert torch.equal(encoder["cls_token"], teacher[f"{prefix}cls_token"])
    assert len(encoder) == len(dino_state())
    assert len(found.conversion.dropped.get("head", ())) == (4 if whole else 0)


def test_a_certificate_notices_wrong_weights() -> None:
    aim, config = aim_state(), NEPAConfig.parse(NEPA_CONFIG)
    conversion = aim_to_encoder(aim)
    weight = conversion.state_dict["layers.0.attn.qkv.weight"]
    weight[:] = weight.roll(WIDTH, 0)
    aim["trunk.blocks.0.attn.qkv.weight"] = weight.roll(-WIDTH, 0)
    assert not certify_aim(conversion, aim, 2).passed

    nepa = nepa_state()
    conversion = nepa_to_encoder(nepa, config)
    assert certify_nepa(conversion, nepa, config).passed
    conversion.state_dict["frequencies"][1] *= 2
    assert not certify_nepa(conversion, nepa, config).passed


@pytest.mark.parametrize(
    "key", ["trunk.blocks.1.norm_2.bias", "trunk.post_trunk_norm.weight"]
)
def test_an_incomplete_aim_is_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"Missing keys \(1\): \['{key}'\]"):
        aim_to_encoder(without(aim_state(), key))
    with pytest.raises(CheckpointError, match=r"unexpected keys \(1\): \['x'\]"):
        aim_to_encoder({**aim_state(), "x": torch.zeros(1)})


def test_an_incomplete_nepa_is_refused() -> None:
    config, key = NEPAConfig.parse(NEPA_CONFIG), "encoder.layer.1.layer_scale.lambda1"
    with pytest.raises(CheckpointError, match=rf"Missing keys \(1\): \['{key}'\]"):
        nepa_to_encoder(without(nepa_state(), key), config)
    state = nepa_state({**NEPA_CONFIG, **AFFINE})
    with pytest.raises(CheckpointError, match=r"unexpected keys \(4\).*q_norm.weight"):
        nepa_to_encoder(state, config)


def test_an_incomplete_dino_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"Missing keys \(1\): \['norm.bias'\]"):
        dino_to_encoder(without(dino_state("backbone.", True), "backbone.norm.bias"))
    unknown = {**dino_state(), "mask_token": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="mask_token"):
        dino_to_encoder(unknown)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model_type="vit"), "model_type='vit'"),
        (dict(hidden_act="relu"), "hidden_act='relu'"),
        (dict(use_gated_mlp=True), "hidden_act='gelu', not 'silu'"),
        (dict(qkv_bias=False), "qkv_bias=False"),
        (dict(qk_norm_bias=True), "qk_norm_bias=True"),
        (dict(patch_size=0), "patch_size=0"),
        (dict(num_attention_heads=None), "num_attention_heads=None"),
        (dict(num_attention_heads=3), "num_heads=3"),
        (dict(patch_size=2), "patch_size=2"),
        (dict(rope_theta="x"), "config.json"),
    ],
)
def test_another_model_than_nepa_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    src = folder(tmp_path / "nepa", nepa_state(), {**NEPA_CONFIG, **changes})
    with pytest.raises(CheckpointError, match=message):
        convert(src, tmp_path / "encoder.pth", "nepa")
    assert not (tmp_path / "encoder.pth").exists()


def test_nepa_needs_its_config(tmp_path: Path) -> None:
    torch.save(nepa_state(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="config.json must lie beside"):
        convert(tmp_path, tmp_path / "encoder.pth", "nepa")


def test_wrong_files_name_the_converter(tmp_path: Path) -> None:
    for name, state in (
        ("aim", aim_state()),
        ("nepa", nepa_state(prefix="vit_nepa.")),
        ("nepa", nepa_state()),
        ("dino", dino_state("backbone.", head=True)),
    ):
        assert f"--source {name}'" in describe(state)
    file = tmp_path / "dino.pth"
    torch.save(dino_state(), file)
    with pytest.raises(CheckpointError, match="not a release of AIM"):
        convert(file, tmp_path / "encoder.pth", "aim")
    torch.save(aim_state(), file)
    with pytest.raises(CheckpointError, match="a release of AIM.*--source aim"):
        convert(file, tmp_path / "encoder.pth", "dino")
