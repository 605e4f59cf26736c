"""The benchmark of the import; its time is never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


@pytest.mark.slow
def test_every_part_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "record.json"
    assert main(["start-up", "--rounds", "2", "--out", str(out)]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == ["mmpretrain", "its models and data sets", "saim_mm"]
    shown = capsys.readouterr().out
    for name, part in parts.items():
        assert name in shown and len(part["seconds"]) == 2
        low, high = sorted(part["seconds"])
        assert 0 < low <= part["median"] <= high and part["median_cpu"] > 0
