"""The rooms of the package, and which may use which; see docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Lowest first. A file imports from its own room and from rooms of lower lines.
LINES: list[set[str]] = [
    {"registry", "version", "_stack", "_hub", "utils"},
    {"datasets", "weights"},
    {"models/dense", "models/probing"},
    {"models"},  # the files of SAIM
    {"models/baselines", "launch"},
    {"parity", "evaluation", "visualization", "reliability"},
    {"engine", "_doctor"},
    {"api", "checkpoint"},
    {"cli"},
    {"projects"},
    {"tools", "benchmarks"},
]
LINE = {room: number for number, rooms in enumerate(LINES, 1) for room in rooms}
#: They only hand names on, of rooms above them too.
HALLS = {"saim_mm/__init__.py", "saim_mm/models/__init__.py"}
#: They must run where the package cannot be imported.
BY_PATH = {
    "tools/doctor.py",
}
#: What the files of SAIM may import besides each other.
METHOD_NEEDS = {"torch", "mmengine", "mmcv", "mmpretrain", "utils", "weights"}
METHOD = (
    "saim", "plan", "order", "reading", "layers", "saim_vit", "saim_neck", "saim_head"
)  # fmt: skip
STANDARD = {
    "__future__",
    "collections",
    "dataclasses",
    "functools",
    "inspect",
    "math",
    "typing",
}
SOURCES = [
    path
    for folder in ("saim_mm", "projects", "tools", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def room_of(module: str) -> str | None:
    """The room of a dotted name, ``None`` if it is not ours.

    ``saim_mm`` itself counts as the room below all others.
    """
    top, *rest = module.split(".")
    if top in ("projects", "tools", "benchmarks"):
        return top
    if top != "saim_mm" or not rest:
        return None
    inner = "/".join(rest[:2])
    return inner if inner in LINE else rest[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a file imports, inside functions too."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*names, alias.name])


def test_every_room_is_in_the_table() -> None:
    rooms = {module_of(path) for path in SOURCES}
    unknown = {m for m in rooms if room_of(m) is not None and room_of(m) not in LINE}
    assert not unknown, f"give these a line in {Path(__file__).name}: {unknown}"


def test_imports_run_one_way() -> None:
    wrong = []
    for path in SOURCES:
        here = room_of(module_of(path))
        if here is None or str(path.relative_to(ROOT)) in HALLS:
            continue
        for number, name in imports(path):
            there = room_of(name)
            if there in (None, here) or there not in LINE:
                continue
            if LINE[there] >= LINE[here]:
                wrong.append(
                    f"{path.relative_to(ROOT)}:{number}  {here} (line {LINE[here]}) "
                    f"imports {there} (line {LINE[there]})"
                )
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not (ROOT / "projects").is_dir(), reason="an installed package")
def test_no_project_uses_another() -> None:
    for path in (ROOT / "projects").rglob("*.py"):
        own = path.relative_to(ROOT / "projects").parts[0]
        for number, name in imports(path):
            parts = name.split(".")
            assert parts[0] != "projects" or parts[1:2] == [own], f"{path}:{number}"


@pytest.mark.parametrize("name", METHOD)
def test_the_method_needs_little(name: str) -> None:
    path = ROOT / "saim_mm" / "models" / f"{name}.py"
    allowed = METHOD_NEEDS | {"models", "models/dense", "registry"}
    for number, imported in imports(path):
        top = imported.split(".")[0]
        needed = room_of(imported) if top == "saim_mm" else top
        standard = top in STANDARD
        assert standard or needed in allowed, f"{path}:{number} imports {imported}"


def test_nothing_is_found_by_a_path_trick() -> None:
    tricks = re.compile(
        r"sys\.path|spec_from_file_location|SourceFileLoader|\.__path__ ="
    )
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if tricks.search(path.read_text(encoding="utf-8"))
    }
    assert found <= BY_PATH


def test_pages_name_files_that_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    pages += [ROOT / "benchmarks" / "README.md"]
    tops = "saim_mm|tools|configs|tests|benchmarks|projects|docs"
    named = re.compile(rf"`((?:{tops})/[\w./-]+)`")
    missing = [
        f"{page.relative_to(ROOT)}: {path}"
        for page in pages
        if page.name != "CHANGELOG.md"  # speaks of what was
        for path in named.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    ]
    assert not missing, "\n".join(missing)
