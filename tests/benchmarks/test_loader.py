"""The benchmark of loading, really launched; how fast it is, is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARK = ["-m", "benchmarks", "loader"]


@pytest.mark.slow
def test_record_of_the_sample_photographs(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("simplejpeg")
    out = tmp_path / "record.json"
    run = subprocess.run(
        [sys.executable, *BENCHMARK, "--images", "3", "--rounds", "2",
         "--out", str(out)], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    record = json.loads(out.read_text())
    assert {"commit", "hardware", "versions", "load_average"} <= set(record)
    assert record["command"].startswith("python -m benchmarks loader --images 3")
    assert record["data"]["images"] == 3
    assert 0.15 < record["data"]["megapixels"] < 0.25
    assert len(record["pipelines"]) == 11
    assert record["pipelines"]["ours"]["times_ours"] == 1
    for row in (*record["pipelines"].values(), *record["decoders"].values()):
        assert row["images_per_cpu_second"] * row["milliseconds"] == pytest.approx(
            1e3, rel=0.01
        )
    assert set(record["decoders"]) >= {"OpenCV", "Pillow", "torchvision", "simplejpeg"}
    assert record["psnr_against_pillow"]["least"] > 55
    assert record["psnr_against_pillow"]["largest_difference"] <= 3
    packs = record["packs"]
    assert packs["packed"]["psnr"] is None
    assert packs["packed, uncompressed"]["psnr"]["least"] == 99
    assert packs["packed, short side 320"]["psnr"]["least"] > 30
    assert record["data_loader"]["workers"] == 2
    assert "DataLoader: {'workers': 2" in run.stdout
