"""docs/architecture.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from test_house import LINES

import saim_mm  # noqa: F401  (registers the hooks)
from saim_mm.registry import HOOKS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DRAWINGS = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)


def rows(header: str) -> list[list[str]]:
    """The cells of the table below a header."""
    table = PAGE.split(f"\n{header}\n")[1].split("\n\n")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()[1:]
    ]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_table_of_rooms() -> None:
    table = rows("| line | rooms | what is there |")
    assert [int(number) for number, _, _ in table] == list(range(1, len(LINES) + 1))
    assert [set(names(rooms)) for _, rooms, _ in table] == LINES


def test_the_drawing_of_rooms() -> None:
    drawn = {
        int(number): {
            (label or name).removesuffix(" (old path)")
            for name, label in re.findall(r'^ +(\w+)(?:\["(.+)"\])?$', body, re.M)
            if name != "end"
        }
        for number, body in re.findall(
            r"subgraph L(\d+)\[.*?\]\n +direction TB\n(.*?) end\n",
            DRAWINGS[0],
            re.DOTALL,
        )
    }
    assert drawn == dict(enumerate(LINES, 1))
    chain = " --> ".join(f"L{number}" for number in sorted(drawn, reverse=True))
    assert chain in DRAWINGS[0]


def test_the_four_lines_of_the_loss() -> None:
    source = (ROOT / "saim_mm" / "models" / "saim.py").read_text(encoding="utf-8")
    lines = re.findall(r"<b>([^<]*self\.[^<]*)</b>", DRAWINGS[1])
    assert len(lines) == 4
    body = source.partition("def loss(")[2].partition("\n    def ")[0]
    found = [line for line in lines if line in body]
    assert found == lines


def test_the_table_of_hooks() -> None:
    table = rows("| hook | priority | in `runtime.py` | writes |")
    known: dict[str, type[Hook]] = HOOKS.module_dict
    said = {names(hook)[0]: names(priority)[0] for hook, priority, _, _ in table}
    assert said == {name: str(hook.priority) for name, hook in known.items()}
    levels = [
        "HIGHEST",
        "VERY_HIGH",
        "HIGH",
        "NORMAL",
        "BELOW_NORMAL",
        "LOW",
        "VERY_LOW",
        "LOWEST",
    ]
    assert list(said.values()) == sorted(said.values(), key=levels.index)


def test_which_hooks_are_on() -> None:
    table = rows("| hook | priority | in `runtime.py` | writes |")
    runtime = Config.fromfile(ROOT / "configs" / "_base_" / "runtime.py")
    on = {hook["type"] for hook in runtime.default_hooks.values()}
    said = {names(hook)[0] for hook, _, state, _ in table if state.startswith("yes")}
    assert said == on & HOOKS.module_dict.keys()


def acts_in(hook: type[Hook], event: str) -> bool:
    """Whether a hook, or a class between it and MMEngine's base, has the method."""
    own = hook.__mro__[: hook.__mro__.index(Hook)]
    return any(event in vars(cls) for cls in own)


def test_the_run_names_every_hook_where_it_acts() -> None:
    boxes = re.findall(r'^    \w+\["<b>(\w+)</b>(.*)"\]$', DRAWINGS[2], re.M)
    assert len(boxes) == 10  # with train_step
    drawn = set()
    for event, text in boxes:
        for name in re.findall(r"\w+Hook", text):
            hook = HOOKS.module_dict.get(name)
            if hook is None or event == "train_step":
                continue
            drawn.add(name)
            assert acts_in(hook, event), f"{name} does nothing in {event}"
    assert drawn == set(HOOKS.module_dict)


def test_the_commands_of_the_proofs_name_files() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("## How each proof is run")[2].partition("\n## ")[0]
    paths = re.findall(r"\b(?:tests|tools)/[\w./]+", table)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
