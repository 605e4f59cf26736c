"""The pretraining benchmark, really launched; how fast it is, is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
BENCHMARK = ["-m", "benchmarks", "pretrain"]
DEBUG = "configs/saim/saim_debug.py"
VIT_B = "configs/saim/saim_vit-b_800e_in1k.py"
SHORT = ["--steps", "2", "--warm-up", "1", "--batch", "4"]
#: Four patches, 192 channels; the recipe's own loader and transforms.
SHRUNK = [
    "model.backbone.arch=deit-tiny",
    "model.backbone.img_size=32",
    "train_dataloader.dataset.pipeline.0.scale=32",
    "train_dataloader.num_workers=1",
]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *BENCHMARK, *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def check(record: dict[str, Any], stdout: str) -> None:
    """What every record has, and its table says."""
    assert {"commit", "hardware", "versions", "load_average"} <= set(record)
    assert record["command"].startswith(
        f"python -m benchmarks pretrain {record['config']} --steps 2"
    )
    assert (record["batch"], record["steps"], record["dtype"]) == (4, 2, "float32")
    assert record["peak_tflops"]["measured product"] > 0
    assert record["compile"] is None
    for result in record["results"]:
        assert set(result["split"]) == {"loader", "forward", "backward", "optimiser"}
        assert result["peak_mib"] > result["resident_mib"] > 0
        assert result["forward_mib"] >= 0
        assert result["mfu"]["data sheet"] is None
        assert len(result["losses"]) == 3
        assert result["images_per_second"] == pytest.approx(
            4 / result["seconds_per_step"], rel=0.01
        )
    assert "MFU, peak data sheet                not measured" in stdout


@pytest.mark.slow
def test_against_the_reference(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    run = launch(
        DEBUG, *SHORT, "--data", "none", "--out", str(out), "--against", "reference"
    )
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    check(record, run.stdout)
    assert record["gflop_per_image"] == pytest.approx(0.048, abs=0.001)
    names = [result["variant"] for result in record["results"]]
    assert names == ["saim_mm", "reference"]
    # Same weights, batches, orders and optimiser: the same losses.
    assert record["ratio"]["largest_relative_loss_difference"] < 1e-4
    assert "x the speed without loader" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("data", ["synthetic", "config"])
def test_through_the_loader(tmp_path: Path, data: str) -> None:
    out, folder = tmp_path / "record.json", tmp_path / "train"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):  # one batch an epoch
        pixels = rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
    run = launch(
        VIT_B, *SHORT, "--data", data, "--out", str(out), "--set", *SHRUNK,
        f"train_dataloader.dataset.data_root={tmp_path}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    check(record, run.stdout)
    assert record["data"] == data
    assert record["ratio"] is None
    assert record["results"][0]["split"]["loader"] > 0


@pytest.mark.slow
def test_compile_and_bfloat16(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    run = launch(
        DEBUG, *SHORT, "--data", "none", "--compile", "--dtype", "bfloat16",
        "--against", "eager", "--out", str(out),
        "--set", "model.backbone.arch.num_layers=1", "model.neck.depth=1",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    assert record["dtype"] == "bfloat16"
    assert record["compile"]["first_step"] > 0
    names = [result["variant"] for result in record["results"]]
    assert names == ["saim_mm", "eager"]
    # They round to bfloat16 in other places.
    assert record["ratio"]["largest_relative_loss_difference"] < 0.01
    assert "graph breaks: " in run.stdout


@pytest.mark.slow
def test_activation_checkpointing(tmp_path: Path) -> None:
    """Computed again for the backward pass: the same losses in less memory."""
    out = tmp_path / "record.json"
    layers = [f"{part}.layers.{i}" for part in ("backbone", "neck") for i in range(4)]
    run = launch(
        DEBUG, *SHORT, "--data", "none", "--against", "eager", "--out", str(out),
        "--set", f"activation_checkpointing={','.join(layers)}",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    ratio = json.loads(out.read_text())["ratio"]
    assert ratio["largest_relative_loss_difference"] < 1e-5
    assert ratio["forward_memory"] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "float16"], "--dtype float16 needs CUDA"),
        (["--against", "eager"], "compare a model with itself; add --compile"),
        (["--batch", "1000", "--data", "config"], "do not fill one batch of 1000"),
    ],
    ids=["dtype", "eager", "batch"],
)
def test_errors_name_the_remedy(arguments: list[str], message: str) -> None:
    run = launch(DEBUG, *arguments)
    assert run.returncode
    assert message in run.stderr
