"""Which versions work is said in several places; here they are held together.

Ranges: ``saim_mm/_stack.py``, for those who installed something else, and
``pyproject.toml``, for pip. Pins: ``requirements/``. For people: ``README.md``.
"""

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from saim_mm._stack import PYTHON, STACK, TRANSFORMERS, UPSTREAM_MMCV, Part

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()


def read_pins(name: str) -> dict[str, Version]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if re.match(r"\w", line))
    return {canonicalize_name(name): Version(pin) for name, pin in pairs}


def requirements(*extras: str) -> list[Requirement]:
    lines = [line for extra in extras for line in EXTRAS[extra]]
    return [Requirement(line) for line in [*PROJECT["dependencies"], *lines]]


TESTED, UPSTREAM = read_pins("tested.txt"), read_pins("upstream.txt")


@pytest.mark.parametrize("part", STACK, ids=lambda part: part.module)
def test_pip_installs_only_what_the_stack_accepts(part: Part):
    names = {part.module, f"onedl-{part.module}"}
    found = [r for r in requirements("onedl", "upstream") if r.name in names]
    ranges = [spec for requirement in found for spec in requirement.specifier]
    lowest = min(Version(spec.version) for spec in ranges if spec.operator == ">=")
    highest = max(Version(spec.version) for spec in ranges if spec.operator == "<")
    assert len(ranges) == 2 * len(found)
    assert lowest == Version(part.at_least)
    assert highest <= Version(part.below)


@pytest.mark.parametrize(
    ("extra", "pins"),
    [(extra, TESTED) for extra in EXTRAS if extra != "upstream"]
    + [("upstream", UPSTREAM)],
    ids=[extra for extra in EXTRAS if extra != "upstream"] + ["upstream"],
)
def test_pins_lie_in_the_ranges(extra, pins):
    for requirement in requirements(extra):
        if requirement.name == "opencv-python":  # never installed by `make`
            continue
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement}: tested {pin}"


def test_upstream_is_its_own_line():
    assert not set(UPSTREAM) & {name for name in TESTED if name.startswith("onedl-")}
    assert not set(TESTED) & {"mmengine", "mmcv", "mmpretrain", "mmdet"}


def test_one_opencv_is_installed():
    assert "opencv-python-headless" in TESTED
    assert "opencv-python" not in TESTED  # it would be unpacked over the other


@pytest.mark.parametrize("name", ["tested.txt", "upstream.txt", "opencv.txt"])
def test_no_index_and_no_path_is_pinned(name):
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        assert "://" not in line and "/" not in line.split("#")[0], line
        assert not line.startswith("-"), line


@pytest.mark.parametrize(
    ("packages", "tested"),
    [
        (["onedl-mmengine", "onedl-mmcv", "onedl-mmpretrain"], TESTED),
        (["onedl-mmdetection", "onedl-mmsegmentation"], TESTED),
        (["torch", "numpy"], TESTED),
        (["mmengine", "mmcv", "mmpretrain"], UPSTREAM),
        (["mmdet", "mmsegmentation"], UPSTREAM),
        (["torch", "numpy"], UPSTREAM),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_the_table_in_the_readme(packages, tested):
    first = packages[0].removeprefix("onedl-").replace("detection", "det")
    (row,) = re.findall(rf"^\| {first}, .*\|$", README, re.M)
    cell = row.split("|")[2 if tested is TESTED else 3]
    for package, version in zip(packages, re.findall(r"\d[\d.]*", cell), strict=False):
        # '2' stands for every 2.x, as for numpy.
        assert f"{tested[package]}.".startswith(f"{version}."), f"{package}: {row}"


def test_transformers_in_the_readme():
    (text,) = re.findall(r"transformers\n?\s*(\S+) does not import, and (\S+)", README)
    assert text == (str(TESTED["transformers"]), str(UPSTREAM["transformers"]))


def test_extras_of_the_makefile_exist():
    named = re.findall(r"-e \.\[([\w,]+)\]", MAKEFILE)
    assert len(named) >= 5
    used = {extra for group in named for extra in group.split(",")}
    pinned = set(re.findall(r"--extra (\w+)", MAKEFILE))
    assert used == pinned == set(EXTRAS) - {"upstream"}


def test_tested_pythons():
    low, high = (f"3.{minor}" for minor in re.findall(r"\(3, (\d+)\)", MAKEFILE))
    assert (PYTHON.at_least, PYTHON.below) == (low, f"3.{int(high[2:]) + 1}")
    assert PROJECT["requires-python"] == f">={low}"
    assert f"--python-version {low} " in MAKEFILE  # what the pins are compiled for
    tools = tomllib.loads(PYPROJECT)["tool"]
    assert tools["mypy"]["python_version"] == low
    assert tools["ruff"]["target-version"] == f"py{low.replace('.', '')}"
    assert f"Python {low}-{high}" in README


@pytest.mark.parametrize(
    ("extra", "part"), [("convert", TRANSFORMERS), ("upstream", UPSTREAM_MMCV)]
)
def test_pip_stops_where_the_doctor_does(extra, part):
    (found,) = (r for r in requirements(extra) if r.name == part.module)
    below = [spec.version for spec in found.specifier if spec.operator == "<"]
    assert below == [part.below]


def test_every_requirement_has_its_reason():
    table = PYPROJECT.split("\n[project.optional-dependencies]\n")[1].split("\n[")[0]
    lines = [line for line in table.splitlines() if line.startswith('    "')]
    assert len(lines) == sum(map(len, EXTRAS.values()))
    assert [line for line in lines if "  # " not in line] == []
