"""The doctor: what it finds on sick machines, and that it runs on them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "doctor.py"
DEBUG = str(ROOT / "configs" / "saim" / "saim_debug.py")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def doctor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("doctor", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["doctor"] = module
    spec.loader.exec_module(module)
    return module


GOOD = {
    "onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "torch": "2.11.0+cu130",
    "torchvision": "0.26.0+cu130", "numpy": "2.2.6", "transformers": "4.57.6",
}  # fmt: skip
UPSTREAM = {
    "mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0", "torch": "2.1.2",
    "torchvision": "0.16.2", "numpy": "1.26.4",
}  # fmt: skip


@pytest.mark.parametrize("versions", [GOOD, UPSTREAM, {}], ids=["OneDL", "up", "none"])
def test_good_combinations(doctor, versions, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "installed", versions.get)
    assert list(doctor.look_at_combinations()) == []


@pytest.mark.parametrize(
    ("versions", "text", "remedy"),
    [
        (GOOD | {"mmcv": "2.1.0"}, "onedl-mmcv and mmcv are both", "uninstall -y"),
        (GOOD | {"torchvision": "0.25.1"}, "0.25.1 does not belong", "0.26"),
        (GOOD | {"transformers": "5.0.0"}, "transformers 5.0.0", "transformers<5"),
        (UPSTREAM | {"mmcv": "2.2.0"}, "mmdet 3.3.0 refuses mmcv", "mmcv>=2.1,<2.2"),
        (UPSTREAM | {"numpy": "2.0.1"}, "built for numpy 1", "numpy<2"),
    ],
)  # fmt: skip
def test_bad_combinations(doctor, versions, text, remedy, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "installed", versions.get)
    (finding,) = doctor.look_at_combinations()
    assert finding.state == "error"
    assert text in finding.text
    assert remedy in finding.remedy


def test_a_missing_part_is_named_and_ends_the_examination(doctor, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mmpretrain", None)  # import fails
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    findings = list(doctor.examine(doctor.parse_args()))
    errors = [f for f in findings if f.state == "error"]
    assert any(
        "mmpretrain" in f.text and "pip" in f.remedy and "mmpretrain" in f.remedy
        for f in errors
    )
    assert not any("scope" in finding.text for finding in findings)


def test_a_full_disk_and_a_small_shared_memory(doctor, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1, 1, 2**26))
    findings = list(doctor.look_at_room(tmp_path / "not" / "yet"))
    assert {finding.state for finding in findings} == {"warning"}
    assert findings[0].text == f"{tmp_path}: 0.1 GiB free, less than 10"


def test_the_batch_and_rate_of_a_config(doctor) -> None:
    findings = list(doctor.look_at_config(DEBUG, 2, {}, samples=3))
    assert {finding.state for finding in findings} <= {"ok", "warning"}
    assert "2 processes" in findings[0].text
    assert "all 3 samples" in findings[-1].text


def photos(folder: Path, broken: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for index in range(8):
        cv2.imwrite(str(folder / f"{index}.jpg"), noise)
    for index in range(broken):
        (folder / f"{index}.jpg").write_bytes(b"<html>")


@pytest.mark.parametrize("broken", [0, 2])
def test_a_folder_with_broken_images(doctor, broken, tmp_path, monkeypatch, capsys):
    photos(tmp_path, broken)
    arguments = [
        "doctor.py", str(ROOT / "configs/saim/saim_vit-b_300e_in1k.py"),
        "--work-dir", str(tmp_path), "--samples", "8", "--cfg-options",
        f"train_dataloader.dataset.data_root={tmp_path}",
        "train_dataloader.dataset.data_prefix=", "train_dataloader.batch_size=8",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    code = doctor.main()
    out = capsys.readouterr().out
    assert code == bool(broken)
    if broken:
        assert str(tmp_path / "1.jpg") in out
        assert "2 of 8 samples that were tried do not load (25.0%)" in out
    else:
        assert "all 8 samples that were tried load" in out
        assert out.endswith("Ready.\n")


def test_a_config_that_does_not_exist(doctor) -> None:
    (finding,) = doctor.look_at_config("nowhere.py", 1, {}, samples=1)
    assert finding.state == "error" and "nowhere.py" in finding.text


@pytest.mark.slow
def test_launched_by_a_user(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(TOOL), DEBUG], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "scope mmpretrain finds SAIMViT" in run.stdout
