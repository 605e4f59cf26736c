"""Files and key maps; a seeded state dict in the exact layout of the release."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from saim_mm import checkpoint
from saim_mm.checkpoint import CheckpointError, StateDict
from saim_mm.checkpoint.arch import infer_arch
from saim_mm.checkpoint.blur import gaussian_kernel, infer_smoothing
from saim_mm.checkpoint.certificate import (
    Certificate,
    certify_classifier,
    certify_encoder,
    certify_pretraining,
    certify_timm,
)
from saim_mm.checkpoint.keymap import Conversion
from saim_mm.checkpoint.position import infer_grid
from saim_mm.models.saim_vit import sincos_position_embedding

# The release's layout, spelt out independently of the maps.
BLOCK = ("norm1", "attn.q", "attn.k", "attn.v", "attn.proj", "norm2")


def release_state(
    width: int = 16,
    depth: int = 4,
    decoder_depth: int = 2,
    patch: int = 4,
    side: int = 3,
    head: str = "mlp",
    hidden: int = 4,
) -> StateDict:
    """A pretraining state dict of the release with seeded values."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    state: StateDict = {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"] = random(rows, columns)
        state[f"{name}.bias"] = random(rows)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = 1 + random(width)
        state[f"{name}.bias"] = random(width)

    state["cls_token"] = random(1, 1, width)
    state["pos_embed"] = random(1, 1 + side * side, width)
    state["patch_embed.proj.weight"] = random(width, 3, patch, patch)
    state["patch_embed.proj.bias"] = random(width)
    names = [f"blocks.{n}" for n in range(depth)]
    names += [f"query_blocks.{n}" for n in range(decoder_depth)]
    for name in names:
        for part in BLOCK:
            if part.startswith("attn"):
                linear(f"{name}.{part}", width, width)
            else:
                norm(f"{name}.{part}")
        linear(f"{name}.mlp.fc1", hidden * width, width)
        linear(f"{name}.mlp.fc2", width, hidden * width)
    norm("norm")
    pixels = patch * patch * 3
    if head == "mlp":
        linear("prediction_head.fc1", hidden * width, width)
        linear("prediction_head.fc2", pixels, hidden * width)
    else:
        linear("prediction_head", pixels, width)
    # Built in another way than ours, so that the last bits differ.
    axis = torch.arange(9.0) - 4
    kernel = torch.exp(-(axis[:, None] ** 2 + axis**2) / 2)
    state["gaussian_blur.weight"] = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    return state


def finetuned_state(pooled: bool, classes: int = 5) -> StateDict:
    """A fine-tuned state dict of the release."""
    state = {
        key: tensor
        for key, tensor in release_state().items()
        if not key.startswith(("query_blocks.", "prediction_head.", "gaussian_blur."))
    }
    state["head.weight"] = torch.linspace(-1, 1, classes * 16).view(classes, 16)
    state["head.bias"] = torch.arange(float(classes))
    if pooled:
        for kind in ("weight", "bias"):
            state[f"fc_norm.{kind}"] = state.pop(f"norm.{kind}")
    return state


def assert_same(a: StateDict, b: StateDict) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def without(state: StateDict, key: str) -> StateDict:
    return {name: tensor for name, tensor in state.items() if name != key}


# ---- key maps ------------------------------------------------------------------------


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


# ---- features ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder_depth", "head"), [(4, "mlp"), (2, "linear"), (1, "mlp")]
)
def test_parity_with_the_release(decoder_depth: int, head: str) -> None:
    release = release_state(decoder_depth=decoder_depth, head=head)
    conversion = checkpoint.release_to_saim(release)
    ours = conversion.state_dict
    certificate = certify_pretraining(conversion, release, ours, (9, 1.0), num_heads=4)
    assert certificate.differences["loss"] < 1e-5
    assert max(certificate.differences.values()) < 1e-4


def test_certificate_notices_swapped_query_and_key() -> None:
    release = release_state()
    conversion = checkpoint.release_to_saim(release)
    weight = conversion.state_dict["neck.layers.0.attn.qkv.weight"]
    q, k, v = weight.chunk(3)
    ours = {
        **conversion.state_dict,
        "neck.layers.0.attn.qkv.weight": torch.cat([k, q, v]),
    }
    certificate = certify_pretraining(conversion, release, ours, (9, 1.0), 4)
    assert not certificate.passed
    assert "FAILED" in str(certificate)
    assert certificate.differences["encoder features"] < 1e-4


def test_a_nan_fails_the_certificate() -> None:
    conversion = Conversion({}, ())
    arch = infer_arch(
        checkpoint.release_to_saim(release_state()).state_dict, "backbone.", 4
    )
    certificate = Certificate(conversion, {"x": float("nan")}, ("a", "b"), arch)
    assert not certificate.passed


@pytest.mark.parametrize("final_norm", [False, True])
def test_parity_with_timm(final_norm: bool) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    ours = checkpoint.release_to_saim(release_state()).state_dict
    encoder = checkpoint.saim_to_encoder(ours, final_norm).state_dict
    conversion = checkpoint.encoder_to_timm(encoder)
    certificate = certify_timm(conversion, encoder, conversion.state_dict, 4)
    assert certificate.passed


@pytest.mark.parametrize(("width", "heads", "given"), [(128, 2, None), (16, 4, 4)])
def test_heads_follow_from_the_width(width: int, heads: int, given: int | None) -> None:
    release = release_state(width=width, depth=1, decoder_depth=1)
    ours = checkpoint.release_to_saim(release).state_dict
    assert infer_arch(ours, "backbone.", given).num_heads == heads


@pytest.mark.parametrize("given", [None, 3])
def test_unknown_heads_are_asked_for(given: int | None) -> None:
    ours = checkpoint.release_to_saim(release_state()).state_dict
    with pytest.raises(CheckpointError, match="--num-heads"):
        infer_arch(ours, "backbone.", given)


@pytest.mark.parametrize("grid", [(3, 3), (2, 6), (6, 2), (4, 9), (2, 18), (1, 5)])
def test_grid_is_read_off_the_sincos_embedding(grid: tuple[int, int]) -> None:
    positions = sincos_position_embedding(grid, 16)
    if 1 in grid:  # one row repeats nothing; the model's own grid decides
        assert infer_grid(positions, like=grid) == grid
    else:
        assert infer_grid(positions) == grid


def test_grid_of_a_trained_embedding() -> None:
    noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    assert infer_grid(noise, like=(4, 8)) == (4, 8)
    assert infer_grid(noise, like=(8, 16)) == (4, 8)
    assert infer_grid(noise[:16], like=(5, 7)) == (4, 4)
    assert infer_grid(torch.zeros(16, 16)) == (4, 4)
    with pytest.raises(CheckpointError, match="32 patches"):
        infer_grid(noise, like=(3, 5))


# ---- files ---------------------------------------------------------------------------

STATE = {"a.weight": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2).bfloat16()}


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "folder/x.safetensors"])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_written_files_read_back(tmp_path: Path, name: str, key: str | None) -> None:
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    path = tmp_path / name
    checkpoint.write_state_dict(path, STATE, key)
    assert_same(checkpoint.read_state_dict(path), STATE)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if path.suffix != ".safetensors":
        torch.load(path, weights_only=True)


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    checkpoint.write_state_dict(tmp_path / "x.pth", {"a": torch.zeros(1000, 1000)[0]})
    assert (tmp_path / "x.pth").stat().st_size < 20_000


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    checkpoint.write_state_dict(path, STATE)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.write_state_dict(path, STATE, meta={"no": lambda: None})
    assert_same(checkpoint.read_state_dict(path), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'\.npz'.*\.safetensors"):
        checkpoint.write_state_dict(tmp_path / "x.npz", STATE)


class RunsOnLoad:
    """Its pickle makes a file as soon as it is read the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_executed(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    content = {"model": release_state(), "epoch": RunsOnLoad(trace)}
    torch.save(
        content,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match="evil.pth") as refusal:
        checkpoint.read_state_dict(path)
    assert not trace.exists()
    if protocol == 2:
        assert "would run code" in str(refusal.value)
        assert "mkdir" in str(refusal.value)
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file was harmless, so the test proved nothing"


def test_getattr_in_a_pickle_reaches_nothing(tmp_path: Path) -> None:
    """Names beside the weights become inert stand-ins, `getattr` too."""

    class Chain:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (HistoryBuffer, "mean")

    torch.save({"state_dict": STATE, "x": Chain()}, tmp_path / "x.pth")
    content = checkpoint.read_checkpoint(tmp_path / "x.pth")
    assert type(content["x"]).__name__ == "_Discarded"


def test_what_lies_beside_the_weights_is_read_past(tmp_path: Path) -> None:
    """A runner's log history and the release's command line."""
    history = HistoryBuffer()
    history.update(1.0)
    content = {
        "model": STATE,
        "args": argparse.Namespace(lr=1e-3, data=Path("data")),
        "message_hub": {"loss": history, "best": np.float64(1), "n": np.int64(2)},
    }
    torch.save(content, tmp_path / "x.pth")
    assert_same(checkpoint.read_state_dict(tmp_path / "x.pth"), STATE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_named(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "part.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="part.pth: truncated"):
        checkpoint.read_state_dict(path)


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.read_state_dict(tmp_path)
    for name, content in (("page.pth", b"<html>"), ("x.zip", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            checkpoint.read_state_dict(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    with pytest.raises(CheckpointError, match="other.pth"):
        checkpoint.read_state_dict(tmp_path / "other.pth")
    for content in ([1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="x.pth: holds"):
            checkpoint.read_state_dict(tmp_path / "x.pth")


def test_a_broken_safetensors_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    (tmp_path / "x.safetensors").write_bytes(b"0123456789")
    with pytest.raises(CheckpointError, match="x.safetensors: truncated"):
        checkpoint.read_state_dict(tmp_path / "x.safetensors")


# ---- the full size -------------------------------------------------------------------


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
