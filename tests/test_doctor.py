"""The doctor: what it finds on sick machines, and that it runs on them."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from saim_mm import _doctor, _stack

ROOT = Path(__file__).parents[1]
DEBUG = str(ROOT / "configs" / "saim" / "saim_debug.py")
Usage = namedtuple("Usage", "total used free")

GOOD = {
    "onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6", "torch": "2.11.0+cu130",
    "torchvision": "0.26.0+cu130", "numpy": "2.2.6", "transformers": "4.57.6",
}  # fmt: skip
UPSTREAM = {
    "mmengine": "0.10.7", "mmcv": "2.1.0", "mmdet": "3.3.0", "torch": "2.1.2",
    "torchvision": "0.16.2", "numpy": "1.26.4",
}  # fmt: skip


@pytest.mark.parametrize("versions", [GOOD, UPSTREAM, {}], ids=["OneDL", "up", "none"])
def test_good_combinations(versions, monkeypatch) -> None:
    monkeypatch.setattr(_stack, "installed", versions.get)
    assert list(_doctor.check_combinations()) == []


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
def test_bad_combinations(versions, text, remedy, monkeypatch) -> None:
    monkeypatch.setattr(_stack, "installed", versions.get)
    (finding,) = _doctor.check_combinations()
    assert finding.state == "error"
    assert text in finding.text
    assert remedy in finding.remedy


def test_a_missing_part_is_named_and_ends_the_examination(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mmpretrain", None)  # import fails
    findings = list(_doctor.doctor())
    errors = [f for f in findings if f.state == "error"]
    assert any(
        "mmpretrain" in f.text and "pip" in f.remedy and "mmpretrain" in f.remedy
        for f in errors
    )
    assert not any("scope" in finding.text for finding in findings)


def test_a_full_disk_and_a_small_shared_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(1, 1, 2**26))
    findings = list(_doctor.check_space(tmp_path / "not" / "yet"))
    assert {finding.state for finding in findings} == {"warning"}
    assert findings[0].text == f"{tmp_path}: 0.1 GiB free, less than 10"


def test_the_batch_and_rate_of_a_config() -> None:
    findings = list(_doctor.check_config(DEBUG, 2, {}, samples=3))
    assert {finding.state for finding in findings} <= {"ok", "warning"}
    assert "2 processes" in findings[0].text
    assert "all 3 samples" in findings[-1].text


def test_a_config_that_does_not_exist() -> None:
    (finding,) = _doctor.check_config("nowhere.py", 1, {}, samples=1)
    assert finding.state == "error" and "nowhere.py" in finding.text


@pytest.mark.parametrize("wrong", [dict(processes=0), dict(samples=0)])
def test_wrong_numbers_are_refused_at_once(wrong) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        _doctor.doctor(DEBUG, **wrong)


def test_a_healthy_machine_and_no_print(capsys, tmp_path) -> None:
    options = ["train_dataloader.dataset.num_images=70"]
    findings = list(_doctor.doctor(DEBUG, work_dir=tmp_path, cfg_options=options))
    assert not [f for f in findings if f.state == "error"]
    texts = [finding.text for finding in findings]
    assert "scope mmpretrain finds SAIMViT" in texts
    assert "training data: 70 samples of SyntheticImages" in texts
    assert texts[-1] == "all 35 samples that were tried load"  # every second one
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("version", "state"),
    [("3.9.18", "warning"), ("3.12.4", "ok"), ("3.13.0", "warning")],
)
def test_python(version, state, monkeypatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: version)
    (finding,) = _doctor.check_python()
    assert finding.state == state
    assert bool(finding.remedy) == (state == "warning")


def test_torchvision_of_a_torch() -> None:
    part = _stack.torchvision_for("2.11.0+cu130")
    assert (part.at_least, part.below) == ("0.26", "0.27")
