"""The check of the stack, and that nothing undeclared is needed on import."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

from saim_mm._stack import STACK, Part, check_stack, in_range, parse

ROOT = Path(__file__).resolve().parents[1]
TESTED = {
    "torch": "2.11.0",
    "mmengine": "0.10.12",
    "mmcv": "2.3.6",
    "mmpretrain": "1.3.6",
}


@pytest.fixture
def stack(monkeypatch):
    """Stand-ins for the four packages, at their tested versions."""
    for name, version in TESTED.items():
        module = types.ModuleType(name)
        module.__version__ = version
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules


@pytest.fixture
def broken(monkeypatch, tmp_path, stack):
    """Return a function that replaces a package by one that runs ``code``."""

    def break_(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name)
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)

    return break_


def failure() -> str:
    """Return the message of the error, which must stand alone."""
    with pytest.raises(ImportError) as info:
        check_stack()
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__
    return str(info.value)


def test_tested_versions_pass(stack):
    check_stack()


@pytest.mark.parametrize(
    ("name", "oldest", "too_old", "too_new"),
    [
        ("torch", "2.1.2+cu121", "2.0.1", "3.0.0"),
        ("mmengine", "0.10.7", "0.10.6", "1.0.0"),
        ("mmcv", "2.1.0", "2.0.1", "3.0.0rc1"),
        ("mmpretrain", "1.2.0", "1.1.1", "2.0.0"),
    ],
)
def test_range(stack, name, oldest, too_old, too_new):
    stack[name].__version__ = oldest
    check_stack()
    for version in (too_old, too_new):
        stack[name].__version__ = version
        message = failure()
        assert f"saim_mm needs {name}>=" in message
        assert f"but it is version {version}." in message
        assert f"{name}==" in message.splitlines()[-1]


def test_missing_part_is_named_with_its_command(monkeypatch, stack):
    hide(monkeypatch, "mmcv")
    monkeypatch.setattr("saim_mm._stack.installed", lambda name: None)
    assert failure() == (
        "saim_mm needs mmcv>=2.1.0,<3, but it is not installed.\n"
        "To mend it, run:\n"
        f"    pip install --no-cache-dir onedl-mmcv=={TESTED['mmcv']}"
    )


def test_upstream_is_taken_out_before_onedl_goes_in(monkeypatch, stack):
    monkeypatch.setattr("saim_mm._stack.installed", lambda name: "1")
    stack["mmengine"].__version__ = "0.9.0"
    assert failure().endswith(
        f"pip uninstall -y mmengine && pip install onedl-mmengine=={TESTED['mmengine']}"
    )


def test_missing_version_is_an_error(stack):
    del stack["torch"].__version__
    assert "is version unknown" in failure()


def test_assertion_inside_a_part_blames_the_right_one(broken):
    broken("mmpretrain", "assert False, 'MMCV==2.9.0 is used but incompatible.'")
    message = failure()
    assert message.startswith("saim_mm needs mmpretrain>=1.2.0,<2, but it fails to ")
    assert "AssertionError: MMCV==2.9.0 is used but incompatible." in message
    assert f"onedl-mmcv=={TESTED['mmcv']}" in message.splitlines()[-1]


def test_undeclared_dependency_is_what_gets_installed(broken):
    broken("mmengine", "import cv2_absent")
    message = failure()
    assert "No module named 'cv2_absent'" in message
    assert message.endswith("    pip install cv2_absent")


def test_opencv_goes_by_its_own_name(broken):
    broken("mmcv", "raise ModuleNotFoundError('No module named cv2', name='cv2')")
    assert failure().endswith("    pip install opencv-python-headless")


def test_opencv_without_libgl(broken):
    broken("mmcv", "raise ImportError('libGL.so.1: cannot open shared object file')")
    message = failure()
    assert "libGL.so.1: cannot open shared object file" in message
    assert message.endswith("--no-deps opencv-python-headless")


def test_transformers_are_to_blame(broken):
    cause = "cannot import name 'apply_chunking_to_forward' from 'transformers.pytorch'"
    broken("mmpretrain", f'raise ImportError("{cause}")')
    message = failure()
    assert cause in message
    assert message.endswith("    pip install 'transformers<4.47'")


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.11.0+cu130", (2, 11, 0)),
        ("2.1", (2, 1, 0)),
        ("0.10.8rc1", (0, 10, 8)),
        ("1", (1, 0, 0)),
    ],
)
def test_parse(version, numbers):
    assert parse(version) == numbers


def test_no_number_is_in_no_range():
    part = Part("x", "0.1", "9", "pip install x")
    assert not in_range("unknown", part)
    assert in_range("0.1", part)


def test_commands_install_the_tested_versions():
    tested = set(
        re.findall(r"^\S+==\S+$", (ROOT / "requirements/tested.txt").read_text(), re.M)
    )
    for part in STACK:
        pins = re.findall(r"\S+==\S+", part.install)
        assert pins and set(pins) <= tested, part.install


def hide(monkeypatch, name: str) -> None:
    """Make ``import name`` fail as it does where the package is not installed."""

    class Finder:
        def find_spec(self, fullname, path=None, target=None):
            if fullname == name:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])


# The wheel, imported where only what it declares can be found.

#: Distributions that provide the same modules as one that is asked for.
SAME_AS = {"opencv-python": "opencv-python-headless", "mmcv": "onedl-mmcv"}

IMPORT_ALL = """
    import importlib, pkgutil, sys

    class OnlyDeclared:
        '''Stands for a finder, and finds nothing that was not declared.

        Nor does it list it: mmpretrain asks which distributions are installed
        before it imports its multimodal part.
        '''

        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            if name.partition('.')[0] in HIDDEN:
                return None
            return self.finder.find_spec(name, path, target)

        def find_distributions(self, *args, **kwargs):
            find = getattr(self.finder, 'find_distributions', lambda *a, **k: ())
            for found in find(*args, **kwargs):
                if found.metadata['Name'] not in HIDDEN_DISTRIBUTIONS:
                    yield found

        def __getattr__(self, name):
            return getattr(self.finder, name)

    sys.meta_path[:] = [OnlyDeclared(finder) for finder in sys.meta_path]
    import saim_mm
    for module in pkgutil.walk_packages(saim_mm.__path__, 'saim_mm.'):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            # What is for detection and segmentation asks for the extra 'downstream'.
            top = (error.name or '').partition('.')[0]
            if top not in {'mmdet', 'mmseg'} or top not in HIDDEN:
                raise
    print(saim_mm.__file__)
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def top_levels(distribution: importlib.metadata.Distribution) -> set[str]:
    """Return the names that a distribution's files can be imported by."""
    firsts = {file.parts[0] for file in distribution.files or []}
    names = {first.split(".")[0] for first in firsts if first != ".."}
    return {name for name in names if name.isidentifier()}


def declared(
    distribution: importlib.metadata.Distribution, extras: frozenset[str]
) -> set[str]:
    """Return the distributions that installing ``distribution[extras]`` brings.

    A requirement that is not installed here cannot hide anything and is left out.
    """
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [(distribution, extras)]
    while waiting:
        current, wanted = waiting.pop()
        for line in current.requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                continue
            name = canonical(requirement.name)
            for candidate in (name, SAME_AS.get(name, name)):
                if candidate in found:
                    continue
                try:
                    other = importlib.metadata.distribution(candidate)
                except importlib.metadata.PackageNotFoundError:
                    continue
                found.add(candidate)
                waiting.append((other, frozenset(requirement.extras)))
    return found


def import_all(
    target: Path, cwd: Path, extras: frozenset[str]
) -> subprocess.CompletedProcess[str]:
    """Import every module of the wheel in ``target``, all undeclared ones hidden."""
    (wheel,) = importlib.metadata.distributions(name="saim_mm", path=[str(target)])
    allowed = declared(wheel, extras)
    hidden: set[str] = set()
    hidden_distributions = set()
    shown = {"saim_mm"}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if canonical(name) in allowed:
            shown |= top_levels(distribution)
        else:
            hidden_distributions.add(name)
            hidden |= top_levels(distribution)
    code = (
        f"HIDDEN = {sorted(hidden - shown)!r}\n"
        f"HIDDEN_DISTRIBUTIONS = {sorted(hidden_distributions)!r}\n"
        + textwrap.dedent(IMPORT_ALL)
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def wheel_target(tmp_path_factory):
    """A folder into which the project's wheel was installed, alone."""
    tmp = tmp_path_factory.mktemp("wheel")
    source = tmp / "source"
    source.mkdir()  # a copy, because setuptools writes build folders beside setup.py
    files = ("setup.py", "pyproject.toml", "README.md", "model-index.yml")
    for name in (*files, "saim_mm_start.py"):
        shutil.copy(ROOT / name, source)
    left_out = shutil.ignore_patterns("__pycache__", ".mim")
    for name in ("saim_mm", "configs", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp), str(source)]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = tmp.glob("saim_mm-*.whl")
    target = tmp / "target"
    install = ["install", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *install, str(built)], check=True)
    return target


@pytest.mark.slow
@pytest.mark.parametrize("extras", [("onedl",), ("onedl", "downstream")], ids="-".join)
def test_wheel_needs_only_what_it_declares(wheel_target, tmp_path, extras):
    if "downstream" in extras:
        pytest.importorskip("mmdet")
        pytest.importorskip("mmseg")
    result = import_all(wheel_target, tmp_path, frozenset(extras))
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.splitlines()[-1]).parent == wheel_target / "saim_mm"


@pytest.mark.slow
def test_undeclared_import_is_caught(wheel_target, tmp_path):
    target = shutil.copytree(wheel_target, tmp_path / "target")
    (target / "saim_mm" / "extra.py").write_text("import pytest\n")
    result = import_all(target, tmp_path, frozenset({"onedl"}))
    assert result.returncode != 0
    assert "No module named 'pytest'" in result.stderr


@pytest.mark.slow
def test_wheel_says_that_it_has_types(wheel_target):
    assert (wheel_target / "saim_mm" / "py.typed").is_file()
