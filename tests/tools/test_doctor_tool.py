"""The doctor as a command: what it prints, its exit code, and where it runs."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sources import write_as

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "doctor.py"
DEBUG = str(ROOT / "configs" / "saim" / "saim_debug.py")


def examine(*arguments: str, tool: Path = TOOL, **options) -> tuple[int, str]:
    """Exit code and output of the command."""
    run = subprocess.run(
        [sys.executable, *options.pop("python", ()), str(tool), *arguments],
        capture_output=True,
        text=True,
        **options,
    )
    assert "Traceback" not in run.stderr, run.stderr
    return run.returncode, run.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tool and the files that it needs, in a folder of their own."""
    package = ("_doctor", "_stack", "version", "cli/__init__", "cli/_arguments")
    package = (*package, "cli/doctor", "utils/__init__", "utils/command_line")
    files = [f"saim_mm/{name}.py" for name in package]
    for name in ("tools/doctor.py", *files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path / "tools" / "doctor.py"


def test_it_runs_where_nothing_is_installed(copy: Path) -> None:
    code, out = examine(tool=copy, python=("-S", "-E"))  # no site-packages
    assert code == 1
    for name in ("torch", "mmengine", "mmcv", "mmpretrain"):
        assert f"saim_mm needs {name}>=" in out and f"{name}==" in out
    assert out.endswith("Something is wrong; see the errors above.\n")


@pytest.mark.slow
def test_it_runs_where_the_package_does_not_import(copy: Path) -> None:
    broken = copy.parents[1] / "saim_mm" / "__init__.py"
    broken.write_text("raise RuntimeError('half an update')\n")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(copy.parents[1])}
    code, out = examine(DEBUG, tool=copy, env=environment)
    assert code == 1
    assert "[ error ] saim_mm does not import: half an update\n" in out
    assert f"[ error ] {DEBUG}: half an update\n" in out


def photos(folder: Path, broken: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for index in range(8):
        cv2.imwrite(str(folder / f"{index}.jpg"), noise)
    for index in range(broken):
        (folder / f"{index}.jpg").write_bytes(b"<html>")


@pytest.mark.parametrize("broken", [0, 2])
def test_a_folder_with_broken_images(broken: int, tmp_path: Path, capsys) -> None:
    photos(tmp_path, broken)
    (tmp_path / "8.avif").touch()
    arguments = [
        str(ROOT / "configs/saim/saim_vit-b_300e_in1k.py"),
        "--work-dir", str(tmp_path), "--samples", "8", "--cfg-options",
        f"train_dataloader.dataset.data_root={tmp_path}",
        "train_dataloader.dataset.data_prefix=", "train_dataloader.batch_size=8",
    ]  # fmt: skip
    code = runpy.run_path(str(TOOL))["main"](arguments)
    out = capsys.readouterr().out
    assert code == bool(broken)
    assert "1 left out (1 .avif)" in out
    if broken:
        assert str(tmp_path / "1.jpg") in out
        assert "2 of 8 samples that were tried do not load (25.0%)" in out
    else:
        assert "all 8 samples that were tried load" in out
        assert out.endswith("Ready.\n")


def test_shards_have_nothing_left_out(tmp_path: Path, capsys) -> None:
    photos(tmp_path, 0)
    shards = write_as("WebDatasetImages", tmp_path, tmp_path.with_name("shards"))
    (shards / "sizes.json").touch()
    arguments = [
        str(ROOT / "configs/saim/saim_vit-b_300e_in1k.py"),
        "--work-dir", str(tmp_path), "--samples", "8", "--cfg-options",
        "train_dataloader.dataset.type=WebDatasetImages",
        f"train_dataloader.dataset.data_root={shards}",
        "train_dataloader.dataset.data_prefix=", "train_dataloader.batch_size=8",
    ]  # fmt: skip
    assert runpy.run_path(str(TOOL))["main"](arguments) == 0
    out = capsys.readouterr().out
    assert "all 8 samples that were tried load" in out and "left out" not in out


def test_wrong_numbers_are_refused(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOL))["main"](["--gpus", "0"])
    assert "--gpus and --samples must be positive" in capsys.readouterr().err


@pytest.mark.slow
def test_launched_by_a_user(tmp_path: Path) -> None:
    code, out = examine(DEBUG, cwd=tmp_path)
    assert code == 0, out
    assert "scope mmpretrain finds SAIMViT" in out
