"""benchmark_pretrain.py, really launched; how fast it is, is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = "tools/analysis_tools/benchmark_pretrain.py"
DEBUG = "configs/saim/saim_debug.py"
SHORT = ["--steps", "2", "--warm-up", "1", "--batch", "4"]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, TOOL, *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("data", ["none", "synthetic", "config"])
def test_record_and_table(tmp_path: Path, data: str) -> None:
    out = tmp_path / "record.json"
    against = ["--against", "reference"] if data == "none" else []
    run = launch(DEBUG, *SHORT, "--data", data, "--out", str(out), *against)
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    assert {"commit", "hardware", "versions", "load_average"} <= set(record)
    assert record["command"].startswith(f"python {TOOL} {DEBUG} --steps 2")
    assert (record["batch"], record["steps"], record["dtype"]) == (4, 2, "float32")
    assert record["gflop_per_image"] == pytest.approx(0.048, abs=0.001)
    assert record["peak_tflops"]["measured product"] > 0
    assert record["compile"] is None

    for result in record["results"]:
        assert set(result["split"]) == {"loader", "forward", "backward", "optimiser"}
        assert result["peak_mib"] > result["resident_mib"] > 0
        assert result["mfu"]["data sheet"] is None
        assert len(result["losses"]) == 3
        assert result["images_per_second"] == pytest.approx(
            4 / result["seconds_per_step"], rel=0.01
        )
    assert "MFU, peak data sheet                not measured" in run.stdout
    assert [result["variant"] for result in record["results"]] == (
        ["saim_mm", "reference"] if against else ["saim_mm"]
    )
    if against:
        # Same weights, batches, orders and optimiser: the same losses.
        assert record["ratio"]["largest_relative_loss_difference"] < 1e-4
        assert "x the speed without loader" in run.stdout


@pytest.mark.slow
def test_compile_and_bfloat16(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    run = launch(
        DEBUG, *SHORT, "--data", "none", "--compile", "--dtype", "bfloat16",
        "--out", str(out), "--set", "model.backbone.arch.num_layers=1",
        "model.neck.depth=1",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads(out.read_text())
    assert record["dtype"] == "bfloat16"
    assert record["compile"]["first_step"] > 0
    assert "graph breaks: " in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "must be at least 1"),
        (["--dtype", "float16"], "--dtype float16 needs CUDA"),
        (["--batch", "1000", "--data", "config"], "do not fill one batch of 1000"),
    ],
    ids=["steps", "dtype", "batch"],
)
def test_errors_name_the_remedy(arguments: list[str], message: str) -> None:
    run = launch(DEBUG, *arguments)
    assert run.returncode
    assert message in run.stderr
