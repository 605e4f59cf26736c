"""long_run.py: what it computes, and once for real; figures are never asserted."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import long_run
import pytest

ROOT = Path(__file__).parents[2]
TOOL = "tests/soak/long_run.py"


def test_memory_that_grows() -> None:
    """The tenths' middles are nine tenths of a run apart; a peak does not count."""
    points = [
        long_run.Point(i, 0, 0, 0, 500 + 50 * i / 999 + 100 * (i % 100 == 3), 800.0, 2)
        for i in range(1000)
    ]
    found = long_run.growth(points)
    assert found["main_mib"] == pytest.approx(502.5, abs=0.5)
    assert found["main_growth_mib"] == pytest.approx(45, abs=1)
    assert found["main_growth_percent"] == pytest.approx(9, abs=0.2)
    assert (found["workers_mib"], found["workers_growth_percent"]) == (800, 0)


def test_drift_is_against_a_fresh_run_in_the_same_turn() -> None:
    """A machine that slows down is no drift; nor is a checkpoint in one turn."""
    turns = []
    for i in range(15):
        machine = 1 + i / 10
        old = long_run.Stretch(11 * machine + 50 * (i == 4), 6 * machine)
        turns.append((old, long_run.Stretch(10 * machine, 6 * machine)))
    found = long_run.drift(turns)
    assert found["wall_drift_percent"] == pytest.approx(10)
    assert found["cpu_drift_percent"] == 0
    assert found["fresh_cpu_ms_per_iteration"] == pytest.approx(6 * 1.7)


def test_a_stretch_is_per_iteration() -> None:
    start = long_run.Point(100, 1.0, 2.0, 3.0, 500, 800, 2)
    end = long_run.Point(300, 5.0, 4.0, 3.5, 501, 800, 2)
    assert long_run.stretch(start, end) == (20, 12.5)


@pytest.mark.parametrize(
    ("found", "met"),
    [
        (dict(main=2.0, workers=0.0, wall=3.0, cpu=-5.0), [True, True, True]),
        (dict(main=0.0, workers=2.1, wall=0.0, cpu=0.0), [False, True, True]),
        (dict(main=0.0, workers=0.0, wall=3.1, cpu=0.0), [True, False, True]),
        (dict(main=0.0, workers=0.0, wall=0.0, cpu=3.1), [True, True, False]),
    ],
)
def test_marks(found: dict[str, float], met: list[bool]) -> None:
    kinds = dict(main="growth", workers="growth", wall="drift", cpu="drift")
    named = {f"{name}_{kinds[name]}_percent": v for name, v in found.items()}
    assert list(long_run.judge(named).values()) == met


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
def test_memory_and_time_of_a_process() -> None:
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
    command = [sys.executable, TOOL, "--iterations", "100", "--warm-up", "50"]
    run = subprocess.run(
        [*command, "--out", str(out)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert out.exists(), run.stderr
    record = json.loads(out.read_text())
    assert run.returncode == (0 if all(record["marks"].values()) else 1)
    iterations = [point["iteration"] for point in record["points"]]
    assert iterations == list(range(1, 101))
    assert len(record["turns"]) == 40
    assert all(turn["old"]["wall"] > 0 for turn in record["turns"])
    assert all(turn["fresh"]["cpu"] >= 0 for turn in record["turns"])
    assert {point["workers"] for point in record["points"]} == {2}
    assert all(point["workers_mib"] > 100 for point in record["points"])
    assert {"commit", "hardware", "load_average"} <= record.keys()
