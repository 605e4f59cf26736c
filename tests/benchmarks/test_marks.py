"""marks.sh: its commands, without running them."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import pretrain, variants

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/marks.sh"


def commands(tmp_path: Path, *arguments: str, status: int = 0) -> list[list[str]]:
    """What the script would run, each command succeeding or not."""
    stub, log = tmp_path / "python", tmp_path / "log"
    stub.write_text(
        f"#!{sys.executable}\nimport shlex, sys\n"
        f"open({str(log)!r}, 'a').write(shlex.join(sys.argv[1:]) + '\\n')\n"
        f"sys.exit({status})\n"
    )
    stub.chmod(0o755)
    run = subprocess.run(
        [SCRIPT, *arguments], env={**os.environ, "PYTHON": str(stub)},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == status, run.stderr
    if status:
        assert run.stderr.startswith("not measured: full query-share-2 ")
    return [shlex.split(line) for line in log.read_text().splitlines()]


def test_every_command_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tool it calls, down to the config with its overrides."""
    pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
    pytest.importorskip("mmdet")
    monkeypatch.chdir(ROOT)
    found = commands(tmp_path, str(tmp_path / "out"), str(tmp_path))
    marks = set()
    for minus_m, package, name, *arguments in found:
        assert (minus_m, package) == ("-m", "benchmarks")
        benchmark = importlib.import_module(f"benchmarks.{name}")
        args = benchmark.parse_args(arguments)
        if name == "pretrain":
            cfg = pretrain.load_config(args)
            assert (args.dtype, args.compile) == ("bfloat16", True)
        else:
            cfg = variants.load_config(args)
        assert isinstance(args, Namespace) and cfg.model.backbone.type == "SAIMViT"
        marks.add(Path(args.out).stem)
    assert {"full", "loader", "fine-tune", "detector", "reference-896"} <= marks
    assert len(marks) == len(found)


def test_a_mark_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    without_data = commands(tmp_path, str(tmp_path / "out"), status=1)
    assert len(without_data) == 9
    assert not any("--data config" in " ".join(command) for command in without_data)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """Where the configs would not be found, and OUT would land elsewhere."""
    run = subprocess.run([SCRIPT, "out"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"{tmp_path} is not the root of the repository" in run.stderr
    assert not list(tmp_path.iterdir())


def test_no_folder_shows_the_usage() -> None:
    run = subprocess.run([SCRIPT], capture_output=True, text=True)
    assert run.returncode == 2
    assert "benchmarks/marks.sh OUT [DATA]" in run.stderr
