"""One call builds the encoder of any file: the features are its own library's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpretrain.registry import MODELS
from release_states import finetuned_state, release_state
from rival_states import NEPA_CONFIG, aim_state, dino_state, nepa_state
from tiny import tiny_backbone, tiny_config
from torch import Tensor

from saim_mm.api import load_encoder
from saim_mm.evaluation import FeatureExtractor, build_encoder
from saim_mm.models.baselines.rotary_vit import RotaryViT
from saim_mm.parity.release_model import release_classifier
from saim_mm.parity.rival_models import aim_features, nepa_features
from saim_mm.weights import (
    CheckpointError,
    encoder_to_timm,
    saim_to_encoder,
    write_state_dict,
)
from saim_mm.weights.rivals import NEPAConfig

SIZE, PATCH, WIDTH, HEADS = 32, 8, 16, 2


def tokens_of(path: Path, images: Tensor, **options: Any) -> Tensor:
    """All tokens as the package's features are made of them."""
    backbone, preprocessor = build_encoder(path, **options)
    extractor = FeatureExtractor(backbone, preprocessor, final_norm=backbone.final_norm)
    return extractor.tokens(images)


def random_model(config: dict[str, Any]) -> torch.nn.Module:
    """With values that are no initial ones: norms and positions do something."""
    torch.manual_seed(0)
    model = MODELS.build(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + ("ln" in name))
    model.eval()
    return model


def images() -> Tensor:
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def write_run(path: Path, model: torch.nn.Module, backbone: dict[str, Any]) -> None:
    """A checkpoint with its config, as MMEngine keeps it."""
    text = f"model = dict(backbone={backbone!r})\n"
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=text)), path)


def timm_model(**options: Any) -> Any:
    timm = pytest.importorskip("timm.models.vision_transformer")
    torch.manual_seed(0)
    model = timm.VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=3,
        num_heads=HEADS,
        **options,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("classes", [0, 5])
def test_timm(suffix: str, classes: int, tmp_path: Path) -> None:
    """With its final norm; the classifier does not matter."""
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    model = timm_model(num_classes=classes)
    path = tmp_path / f"timm{suffix}"
    if suffix == ".bin":
        torch.save(model.state_dict(), path)
    else:
        write_state_dict(path, model.state_dict(), key=None)
    with torch.no_grad():
        expected = model.forward_features(images())
    found = tokens_of(path, images(), num_heads=HEADS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_mae_release_with_its_decoder(tmp_path: Path) -> None:
    model = timm_model(num_classes=0)
    beside = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_embed.weight": torch.zeros(8, WIDTH),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
    }
    path = tmp_path / "mae.pth"
    torch.save(dict(model={**model.state_dict(), **beside}), path)
    with torch.no_grad():
        expected = model.forward_features(images())
    found = tokens_of(path, images(), num_heads=HEADS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_normalisation_of_a_folder_of_timm(tmp_path: Path) -> None:
    write_state_dict(
        tmp_path / "model.safetensors", timm_model(num_classes=0).state_dict(), None
    )
    config = dict(pretrained_cfg=dict(mean=[0.5] * 3, std=[0.2, 0.4, 0.5]))
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, preprocessor = build_encoder(tmp_path, num_heads=HEADS)
    assert preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert preprocessor.std.flatten().tolist() == [51.0, 102.0, 127.5]


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
@pytest.mark.parametrize("safe", [True, False])
def test_hugging_face_folder(kind: str, safe: bool, tmp_path: Path) -> None:
    """Heads, epsilon, an image that is not square and the normalisation are told."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=(24, 32),
        patch_size=PATCH,
        layer_norm_eps=1e-3,
    )
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path, safe_serialization=safe)
    about = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(about))
    wide = images()[:, :, :24]
    vit = model if kind == "ViTModel" else model.vit
    with torch.no_grad():
        expected = vit(wide).last_hidden_state
    torch.testing.assert_close(tokens_of(tmp_path, wide), expected, rtol=0, atol=1e-5)
    backbone, preprocessor = build_encoder(tmp_path)
    assert tuple(backbone.img_size) == (24, 32)
    assert preprocessor.std.flatten().tolist() == [127.5] * 3


@pytest.mark.parametrize("decoder_depth", [4, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_release_of_pretraining(
    decoder_depth: int, shared: bool, tmp_path: Path
) -> None:
    """Its encoder has no norm; the decoder may be any, also a shallow shared one."""
    state = release_state(decoder_depth=decoder_depth)
    if shared:
        for n in range(decoder_depth):
            for key in [key for key in state if key.startswith(f"blocks.{n}.")]:
                state[f"query_{key}"] = state[key]
    path = tmp_path / "release.pth"
    torch.save(dict(model=state), path)
    pixels = torch.randn(2, 3, 12, 12)
    same = finetuned_state(pooled=True)  # the same encoder
    with torch.no_grad():
        expected, _ = release_classifier(same, pixels, 4)
    found = normed_mean(tokens_of(path, pixels, num_heads=4), same)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def normed_mean(tokens: Tensor, state: dict[str, Tensor]) -> Tensor:
    """The release's norm after the pooling, which is no part of the encoder."""
    norm = torch.nn.LayerNorm(16, eps=1e-6)
    norm.load_state_dict({k: state[f"fc_norm.{k}"] for k in ("weight", "bias")})
    return norm(tokens[:, 1:].mean(dim=1)).detach()


@pytest.mark.parametrize("pooled", [False, True])
def test_release_of_fine_tuning(pooled: bool, tmp_path: Path) -> None:
    """A norm after the pooling is no part of the encoder; one before it is."""
    state = finetuned_state(pooled)
    path = tmp_path / "finetuned.pth"
    torch.save(dict(model=state), path)
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected, _ = release_classifier(state, pixels, 4)
    tokens = tokens_of(path, pixels, num_heads=4)
    found = normed_mean(tokens, state) if pooled else tokens[:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("final_norm", [False, True])
def test_a_classifier_of_mmpretrain(final_norm: bool, tmp_path: Path) -> None:
    backbone = dict(
        tiny_backbone((SIZE, SIZE), (PATCH, PATCH)),
        type="VisionTransformer",
        final_norm=final_norm,
        out_type="cls_token" if final_norm else "avg_featmap",
    )
    head = dict(type="LinearClsHead", num_classes=3, in_channels=WIDTH)
    model = random_model(dict(type="ImageClassifier", backbone=backbone, head=head))
    write_run(tmp_path / "epoch_1.pth", model, backbone)
    with torch.no_grad():
        expected = model.extract_feat(images(), "backbone")[-1]
    tokens = tokens_of(tmp_path / "epoch_1.pth", images())
    found = tokens[:, 0] if final_norm else model.backbone.ln2(tokens[:, 1:].mean(1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("qk_norm", ["off", "plain", "affine"])
def test_rotary_encoders_have_their_own_class(
    qk_norm: str, bare: bool, tmp_path: Path
) -> None:
    """NEPA's; the buffers tell heads and norms, even of a bare encoder."""
    options: dict[str, Any] = dict(
        tiny_backbone((SIZE, SIZE), (PATCH, PATCH)),
        type="RotaryViT",
        qk_norm=qk_norm,
        rope_theta=50.0,
        layer_scale_init_value=0.5,
    )
    model = random_model(options)
    path = tmp_path / "nepa.pth"
    if bare:
        write_state_dict(path, model.state_dict())
    else:
        holder = torch.nn.ModuleDict(dict(backbone=model, neck=torch.nn.Identity()))
        write_run(path, holder, options)
    backbone, _ = build_encoder(path)
    assert isinstance(backbone, RotaryViT)
    with torch.no_grad():
        expected = model(images())[-1]
    torch.testing.assert_close(tokens_of(path, images()), expected)


def test_what_no_tensor_tells_is_read_off_the_config(tmp_path: Path) -> None:
    """Heads, epsilon and who sees whom."""
    norm = dict(type="LN", eps=0.1)
    options = tiny_backbone(
        (SIZE, SIZE), (PATCH, PATCH), visible="causal", norm_cfg=norm, num_heads=4
    )
    model = random_model(options)
    write_run(tmp_path / "x.pth", torch.nn.ModuleDict(dict(backbone=model)), options)
    with torch.no_grad():
        expected = model(images())[-1]
    torch.testing.assert_close(tokens_of(tmp_path / "x.pth", images()), expected)


@pytest.mark.parametrize(
    "name",
    ["AIM", "DINO", "MAE", "saim"],
)
def test_checkpoints_of_the_family(name: str, tmp_path: Path) -> None:
    """Without class token, with a student beside it, with a final norm, and ours."""
    backbone: dict[str, Any] = tiny_backbone((SIZE, SIZE), (PATCH, PATCH))
    if name == "AIM":
        backbone |= dict(with_cls_token=False, out_type="featmap")
        encoder = random_model({**backbone, "out_type": "raw"})
        state = {f"backbone.{k}": v for k, v in encoder.state_dict().items()}
        state["neck.norm.weight"] = torch.ones(WIDTH)
    elif name == "saim":
        config = tiny_config(image_size=(SIZE, SIZE), patch_size=(PATCH, PATCH))
        model = random_model(config)
        encoder, state = model.backbone, model.state_dict()
    else:
        backbone |= dict(type="VisionTransformer", final_norm=True)
        encoder = random_model(backbone)
        state = {f"backbone.{k}": v for k, v in encoder.state_dict().items()}
        beside = "student.backbone.cls_token" if name == "DINO" else "neck.mask_token"
        state[beside] = torch.zeros(3)
    path = tmp_path / f"{name}.pth"
    text = f"model = dict(backbone={backbone!r})\n"
    torch.save(dict(state_dict=state, meta=dict(cfg=text)), path)
    with torch.no_grad():
        expected = encoder(images())[-1]
    torch.testing.assert_close(tokens_of(path, images()), expected)


@pytest.mark.parametrize("drop", ["pos_embed", "layers.1.attn.qkv.bias", "cls_token"])
@pytest.mark.parametrize("layout", ["ours", "timm"])
def test_completely_or_not_at_all(drop: str, layout: str, tmp_path: Path) -> None:
    model = random_model(tiny_config(image_size=(SIZE, SIZE), patch_size=(8, 8)))
    state = saim_to_encoder(model.state_dict()).state_dict
    if layout == "timm":
        state = encoder_to_timm(state).state_dict
        drop = drop.replace("layers", "blocks")
    del state[drop]
    write_state_dict(tmp_path / "part.pth", state)
    with pytest.raises(CheckpointError, match=f"part.pth.*{drop}"):
        build_encoder(tmp_path / "part.pth", num_heads=2)


def test_folders_and_files_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights, pytorch_model_ema.bin or"):
        build_encoder(tmp_path)
    (tmp_path / "notes.txt").write_text("an encoder, honestly")
    with pytest.raises(CheckpointError, match=r"notes.txt: .*not a checkpoint"):
        build_encoder(tmp_path / "notes.txt")
    state = timm_model(num_classes=0).state_dict() | {
        "blocks.0.ls1.gamma": torch.ones(1)
    }
    write_state_dict(tmp_path / "scaled.pth", state, key=None)
    with pytest.raises(CheckpointError, match=r"scaled.pth.*blocks.0.ls1.gamma"):
        build_encoder(tmp_path / "scaled.pth", num_heads=2)
    write_state_dict(tmp_path / "model.safetensors", timm_model().state_dict())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json: no JSON"):
        build_encoder(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
    with pytest.raises(CheckpointError, match="'relu'; only 'gelu'"):
        build_encoder(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds list, no object"),
        (dict(image_size="224"), "image_size='224' must be a positive integer"),
        (dict(image_size=[24]), r"image_size=\[24\]"),
        (dict(image_size=0), "image_size=0"),
        (dict(num_attention_heads="2"), "num_attention_heads='2'"),
        (dict(layer_norm_eps="small"), "layer_norm_eps='small' must be a positive"),
        (dict(mean=0.5, std=0.5), "mean=0.5 must be a list"),
        (dict(pretrained_cfg=3), "pretrained_cfg=3 must be an object"),
        (dict(pretrained_cfg=dict(std=[0, 1, 1])), r"std=\[0, 1, 1\]"),
    ],
)
def test_an_odd_config_is_named(content: Any, message: str, tmp_path: Path) -> None:
    write_state_dict(tmp_path / "model.safetensors", timm_model().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"config.json: {message}"):
        build_encoder(tmp_path)


def test_a_config_of_another_size(tmp_path: Path) -> None:
    model = random_model(tiny_backbone((SIZE, SIZE), (PATCH, PATCH)))
    write_state_dict(tmp_path / "encoder.pth", model.state_dict())
    config = tmp_path / "config.py"
    options = tiny_backbone((SIZE, SIZE), (PATCH, PATCH), embed_dims=32)
    config.write_text(f"model = dict(backbone={options!r})\n")
    with pytest.raises(CheckpointError, match="has width 16.*the model width 32"):
        build_encoder(tmp_path / "encoder.pth", config)


def test_release_of_dino_with_its_student(tmp_path: Path) -> None:
    """The teacher counts, and it is a ViT of timm."""
    timm = pytest.importorskip("timm.models.vision_transformer")
    teacher = dino_state()
    whole = {f"backbone.{key}": tensor for key, tensor in teacher.items()}
    student = {f"module.{key}": 3 * tensor for key, tensor in whole.items()}
    torch.save(dict(student=student, teacher=whole, epoch=400), tmp_path / "x.pth")
    model = timm.VisionTransformer(
        img_size=12, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    model.load_state_dict(teacher, strict=True)
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        expected = model.eval().forward_features(pixels)
        actual = tokens_of(tmp_path / "x.pth", pixels, num_heads=2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_release_of_aim(tmp_path: Path) -> None:
    state = aim_state(probe=True)
    torch.save(state, tmp_path / "x.pth")
    pixels = torch.randn(2, 3, 224, 224)
    actual = tokens_of(tmp_path / "x.pth", pixels, num_heads=2)
    expected = aim_features(state, pixels, 2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_release_of_nepa(gated: bool, tmp_path: Path) -> None:
    options = dict(use_gated_mlp=gated, hidden_act="silu" if gated else "gelu")
    config = {**NEPA_CONFIG, **options, "layer_norm_eps": 1e-3}
    state = nepa_state(config, "vit_nepa.")
    torch.save(state, tmp_path / "pytorch_model_ema.bin")
    torch.save({}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(half))
    pixels = torch.randn(2, 3, 12, 12)
    expected = nepa_features(state, pixels, NEPAConfig.parse(config), causal=False)
    torch.testing.assert_close(tokens_of(tmp_path, pixels), expected, rtol=0, atol=1e-5)
    mean = build_encoder(tmp_path).preprocessor.mean.flatten()
    assert mean.tolist() == [127.5] * 3
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json must lie beside"):
        build_encoder(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        dict(num_registers=3),
        dict(num_registers=3, with_cls_token=False),
        dict(num_registers=2, cls_place="suffix"),
        dict(cls_place="suffix"),
    ],
    ids=str,
)
def test_registers_and_a_class_token_at_the_end(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Mean and class token are those of the model's own outputs."""
    config = tiny_backbone(image_size=(SIZE, SIZE), type="RegisterViT", **options)
    model = random_model(config)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "x.pth")
    backbone, preprocessor = build_encoder(tmp_path / "x.pth", num_heads=HEADS)
    assert type(backbone) is type(model)
    with_cls = options.get("with_cls_token", True)
    with torch.no_grad():
        outputs = model(images())[-1]
    expected = dict(avg=outputs[:, int(with_cls) :].mean(dim=1))
    if with_cls:
        expected["cls"] = outputs[:, 0]
    for pool, vectors in expected.items():
        extractor = FeatureExtractor(backbone, preprocessor, pool=pool)
        actual = extractor.vectors(images())
        torch.testing.assert_close(actual, vectors, rtol=0, atol=1e-5)
    encoder = load_encoder(tmp_path / "x.pth", num_heads=HEADS)
    patches = outputs[:, int(with_cls) :].transpose(1, 2)
    actual = encoder.features(images(), pool="map").flatten(2)
    torch.testing.assert_close(actual, patches, rtol=0, atol=1e-5)
