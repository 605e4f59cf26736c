"""The benchmark of data parallelism, really launched; its speed is never asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saim_mm.reliability.sharding import fully_shard

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(fully_shard is None, reason="fully_shard came with torch 2.6")
def test_all_variants_learn_the_same(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc_per_node", "2", "-m", "benchmarks", "data-parallel",
         "configs/saim/saim_debug.py",
         "--batch", "2", "--steps", "2", "--warm-up", "1", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    record = json.loads(out.read_text())
    assert record["processes"] == 2
    launcher = "torchrun --nproc_per_node 2 -m benchmarks data-parallel"
    assert record["command"].startswith(f"{launcher} configs/saim/saim_debug.py")
    rows = record["variants"]
    first = rows["data parallelism"]
    assert first["times_the_first"] == 1
    for name, row in rows.items():
        assert name in run.stdout
        assert row["seconds_per_step"] > 0
        assert row["losses"] == pytest.approx(first["losses"], rel=1e-5), name
    assert first["losses"][2] != first["losses"][1]
    share = rows["fully sharded"]["mib_per_process"] / first["mib_per_process"]
    assert share == pytest.approx(0.5, abs=0.02)
