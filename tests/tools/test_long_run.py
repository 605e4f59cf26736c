"""long_run.py: what it computes, and once for real; figures are never asserted."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/analysis_tools/long_run.py"


@pytest.fixture(scope="module")
def long_run() -> ModuleType:
    sys.path.insert(0, str(TOOL.parent))
    spec = importlib.util.spec_from_file_location("long_run", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(TOOL.parent))
    return module


def summary(
    module: ModuleType, growth: float = 0, drift: float = 0, machine: float = 0
) -> dict[str, float]:
    """Of 1,000 points, at which memory and time grow in per cent over their length.

    ``machine`` slows down the yardstick, too.
    """
    points, wall, cpu, workers, yardstick = [], 0.0, 0.0, 0.0, 0.0
    for i in range(1000):
        done = i / 999
        slower = (1 + drift * done / 100) * (1 + machine * done / 100)
        hiccup = i % 100 == 3  # a checkpoint
        wall += 4.0 * slower + 20 * hiccup
        cpu += 2.0 * slower + 5 * hiccup
        workers += 1.0 * slower
        yardstick += 0.1 * (1 + machine * done / 100)
        memory = 500 * (1 + growth * done / 100) + 100 * hiccup
        points.append(
            module.Point(100 * i, wall, cpu, workers, yardstick, memory, 800.0, 2)
        )
    return module.summarise(points)


def test_a_steady_run(long_run: ModuleType) -> None:
    found = summary(long_run)
    assert found["wall_ms_per_iteration"] == 40
    assert found["cpu_ms_per_iteration"] == 30
    assert (found["main_mib"], found["workers_mib"]) == (500, 800)
    assert all(v == 0 for k, v in found.items() if "growth" in k or "drift" in k)
    assert all(long_run.judge(found).values())


def test_growth_and_drift(long_run: ModuleType) -> None:
    """The tenths' middles are nine tenths of the run apart."""
    found = summary(long_run, growth=10, drift=20)
    assert found["main_growth_percent"] == pytest.approx(9, abs=0.2)
    assert found["main_growth_mib"] == pytest.approx(45, abs=1)
    assert found["workers_growth_percent"] == 0
    for name in ("wall", "cpu", "main_cpu", "relative_cpu"):
        assert found[f"{name}_drift_percent"] == pytest.approx(18, abs=0.5)
    assert not any(long_run.judge(found).values())


def test_a_slow_machine_is_no_drift_of_the_run(long_run: ModuleType) -> None:
    found = summary(long_run, machine=20)
    assert found["cpu_drift_percent"] == pytest.approx(18, abs=0.5)
    assert found["relative_cpu_drift_percent"] == pytest.approx(0, abs=1e-3)
    assert list(long_run.judge(found).values()) == [True, False, True]


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
def test_memory_and_time_of_a_process(long_run: ModuleType) -> None:
    before = long_run.resident_mib(os.getpid())
    with mmap.mmap(-1, 64 << 20) as block:  # pages that nothing has used before
        block[::4096] = b"x" * (len(block) // 4096)
        assert 60 < long_run.resident_mib(os.getpid()) - before < 70
    times = os.times()
    assert long_run.cpu_seconds(os.getpid()) == pytest.approx(
        times.user + times.system, abs=0.1
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
def test_a_short_run_and_its_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    command = [sys.executable, str(TOOL), "--iterations", "100", "--warm-up", "50"]
    run = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert out.exists(), run.stderr
    record = json.loads(out.read_text())
    assert run.returncode == (0 if all(record["marks"].values()) else 1)
    iterations = [point["iteration"] for point in record["points"]]
    assert iterations == list(range(1, len(iterations) + 1))  # whole epochs
    assert len(iterations) >= 100
    assert {point["workers"] for point in record["points"]} == {2}
    assert all(point["workers_mib"] > 100 for point in record["points"])
    assert {"commit", "hardware", "load_average"} <= record.keys()
