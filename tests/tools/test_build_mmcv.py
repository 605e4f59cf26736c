"""Mmcv's compiled ops: cache keys, and what is there already."""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "onedl_mmcv-2.3.6_torch-2.11.0_cp311_ops_cpu"


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "build_mmcv.py"
    spec = importlib.util.spec_from_file_location("build_mmcv", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mmcv(tool, monkeypatch, tmp_path):
    """Return a function that installs a stand-in for mmcv, and nothing else."""

    def install(*files: str, url: str | None = None) -> None:
        folder = tmp_path / "site" / "onedl_mmcv-2.3.6.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Name: onedl-mmcv\nVersion: 2.3.6\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:  # later metadata libraries leave out what is not there
            path = folder.parent / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if url:
            (folder / "direct_url.json").write_text(json.dumps({"url": url}))

    def find(name):
        for found in importlib.metadata.distributions(path=[str(tmp_path / "site")]):
            if found.metadata["Name"] == name:
                return found
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(tool.importlib.metadata, "distribution", find)
    return install


def test_key_names_all_that_a_wheel_depends_on(tool):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert tool.wheel_key("2.3.6", "2.11.0+cu130", "cpu") == (
        f"onedl_mmcv-2.3.6_torch-2.11.0_{python}_ops_cpu"
    )
    keys = {
        tool.wheel_key(mmcv, torch, device)
        for mmcv in ("2.3.5", "2.3.6")
        for torch in ("2.10.0", "2.11.0")
        for device in ("cpu", "cu130")
    }
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("own", "xdg", "own/wheels"),
        (None, "xdg", "xdg/saim_mm/wheels"),
        (None, None, "home/.cache/saim_mm/wheels"),
    ],
)
def test_cache_folder(tool, monkeypatch, tmp_path, own, xdg, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in (("SAIM_MM_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value:
            monkeypatch.setenv(name, str(tmp_path / value))
        else:
            monkeypatch.delenv(name, raising=False)
    assert tool.cache_dir() == tmp_path.resolve() / expected


def test_nothing_is_installed(tool, mmcv):
    assert not tool.is_installed(KEY)


def test_ops_of_this_key_are_installed(tool, mmcv):
    mmcv("mmcv/_ext.cpython-311.so", url=f"file:///cache/{KEY}/onedl_mmcv.whl")
    assert tool.is_installed(KEY)
    assert tool.is_installed(KEY.removesuffix("cpu"))  # for whatever device
    assert not tool.is_installed(KEY.replace("torch-2.11.0", "torch-2.12.0"))


@pytest.mark.parametrize(
    ("file", "url"),
    [
        ("mmcv/ops/__init__.py", f"file:///cache/{KEY}/onedl_mmcv.whl"),
        ("mmcv/_ext.cpython-311.so", None),  # from an index: for an unknown torch
    ],
)
def test_ops_are_to_be_installed(tool, mmcv, file, url):
    mmcv(file, url=url)
    assert not tool.is_installed(KEY)


def test_missing_torch_is_one_clear_error(tool):
    with pytest.raises(tool.StepFailed, match="torch-absent is not installed"):
        tool.installed_version("torch-absent")


def test_no_compiler_is_one_clear_error(tool, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(tool.StepFailed, match="apt-get install g\\+\\+"):
        tool.check_compiler()


def test_failed_build_leaves_no_folder(tool, monkeypatch, tmp_path):
    def fail(step, *_, **__):
        raise tool.StepFailed(step)

    monkeypatch.setattr(tool, "run_pip", fail)
    monkeypatch.setattr(tool, "check_compiler", lambda: None)
    folder = tmp_path / "wheels" / "key"
    with pytest.raises(tool.StepFailed):
        tool.build_mmcv("2.3.6", "cpu", folder)
    assert list(folder.parent.iterdir()) == []


def test_a_folder_that_is_not_one_wheel_is_an_error(tool, tmp_path):
    with pytest.raises(tool.StepFailed, match="should hold one wheel and holds 0"):
        tool.find_wheel(tmp_path)


def test_no_gpu_means_ops_for_the_cpu(tool):
    assert tool.choose_device("") == "cpu"
    assert tool.ops_environment("cpu")["FORCE_CUDA"] == "0"
