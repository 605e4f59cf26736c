"""Key maps: every key is used, back and forth is exact, what is foreign is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from release_states import assert_same, finetuned_state, release_state, without
from tiny import tiny_saim

from saim_mm import checkpoint
from saim_mm.parity.certificate import (
    certify_classifier,
    certify_encoder,
    certify_pretraining,
)
from saim_mm.weights import CheckpointError, StateDict
from saim_mm.weights.arch import infer_arch
from saim_mm.weights.blur import gaussian_kernel, infer_smoothing


def test_all_395_keys_of_vit_b_are_used() -> None:
    state = release_state(width=4, depth=12, decoder_depth=12, patch=2)
    assert len(state) == 395
    conversion = checkpoint.release_to_saim(state)
    assert sorted(conversion.used) == sorted(state)
    assert conversion.dropped == {}


@pytest.mark.parametrize("decoder_depth", [4, 2, 1])
@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_release_and_back_is_exact(decoder_depth: int, head: str) -> None:
    release = release_state(decoder_depth=decoder_depth, head=head)
    ours = checkpoint.release_to_saim(release).state_dict
    back = checkpoint.saim_to_release(ours, blur=release["gaussian_blur.weight"])
    assert_same(back.state_dict, release)
    # Without the release's own blur, ours is within rounding.
    own = checkpoint.saim_to_release(ours).state_dict["gaussian_blur.weight"]
    torch.testing.assert_close(own, release["gaussian_blur.weight"], rtol=0, atol=1e-7)


def test_coupled_decoder_round_trip() -> None:
    release = release_state(decoder_depth=4)
    blocks = {k: v for k, v in release.items() if k.startswith("blocks.")}
    release.update({f"query_{key}": tensor for key, tensor in blocks.items()})
    conversion = checkpoint.release_to_saim(release)
    assert not any(key.startswith("neck.layers") for key in conversion.state_dict)
    back = checkpoint.saim_to_release(
        conversion.state_dict, blur=release["gaussian_blur.weight"], coupled=True
    )
    assert_same(back.state_dict, release)
    with pytest.raises(CheckpointError, match="--coupled"):
        checkpoint.saim_to_release(conversion.state_dict)
    certificate = certify_pretraining(
        conversion, release, conversion.state_dict, (9, 1.0), num_heads=4
    )
    assert certificate.passed


@pytest.mark.parametrize(
    "key",
    ["blocks.1.attn.k.bias", "norm.weight", "pos_embed", "query_blocks.0.norm1.bias"],
)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"Missing keys \(1\): \['{key}'\]"):
        checkpoint.release_to_saim(without(release_state(), key))


def test_an_unexpected_key_is_named() -> None:
    state = {**release_state(), "mask_token": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"unexpected keys \(1\): \['mask_token'\]"
    ):
        checkpoint.release_to_saim(state)
    ours = checkpoint.release_to_saim(release_state()).state_dict
    for convert in (checkpoint.saim_to_release, checkpoint.saim_to_encoder):
        with pytest.raises(CheckpointError, match="backbone.gamma"):
            convert({**ours, "backbone.gamma": torch.zeros(1)})


def test_another_blur_is_refused() -> None:
    state = release_state()
    state["gaussian_blur.weight"] = gaussian_kernel(5, 2.0, 3)
    with pytest.raises(CheckpointError, match="--kernel-size 5 --sigma 2"):
        checkpoint.release_to_saim(state)
    assert checkpoint.release_to_saim(state, (5, 2.0)).dropped == {}
    state["gaussian_blur.weight"] = torch.full((3, 1, 9, 9), 1 / 81)
    with pytest.raises(CheckpointError, match="no normalised Gaussian"):
        checkpoint.release_to_saim(state)
    bare = without(state, "gaussian_blur.weight")
    with pytest.raises(CheckpointError, match="--no-smoothing"):
        checkpoint.release_to_saim(bare)
    assert checkpoint.release_to_saim(bare, smoothing=None).dropped == {}


@pytest.mark.parametrize("smoothing", [(9, 1.0), (3, 0.5), (15, 2.5)])
def test_smoothing_is_read_off_the_kernel(smoothing: tuple[int, float]) -> None:
    assert infer_smoothing(gaussian_kernel(*smoothing, 3)) == pytest.approx(smoothing)


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_encoder_is_the_backbone(final_norm: bool, prefix: str) -> None:
    ours = checkpoint.release_to_saim(release_state()).state_dict
    conversion = checkpoint.saim_to_encoder(ours, final_norm, prefix)
    expected = {
        prefix + key.removeprefix("backbone."): tensor
        for key, tensor in ours.items()
        if key.startswith("backbone.")
    }
    if final_norm:
        for kind in ("weight", "bias"):
            expected[f"{prefix}ln1.{kind}"] = ours[f"neck.norm.{kind}"]
    assert_same(conversion.state_dict, expected)
    dropped = {key for keys in conversion.dropped.values() for key in keys}
    assert dropped | set(conversion.used) == set(ours)
    assert certify_encoder(conversion, ours, prefix, num_heads=4).passed


def test_a_narrow_decoder_is_left_behind() -> None:
    narrow = dict(_delete_=True, type="CrossMAENeck", depth=1, decoder_heads=2)
    state = tiny_saim(neck=narrow).state_dict()
    dropped = checkpoint.saim_to_encoder(state).dropped["decoder (neck)"]
    assert "neck.mask_token" in dropped
    for convert in (
        partial(checkpoint.saim_to_encoder, final_norm=True),
        partial(checkpoint.saim_to_release, smoothing=None),
    ):
        with pytest.raises(CheckpointError, match="narrow decoder"):
            convert(state)


@pytest.mark.parametrize("final_norm", [False, True])
def test_timm_round_trip(final_norm: bool) -> None:
    ours = checkpoint.release_to_saim(release_state()).state_dict
    encoder = checkpoint.saim_to_encoder(ours, final_norm).state_dict
    timm = checkpoint.encoder_to_timm(encoder).state_dict
    assert_same(checkpoint.timm_to_encoder(timm).state_dict, encoder)


def test_hf_round_trip_needs_the_final_norm() -> None:
    ours = checkpoint.release_to_saim(release_state()).state_dict
    encoder = checkpoint.saim_to_encoder(ours, final_norm=True).state_dict
    hf = checkpoint.encoder_to_hf(encoder).state_dict
    assert "encoder.layer.3.attention.attention.value.bias" in hf
    assert_same(checkpoint.hf_to_encoder(hf).state_dict, encoder)
    bare = checkpoint.saim_to_encoder(ours).state_dict
    with pytest.raises(CheckpointError, match="--final-norm"):
        checkpoint.encoder_to_hf(bare)


@pytest.mark.parametrize("pooled", [False, True])
def test_finetuned_round_trip(pooled: bool) -> None:
    release = finetuned_state(pooled)
    conversion = checkpoint.release_to_finetuned(release)
    ours = conversion.state_dict
    assert ("backbone.ln2.bias" in ours) == pooled
    assert ("backbone.ln1.bias" in ours) != pooled
    assert_same(checkpoint.finetuned_to_release(ours).state_dict, release)
    certificate = certify_classifier(conversion, release, ours, num_heads=4)
    assert set(certificate.differences) == {"features", "logits"}
    assert max(certificate.differences.values()) < 1e-5
    # The other head of mmpretrain holds the same layer under another name.
    for kind in ("weight", "bias"):
        ours[f"head.layers.head.{kind}"] = ours.pop(f"head.fc.{kind}")
    conversion = checkpoint.finetuned_to_release(ours)
    assert_same(conversion.state_dict, release)
    assert certify_classifier(conversion, release, ours, num_heads=4).passed


@pytest.mark.parametrize(
    "convert",
    [
        checkpoint.release_to_saim,
        checkpoint.saim_to_encoder,
        checkpoint.encoder_to_timm,
        checkpoint.timm_to_encoder,
        checkpoint.encoder_to_hf,
        checkpoint.hf_to_encoder,
        checkpoint.release_to_finetuned,
        checkpoint.finetuned_to_release,
    ],
)
@pytest.mark.parametrize("state", [{}, {"fc.weight": torch.zeros(1)}])
def test_a_foreign_state_dict_is_refused(convert: Any, state: StateDict) -> None:
    with pytest.raises(CheckpointError, match="Missing keys"):
        convert(state)


def test_a_wrong_layout_names_the_converter() -> None:
    release = release_state()
    ours = checkpoint.release_to_saim(release).state_dict
    with pytest.raises(CheckpointError, match="official_to_saim.py"):
        checkpoint.saim_to_encoder(release)
    with pytest.raises(CheckpointError, match="saim_to_encoder.py"):
        checkpoint.encoder_to_timm(ours)
    with pytest.raises(CheckpointError, match="official_finetuned_to_mmpretrain.py"):
        checkpoint.release_to_saim(finetuned_state(pooled=True))


@pytest.mark.slow
def test_full_vit_b() -> None:
    """175.6 M parameters; about 2 GB of memory."""
    release = release_state(768, 12, 12, patch=16, side=14)
    release = {
        key: tensor if key.startswith(("gaussian", "pos")) else tensor * 0.1
        for key, tensor in release.items()
    }
    conversion = checkpoint.release_to_saim(release)
    weights = without(release, "gaussian_blur.weight")
    assert len(conversion.used) == len(release) == 395
    assert round(sum(map(torch.numel, weights.values())) / 1e6, 1) == 175.6
    ours = conversion.state_dict
    certificate = certify_pretraining(conversion, release, ours, (9, 1.0))
    assert certificate.passed, certificate


@pytest.mark.parametrize(
    ("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1280, 16)]
)
def test_heads_of_the_standard_vits(width: int, heads: int) -> None:
    """ViT-H has 80 channels a head, and no shape says so."""
    state = {
        "patch_embed.projection.weight": torch.empty(width, 3, 14, 14),
        "pos_embed": torch.zeros(1, 1 + 4, width),
        "layers.0.ffn.layers.0.0.weight": torch.empty(4, width),
    }
    assert infer_arch(state).num_heads == heads


def test_heads_of_aim() -> None:
    """128 channels a head, told by the norm after the patch projection."""
    state = {
        "patch_embed.projection.weight": torch.empty(1536, 3, 14, 14),
        "patch_embed.norm.weight": torch.empty(1536),
        "pos_embed": torch.zeros(1, 4, 1536),
        "layers.0.ffn.layers.0.0.weight": torch.empty(4, 1536),
    }
    arch = infer_arch(state)
    assert arch.num_heads == 12 and not arch.with_cls_token
