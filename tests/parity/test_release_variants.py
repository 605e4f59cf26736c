"""The release's less common checkpoints: shared decoders, linear probes, projectors."""

from __future__ import annotations

import pytest
import torch
from release_states import assert_same, finetuned_state, release_state, without

from saim_mm.parity.certificate import certify_classifier, certify_pretraining
from saim_mm.parity.release_model import release_pretraining
from saim_mm.weights import (
    CheckpointError,
    StateDict,
    finetuned_to_release,
    release_to_finetuned,
    release_to_saim,
    saim_to_release,
)

DEPTH = 4
WIDTH = 16


def shared_state(layers: int = DEPTH) -> StateDict:
    """A checkpoint of DEPTH layers whose first ones are saved as query layers too."""
    release = release_state(depth=DEPTH, decoder_depth=layers)
    for key in release:
        if key.startswith("query_"):
            release[key] = release[key.removeprefix("query_")]
    return release


def certified(release: StateDict, decoder_depth: int | None = None) -> StateDict:
    """The converted state dict, once its certificate has passed."""
    conversion = release_to_saim(release, decoder_depth=decoder_depth)
    ours = conversion.state_dict
    certificate = certify_pretraining(conversion, release, ours, (9, 1.0), num_heads=4)
    assert certificate.passed, certificate
    return ours


# ---- decoders that share the encoder's layers ----------------------------------------


@pytest.mark.parametrize("told", [None, DEPTH])
def test_a_decoder_of_all_layers_is_coupled(told: int | None) -> None:
    ours = certified(shared_state(), told)
    assert not any(key.startswith("neck.layers.") for key in ours)
    dropped = release_to_saim(shared_state(), decoder_depth=told).dropped
    assert set(dropped) == {f"query_blocks, shared with all {DEPTH} blocks"}


@pytest.mark.parametrize("decoder_depth", [1, 2])
def test_a_shallower_one_gets_layers_of_its_own(decoder_depth: int) -> None:
    """The release saves all layers and runs the first; ours would run the last."""
    release = shared_state()
    ours = certified(release, decoder_depth)
    for kind in ("attn.proj", "ln1"):
        for n in range(decoder_depth):
            assert torch.equal(
                ours[f"neck.layers.{n}.{kind}.weight"],
                ours[f"backbone.layers.{n}.{kind}.weight"],
            )
    assert f"neck.layers.{decoder_depth}.ln1.weight" not in ours
    dropped = release_to_saim(release, decoder_depth=decoder_depth).dropped
    assert set(dropped) == {f"query_blocks beyond the {decoder_depth} that run"}


def test_the_depth_is_no_matter_of_taste() -> None:
    """What the file does not tell changes the loss, so it has to be said."""
    images = torch.randn(2, 3, 12, 12)
    noise = torch.stack([torch.randperm(9) / 9 for _ in images])
    losses = {
        float(release_pretraining(shared_state(), images, noise, 4, depth)["loss"])
        for depth in (1, 2, 4)
    }
    assert len(losses) == 3


def test_first_layers_alone_are_refused_unless_agreed() -> None:
    release = shared_state(layers=2)
    with pytest.raises(CheckpointError, match="2 query_blocks .* first of its 4.*"):
        release_to_saim(release)
    with pytest.raises(CheckpointError, match="--decoder-depth 2"):
        release_to_saim(release)
    ours = certified(release, decoder_depth=2)
    back = saim_to_release(ours, blur=release["gaussian_blur.weight"])
    assert_same(back.state_dict, release)


@pytest.mark.parametrize(
    ("layers", "asked", "allowed"),
    [(4, 3, r"\[1, 2, 4\]"), (4, 0, r"\[1, 2, 4\]"), (2, 1, r"\[2\]")],
)
def test_an_impossible_depth_is_refused(layers: int, asked: int, allowed: str) -> None:
    with pytest.raises(CheckpointError, match=f"decoder_depth={asked}: .* {allowed}"):
        release_to_saim(shared_state(layers), decoder_depth=asked)


def test_the_depth_of_a_decoder_of_its_own_is_in_the_file() -> None:
    release = release_state(decoder_depth=2)
    assert_same(certified(release, decoder_depth=2), certified(release))
    with pytest.raises(CheckpointError, match="decoder_depth=4, but .* 2 layers"):
        release_to_saim(release, decoder_depth=4)


def test_one_layer_that_differs_makes_it_no_shared_decoder() -> None:
    release = shared_state()
    release["query_blocks.3.mlp.fc2.bias"] = release["blocks.3.mlp.fc2.bias"] + 1
    assert "neck.layers.3.ln1.weight" in certified(release)


def test_a_missing_key_of_a_shared_decoder_is_named() -> None:
    key = "query_blocks.2.norm1.bias"
    with pytest.raises(CheckpointError, match=rf"Missing keys \(1\): \['{key}'\]"):
        release_to_saim(without(shared_state(), key))


# ---- linear probes -------------------------------------------------------------------


def probe_state(pooled: bool) -> StateDict:
    """A linear probe of the release: a BatchNorm1d without weights, then a Linear."""
    state = finetuned_state(pooled)
    for kind in ("weight", "bias"):
        state[f"head.1.{kind}"] = state.pop(f"head.{kind}")
    state["head.0.running_mean"] = torch.linspace(-0.5, 0.5, WIDTH)
    state["head.0.running_var"] = torch.linspace(0.5, 2, WIDTH)
    state["head.0.num_batches_tracked"] = torch.tensor(1234)
    return state


@pytest.mark.parametrize("pooled", [False, True])
def test_linear_probe_round_trip(pooled: bool) -> None:
    release = probe_state(pooled)
    conversion = release_to_finetuned(release)
    assert conversion.dropped == {}
    ours = conversion.state_dict
    assert {key for key in ours if key.startswith(("neck.", "head."))} == {
        "neck.bn.running_mean", "neck.bn.running_var", "neck.bn.num_batches_tracked",
        "head.fc.weight", "head.fc.bias",
    }  # fmt: skip
    assert_same(finetuned_to_release(ours).state_dict, release)
    certificate = certify_classifier(conversion, release, ours, num_heads=4)
    assert certificate.passed
    # The batch norm takes part in what is compared.
    wrong = {**ours, "neck.bn.running_mean": torch.zeros(WIDTH)}
    assert not certify_classifier(conversion, release, wrong, num_heads=4).passed


def test_a_probe_without_its_statistics_is_refused() -> None:
    state = without(probe_state(pooled=False), "head.0.running_var")
    with pytest.raises(
        CheckpointError, match=r"Missing.*'head.0.running_var'"
    ) as error:
        release_to_finetuned(state)
    assert "looks like" not in str(error.value)  # it is what it should be, but for it


# ---- projectors ----------------------------------------------------------------------


def test_an_unknown_projector_is_refused_by_name() -> None:
    release = release_state(head="linear")
    release["prediction_head.0.attn.q.weight"] = torch.zeros(WIDTH, WIDTH)
    with pytest.raises(CheckpointError, match="transformer projector") as error:
        release_to_saim(release)
    assert "prediction_head.0.attn.q.weight" in str(error.value)
    assert "official_to_saim" not in str(error.value)


def test_our_transformer_projector_has_no_place_in_the_release() -> None:
    ours = release_to_saim(release_state(head="linear")).state_dict
    ours["head.projector.layers.0.ln1.weight"] = torch.zeros(WIDTH)
    with pytest.raises(CheckpointError, match="transformer projector.*saim_to_encoder"):
        saim_to_release(ours)


def test_the_converter_does_not_recommend_itself() -> None:
    state = without(release_state(), "norm.weight")
    with pytest.raises(CheckpointError, match=r"Missing keys \(1\)") as error:
        release_to_saim(state)
    assert "official_to_saim" not in str(error.value)
