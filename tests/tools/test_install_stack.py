"""The pure parts of the installer: names, cache keys, stamps."""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installer():
    spec = importlib.util.spec_from_file_location(
        "install_stack", ROOT / "tools" / "install_stack.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def clone(tmp_path):
    """A copy of the files that decide what is installed."""
    for name in ("requirements", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "saim_mm").mkdir()
    shutil.copy(ROOT / "saim_mm" / "version.py", tmp_path / "saim_mm")
    shutil.copy(ROOT / "setup.py", tmp_path)
    return tmp_path


def test_key_names_all_that_a_wheel_depends_on(installer):
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert installer.wheel_key("2.3.6", "2.11.0+cu130", True, "cpu") == (
        f"onedl_mmcv-2.3.6_torch-2.11.0_{python}_ops_cpu"
    )
    keys = {
        installer.wheel_key(mmcv, torch, ops, device)
        for mmcv in ("2.3.5", "2.3.6")
        for torch in ("2.10.0", "2.11.0")
        for ops in (False, True)
        for device in ("cpu", "cu130")
    }
    assert len(keys) == 16


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [
        ("own", "xdg", "own/wheels"),
        (None, "xdg", "xdg/saim_mm/wheels"),
        (None, None, "home/.cache/saim_mm/wheels"),
    ],
)
def test_cache_folder(installer, monkeypatch, tmp_path, own, xdg, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, value in (("SAIM_MM_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        if value:
            monkeypatch.setenv(name, str(tmp_path / value))
        else:
            monkeypatch.delenv(name, raising=False)
    assert installer.cache_dir() == tmp_path.resolve() / expected


@pytest.mark.parametrize(
    "name",
    ["requirements/tested.txt", "requirements/demo.txt", "setup.py"],
)
def test_hash_follows_the_files(installer, clone, name):
    before = installer.hash_inputs(clone)
    assert installer.hash_inputs(clone) == before
    with (clone / name).open("a") as file:
        file.write("# changed\n")
    assert installer.hash_inputs(clone) != before


def test_hash_follows_the_location(installer, clone, tmp_path):
    moved = shutil.copytree(clone, tmp_path / "moved")
    assert installer.hash_inputs(clone) != installer.hash_inputs(moved)


def test_stamp_round_trip(installer, tmp_path):
    path = tmp_path / "stamp.json"
    stamp = installer.Stamp("abc", True, ("demo", "test"))
    stamp.write(path)
    assert installer.Stamp.read(path) == stamp


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"inputs": 1, "ops": 1}'])
def test_broken_stamp_covers_nothing(installer, tmp_path, text):
    path = tmp_path / "stamp.json"
    if text is not None:
        path.write_text(text)
    stamp = installer.Stamp.read(path)
    assert not stamp.covers(installer.Stamp("abc", False, ()))


def test_stamp_covers_what_asks_for_no_more(installer):
    have = installer.Stamp("abc", True, ("demo", "test"))
    assert have.covers(installer.Stamp("abc", False, ("demo",)))
    assert have.covers(have)
    assert not have.covers(installer.Stamp("xyz", False, ()))
    assert not have.covers(installer.Stamp("abc", True, ("dev",)))
    lite = installer.Stamp("abc", False, ())
    assert not lite.covers(installer.Stamp("abc", True, ()))


def test_what_is_there_stays(installer):
    have = installer.Stamp("old", True, ("test",))
    wanted = have.joined(installer.Stamp("new", False, ("demo",)))
    assert wanted == installer.Stamp("new", True, ("demo", "test"))


def test_every_name_has_a_tested_version(installer):
    pins = installer.read_pins()
    assert pins["torch"] == "2.11.0"
    names = installer.select_names(installer.EXTRAS)
    assert [name for name in names if name not in pins] == []
    assert len(names) == len(set(names))
    assert set(installer.WITHOUT_DEPENDENCIES) <= set(names)


def test_every_requirement_has_its_reason():
    for file in (ROOT / "requirements").glob("*.txt"):
        if file.name in ("tested.txt", "upstream.txt"):  # constraints
            continue
        for line in file.read_text().splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                assert "  # " in line, f"{file.name}: {line}"


def test_unmet_names(installer, monkeypatch):
    found = {"torch": "2.11.0+cpu", "numpy": "1.26.4"}
    monkeypatch.setattr(installer, "installed_version", found.get)
    pins = {"torch": "2.11.0", "numpy": "2.2.6", "pillow": "12.3.0"}
    assert installer.unmet_names(["torch"], pins) == []
    assert installer.unmet_names(list(pins), pins) == ["numpy", "pillow"]


def test_extras_are_checked(installer):
    assert installer.parse_extras("test, demo") == ("demo", "test")
    assert installer.parse_extras("") == ()
    with pytest.raises(argparse.ArgumentTypeError, match="unknown docs; choose from"):
        installer.parse_extras("docs")


def test_no_compiler_is_one_clear_error(installer, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(installer.StepFailed, match="apt-get install g\\+\\+"):
        installer.check_compiler()


def test_failed_build_leaves_no_folder(installer, monkeypatch, tmp_path):
    def fail(step, *_, **__):
        raise installer.StepFailed(step)

    monkeypatch.setattr(installer, "pip", fail)
    folder = tmp_path / "wheels" / "key"
    with pytest.raises(installer.StepFailed):
        installer.build_mmcv("2.3.6", False, "cpu", folder)
    assert list(folder.parent.iterdir()) == []


def test_no_gpu_means_ops_for_the_cpu(installer):
    assert installer.choose_device("") == "cpu"
