"""The benchmark of exported graphs; its time is never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main


@pytest.mark.slow
def test_every_file_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    out, threads = tmp_path / "record.json", torch.get_num_threads()
    options = ["--arch", "deit-tiny", "--size", "32", "--turns", "2"]
    try:
        assert main(["exported", *options, "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    files = json.loads(out.read_text())["files"]
    assert len(files) == 5 and files.pop("the encoder")["median_ratio"] == 1
    shown = capsys.readouterr().out
    for name, entry in files.items():
        assert name in shown and entry["megabytes"] > 20
        assert len(entry["milliseconds"]) == 2
        assert 0 <= entry["largest_difference"] < 1e-3
