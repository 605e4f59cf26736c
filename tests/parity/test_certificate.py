"""Certificates: features computed on both sides agree, and a wrong one is noticed."""

from __future__ import annotations

import pytest
import torch
from release_states import release_state

from saim_mm import checkpoint
from saim_mm.models.saim_vit import sincos_position_embedding
from saim_mm.parity.certificate import Certificate, certify_pretraining, certify_timm
from saim_mm.weights import CheckpointError
from saim_mm.weights.arch import infer_arch
from saim_mm.weights.keymap import Conversion
from saim_mm.weights.position import infer_grid


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


@pytest.mark.parametrize(
    "grid",
    [(3, 3), (2, 6), (6, 2), (4, 9), (2, 18), (1, 5), (1, 16), (16, 1), (2, 1), (1, 1)],
)
def test_grid_is_read_off_the_sincos_embedding(grid: tuple[int, int]) -> None:
    positions = sincos_position_embedding(grid, 16)
    assert infer_grid(positions) == grid
    assert infer_grid(positions, like=(4, 4), same_model=True) == grid
    assert infer_grid(positions.half()) == grid


def test_grid_of_a_trained_embedding() -> None:
    noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    assert infer_grid(noise, like=(4, 8)) == (4, 8)
    assert infer_grid(noise, like=(8, 16)) == (4, 8)
    assert infer_grid(noise[:16], like=(5, 7)) == (4, 4)
    assert infer_grid(torch.zeros(16, 16)) == (4, 4)
    with pytest.raises(CheckpointError, match="32 patches"):
        infer_grid(noise, like=(3, 5))
