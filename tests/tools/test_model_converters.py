"""The converters: files in, files out, certificate, exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmpretrain.registry import MODELS
from run_tool import run_tool
from tiny import tiny_backbone, tiny_config

from saim_mm.parity import certificate
from saim_mm.weights import (
    StateDict,
    finetuned_to_release,
    read_state_dict,
    saim_to_release,
    write_state_dict,
)

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools" / "model_converters"
HEADS = ("--num-heads", "2")
LIBRARIES = (("encoder_to_timm", "timm"), ("encoder_to_hf", "transformers"))


Outcome = tuple[int, str, str]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a tool here: importing torch anew takes seconds."""

    def run(tool: str, *arguments: object) -> Outcome:
        return run_tool(f"model_converters.{tool}", *arguments), *capsys.readouterr()

    return run


def launch(tool: str, *arguments: object, folder: Path) -> Outcome:
    """Runs a tool as a user does, from another folder."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    run = subprocess.run(
        [sys.executable, str(TOOLS / f"{tool}.py"), *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**environment, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    return run.returncode, run.stdout, run.stderr


def passed(outcome: Outcome) -> str:
    code, out, error = outcome
    assert code == 0, out + error
    assert "certificate: PASSED" in out
    assert "keys missing: 0" in out
    return out


def assert_same(a: StateDict, b: StateDict) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def random_state(config: dict) -> StateDict:
    state = MODELS.build(config).state_dict()
    return {
        key: tensor if "num_batches" in key else random_like(key, tensor)
        for key, tensor in state.items()
    }


def random_like(key: str, tensor: torch.Tensor) -> torch.Tensor:
    noise = 0.3 * torch.randn_like(tensor)
    return 1 + noise.abs() if key.endswith("running_var") else noise


def test_from_the_release_to_every_other_library(convert, tmp_path: Path) -> None:
    """The release -> ours -> encoder -> timm and Hugging Face, and all ways back."""
    release = saim_to_release(random_state(tiny_config(image_size=(12, 12), depth=2)))
    # One bit off our own kernel, as the release's is.
    blur = release.state_dict["gaussian_blur.weight"]
    blur[0, 0, 4, 4] = torch.nextafter(blur[0, 0, 4, 4], torch.tensor(1.0))
    src = tmp_path / "release.pth"
    write_state_dict(src, release.state_dict, key="model")
    ours, back = tmp_path / "ours.pth", tmp_path / "back.pth"
    count = len(release.state_dict)
    report = passed(convert("official_to_saim", src, ours, *HEADS))
    assert f"keys used: {count} of {count}" in report
    assert "largest absolute difference, loss" in report
    passed(convert("saim_to_official", ours, back, *HEADS))
    assert_same(read_state_dict(back), release.state_dict)
    assert set(torch.load(back, weights_only=True)) == {"model"}

    encoder = tmp_path / "encoder.pth"
    report = passed(convert("saim_to_encoder", ours, encoder, "--final-norm", *HEADS))
    assert "keys dropped, decoder (neck)" in report
    for tool, library in LIBRARIES:
        pytest.importorskip(library, reason=f"{library} is an optional extra")
        there = tmp_path / f"{library}.pth"
        passed(convert(tool, encoder, there, *HEADS))
        again = tmp_path / f"{tool}.pth"
        passed(convert(tool, there, again, "--reverse", *HEADS))
        assert_same(read_state_dict(again), read_state_dict(encoder))
    config = json.loads((tmp_path / "transformers.pth" / "config.json").read_text())
    assert config["layer_norm_eps"] == 1e-6


def test_the_encoder_is_what_mm_projects_load(convert, tmp_path: Path) -> None:
    """Also from a model without decoder, whose grid the positions tell."""
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    model = MODELS.build(tiny_config(depth=0, order="raster"))
    model.init_weights()
    write_state_dict(tmp_path / "ours.pth", model.state_dict())
    for name, *options in (("a.safetensors",), ("b.pth", "--prefix", "backbone.")):
        arguments = (tmp_path / "ours.pth", tmp_path / name, *options, *HEADS)
        assert "grid=(2, 3)" in passed(convert("saim_to_encoder", *arguments))
    encoder = read_state_dict(tmp_path / "a.safetensors")
    config = {**tiny_backbone(), "type": "VisionTransformer"}
    MODELS.build(config).load_state_dict(encoder, strict=True)
    prefixed = {f"backbone.{key}": tensor for key, tensor in encoder.items()}
    assert_same(read_state_dict(tmp_path / "b.pth"), prefixed)


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("out_type", ["cls_token", "avg_featmap"])
def test_finetuned_and_back(
    convert, tmp_path: Path, out_type: str, probe: bool
) -> None:
    final_norm = out_type == "cls_token"
    options = dict(out_type=out_type, final_norm=final_norm, image_size=(8, 8))
    ours = random_state(
        dict(
            type="ImageClassifier",
            backbone=tiny_backbone(**options),
            neck=dict(type="ClsBatchNormNeck", input_features=16) if probe else None,
            head=dict(type="LinearClsHead", num_classes=3, in_channels=16),
        )
    )
    src, dst, back = (tmp_path / f"{name}.pth" for name in "abc")
    write_state_dict(src, finetuned_to_release(ours).state_dict, key="model")
    tool = "official_finetuned_to_mmpretrain"
    assert "difference, logits" in passed(convert(tool, src, dst, *HEADS))
    assert_same(read_state_dict(dst), ours)
    passed(convert(tool, dst, back, "--reverse", *HEADS))
    assert_same(read_state_dict(back), read_state_dict(src))


def test_a_shared_decoder_of_fewer_layers(convert, tmp_path: Path) -> None:
    """The release does not save how many, so the user says it."""
    model = random_state(tiny_config(image_size=(12, 12), tied_decoder=True))
    release = saim_to_release(model, coupled=True).state_dict
    src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
    write_state_dict(src, release, key="model")
    report = passed(convert("official_to_saim", src, dst, *HEADS))
    assert "query_blocks, shared with all" in report
    assert_same(read_state_dict(dst), model)
    shorter = tmp_path / "shorter.pth"
    passed(convert("official_to_saim", src, shorter, "--decoder-depth", 1, *HEADS))
    assert "neck.layers.0.ln1.weight" in read_state_dict(shorter)


def test_errors_are_one_line_and_leave_no_file(convert, tmp_path: Path) -> None:
    ours = random_state(tiny_config(image_size=(12, 12)))
    src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
    for state, arguments, named in (
        (ours, HEADS, "saim_to_encoder.py"),
        (saim_to_release(ours).state_dict, (), "--num-heads"),
        (saim_to_release(ours, (5, 2.0)).state_dict, HEADS, "--kernel-size 5"),
    ):
        write_state_dict(src, state, key="model")
        code, _, error = convert("official_to_saim", src, dst, *arguments)
        assert code == 1
        assert error.startswith("error: ") and error.count("\n") == 1
        assert named in error
        assert not dst.exists()


def test_a_failed_certificate_writes_nothing(convert, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(certificate, "TOLERANCE", -1.0)
    src, dst = tmp_path / "src.pth", tmp_path / "dst.pth"
    write_state_dict(src, random_state(tiny_config(image_size=(12, 12))))
    code, out, error = convert("saim_to_encoder", src, dst, *HEADS)
    assert code == 1
    assert "certificate: FAILED" in out
    assert "nothing written" in error
    assert not dst.exists()


@pytest.mark.slow
def test_launched_by_a_user(tmp_path: Path) -> None:
    state = random_state(tiny_config(image_size=(12, 12)))
    write_state_dict(tmp_path / "a.pth", saim_to_release(state).state_dict, "model")
    arguments = ("a.pth", "b.pth", *HEADS)
    passed(launch("official_to_saim", *arguments, folder=tmp_path))
    assert_same(read_state_dict(tmp_path / "b.pth"), state)


@pytest.mark.slow
def test_every_tool_launched_by_a_user(tmp_path: Path) -> None:
    state = random_state(tiny_config(image_size=(12, 12)))
    write_state_dict(tmp_path / "a.pth", state)
    passed(launch("saim_to_official", "a.pth", "b.pth", *HEADS, folder=tmp_path))
    norm = ("--final-norm", *HEADS)
    passed(launch("saim_to_encoder", "a.pth", "e.pth", *norm, folder=tmp_path))
    for tool, library in LIBRARIES:
        pytest.importorskip(library, reason=f"{library} is an optional extra")
        passed(launch(tool, "e.pth", f"{library}.pth", *HEADS, folder=tmp_path))
    tool = "official_finetuned_to_mmpretrain"
    (tmp_path / "part.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:1000])
    code, _, error = launch(tool, "part.pth", "f.pth", folder=tmp_path)
    assert code == 1 and "error: part.pth: truncated" in error


def test_nothing_is_written_over(
    convert: Callable[..., Outcome], tmp_path: Path
) -> None:
    taken = tmp_path / "mine.pth"
    taken.write_text("mine")
    missing = tmp_path / "missing.pth"  # said before anything is read
    code, _, error = convert("saim_to_encoder", missing, taken)
    assert code == 1 and f"{taken}: is there already" in error
    assert taken.read_text() == "mine"
