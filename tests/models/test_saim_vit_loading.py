"""Loading an encoder into SAIMViT: completely, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmpretrain.registry import MODELS
from tiny import tiny_backbone, tiny_config, tiny_saim

from saim_mm.weights import (
    CheckpointError,
    StateDict,
    encoder_to_timm,
    load_encoder,
    saim_to_encoder,
    saim_to_release,
    write_state_dict,
)

DENSE = dict(with_cls_token=False, out_type="featmap")


def build(config: dict[str, Any]) -> Any:
    model = MODELS.build(config)
    model.init_weights()
    return model


def build_from(path: Path, prefix: str | None = None, **options: Any) -> Any:
    init_cfg = dict(type="Pretrained", checkpoint=str(path), prefix=prefix)
    return build(tiny_backbone(init_cfg=init_cfg, **options))


@pytest.fixture
def pretrained() -> StateDict:
    """A pretraining checkpoint with values that no initialisation gives."""
    state = build(tiny_config(image_size=(8, 12))).state_dict()
    positions = {"backbone.pos_embed"}
    return {k: t if k in positions else torch.randn_like(t) for k, t in state.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[StateDict], Path]:
    def write(state: StateDict) -> Path:
        write_state_dict(tmp_path / "file.pth", state)
        return tmp_path / "file.pth"

    return write


def assert_encoder(model: BaseModule, pretrained: StateDict, but: tuple = ()) -> None:
    own = model.state_dict()
    keys = [key for key in own if not key.startswith(but)] if but else list(own)
    wrong = [k for k in keys if not torch.equal(own[k], pretrained[f"backbone.{k}"])]
    assert wrong == []


@pytest.mark.parametrize("prefix", ["backbone.", "backbone", None])
def test_a_pretraining_checkpoint_loads(pretrained, save, prefix) -> None:
    assert_encoder(build_from(save(pretrained), prefix), pretrained)


def test_a_bare_encoder_loads_from_pth_and_safetensors(
    pretrained, save, tmp_path
) -> None:
    encoder = saim_to_encoder(pretrained).state_dict
    assert_encoder(build_from(save(encoder)), pretrained)
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    write_state_dict(tmp_path / "x.safetensors", encoder)
    assert_encoder(build_from(tmp_path / "x.safetensors"), pretrained)


def test_the_final_norm_starts_from_the_decoders(pretrained, save) -> None:
    model = build_from(save(pretrained), final_norm=True, out_type="cls_token")
    assert_encoder(model, pretrained, but=("ln1.",))
    assert torch.equal(model.ln1.weight, pretrained["neck.norm.weight"])
    assert torch.equal(model.ln1.bias, pretrained["neck.norm.bias"])


@pytest.mark.parametrize("width", [8, 16])
def test_the_norm_of_a_narrow_decoder_is_no_final_norm(width: int, save) -> None:
    """Of other channels than the encoder's or of as many, it is a stream of its own."""
    narrow = dict(
        _delete_=True, type="CrossMAENeck", depth=1, width=width, decoder_heads=2
    )
    weights = tiny_saim(neck=narrow).state_dict()
    model = build_from(save(weights), final_norm=True, out_type="cls_token")
    assert_encoder(model, weights, but=("ln1.",))
    assert (model.ln1.weight == 1).all() and (model.ln1.bias == 0).all()


def test_a_norm_that_the_file_lacks_starts_from_scratch(pretrained, save) -> None:
    encoder = saim_to_encoder(pretrained).state_dict
    model = build_from(save(encoder), final_norm=True, out_type="avg_featmap")
    assert_encoder(model, pretrained, but=("ln1.", "ln2."))
    for norm in (model.ln1, model.ln2):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_a_dense_model_drops_the_class_token(pretrained, save) -> None:
    model = build_from(save(pretrained), "backbone.", **DENSE)
    assert_encoder(model, pretrained, but=("pos_embed",))
    assert torch.equal(model.pos_embed, pretrained["backbone.pos_embed"][:, 1:])


def test_relative_position_tables_stay_zero(pretrained, save) -> None:
    model = build_from(
        save(pretrained),
        **DENSE,
        window_size=2,
        global_attn_indexes=[3],
        use_rel_pos_bias=True,
    )
    tables = {k: t for k, t in model.named_parameters() if "rel_pos" in k}
    assert len(tables) == 2
    assert all((table == 0).all() for table in tables.values())
    assert_encoder(model, pretrained, but=("pos_embed", "rel_pos"))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 28), (12, 12), (12, 8), (24, 4)])
@pytest.mark.parametrize("options", [DENSE, {}], ids=["dense", "cls"])
def test_positions_resize_from_and_to_any_grid(
    pretrained, save, size, mode, options
) -> None:
    """mmpretrain takes the checkpoint's 2 x 3 patches for a square."""
    model = build_from(
        save(pretrained), image_size=size, interpolate_mode=mode, **options
    )
    source = pretrained["backbone.pos_embed"]
    grid = (size[0] // 4, size[1] // 4)
    image = source[:, 1:].reshape(1, 2, 3, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=grid, mode=mode, align_corners=False)
    expected = resized.flatten(2).transpose(1, 2)
    extra = model.num_extra_tokens
    torch.testing.assert_close(model.pos_embed[:, extra:], expected, rtol=0, atol=0)
    assert torch.equal(model.pos_embed[:, :extra], source[:, :extra])
    assert model(torch.randn(1, 3, *size))[-1].isfinite().all()


def test_a_whole_models_load_resizes_too(pretrained) -> None:
    """``load_from`` and ``load_state_dict`` go through the same hook."""
    model = MODELS.build(tiny_backbone(image_size=(16, 16), **DENSE))
    encoder = saim_to_encoder(pretrained).state_dict
    model.load_state_dict({k: t for k, t in encoder.items() if k != "cls_token"})
    assert model.pos_embed.shape == (1, 16, 16)


def test_the_log_says_what_was_loaded(pretrained, save, caplog) -> None:
    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.INFO)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        path = save(pretrained)
        model = MODELS.build(tiny_backbone(image_size=(16, 16), **DENSE))
        report = load_encoder(model, path)
    finally:
        logger.removeHandler(handler)
    assert str(report) in messages
    total = len(model.state_dict())
    assert f"Loaded {total} of {total} encoder tensors from {path}" in str(report)
    assert "Position embedding (1, 7, 16) fitted to (1, 16, 16)" in str(report)
    assert "cls_token" in str(report)
    assert "neck.layers.0.ln1.weight" in report.unused


def rename(state: StateDict, prefix: str) -> StateDict:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def wrong_layouts() -> dict[str, tuple[Callable[[StateDict], StateDict], str]]:
    """What a user might pass, and what the error must say."""
    bare = lambda s: saim_to_encoder(s).state_dict  # noqa: E731
    return {
        "release": (lambda s: saim_to_release(s).state_dict, "official_to_saim.py"),
        "timm": (lambda s: encoder_to_timm(bare(s)).state_dict, "encoder_to_timm.py"),
        "prefix": (lambda s: rename(bare(s), "encoder."), "prefix='encoder.'"),
        "foreign": (lambda s: {"fc.weight": torch.zeros(1)}, "fc.weight"),
    }


@pytest.mark.parametrize("name", wrong_layouts())
@pytest.mark.parametrize("prefix", [None, "backbone."])
def test_a_wrong_layout_stops_and_names_the_remedy(
    pretrained, save, name, prefix
) -> None:
    convert, remedy = wrong_layouts()[name]
    path = save(convert(pretrained))
    with pytest.raises(CheckpointError, match="no encoder with") as refusal:
        build_from(path, prefix)
    assert remedy in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "Its keys: " in str(refusal.value)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_all_keys_is_taken_off(
    pretrained, save, wrapper
) -> None:
    wanted = build_from(save(pretrained), None).state_dict()
    found = build_from(save(rename(pretrained, wrapper)), None).state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_wrong_prefix_stops(pretrained, save) -> None:
    with pytest.raises(CheckpointError, match=r"prefix='neck\.encoder\.'.*backbone"):
        build_from(save(pretrained), "neck.encoder.")
    encoder = saim_to_encoder(pretrained).state_dict
    with pytest.raises(CheckpointError, match="it needs no prefix"):
        build_from(save(encoder), "backbone.")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(embed_dims=32), "width 16.*width 32"),
        (dict(patch_size=(2, 2)), r"patch size \(4, 4\).*patch size \(2, 2\)"),
        (dict(channels=1), "3 image channels.*1 image channels"),
        (dict(num_layers=6), r"layers\.4\.ln1\.weight.*is missing"),
        (dict(num_layers=2), r"layers\.2\.ln1\.weight.*no place"),
    ],
)
def test_another_model_stops(pretrained, save, options, named) -> None:
    with pytest.raises(CheckpointError, match=named):
        build_from(save(pretrained), **options)


def test_missing_and_unexpected_keys_stop(pretrained, save) -> None:
    del pretrained["backbone.layers.1.ln2.bias"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.ln2\.bias is missing"):
        build_from(save(pretrained))
    pretrained["backbone.layers.1.ln2.bias"] = torch.zeros(16)
    pretrained["backbone.gamma"] = torch.zeros(16)
    with pytest.raises(CheckpointError, match="gamma has no place"):
        build_from(save(pretrained))
    del pretrained["backbone.gamma"]
    pretrained["teacher.weight"] = torch.zeros(16)
    with pytest.raises(CheckpointError, match=r"teacher\.weight is not part"):
        build_from(save(pretrained))


@pytest.mark.parametrize("checkpoint", ["", None])
def test_an_unset_checkpoint_stops(checkpoint) -> None:
    init_cfg = dict(type="Pretrained", checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        build(tiny_backbone(init_cfg=init_cfg))


def test_every_way_of_writing_pretrained_is_verified() -> None:
    for init_cfg in (
        [dict(type="Pretrained", checkpoint="absent.pth")],
        dict(type=PretrainedInit, checkpoint="absent.pth"),
    ):
        with pytest.raises(FileNotFoundError, match="absent.pth"):
            build(tiny_backbone(init_cfg=init_cfg))


def test_a_backbone_inside_a_model_loads(pretrained, save) -> None:
    """The parent's init_weights reaches it, and knows it as initialised."""
    init_cfg = dict(type="Pretrained", checkpoint=str(save(pretrained)))
    model = build(
        dict(
            type="ImageClassifier",
            backbone=tiny_backbone(init_cfg=init_cfg, out_type="cls_token"),
            head=dict(type="LinearClsHead", num_classes=3, in_channels=16),
        )
    )
    assert_encoder(model.backbone, pretrained)
    assert model.backbone.is_init
    assert model.backbone.init_cfg == init_cfg
