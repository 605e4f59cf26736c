"""JSON files: their bytes, and whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saim_mm.utils.atomic_file import check_new, check_place, write_json


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, '{"a": [1, "\\u00e4"]}\n'),
        (dict(indent=1), '{\n "a": [\n  1,\n  "\\u00e4"\n ]\n}\n'),
        (dict(end=""), '{"a": [1, "\\u00e4"]}'),
    ],
)
def test_bytes(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    path = tmp_path / "folder" / "x.json"
    write_json(path, {"a": [1, "ä"]}, **options)
    assert path.read_bytes() == text.encode()


def test_what_is_no_json_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, [1])
    with pytest.raises(TypeError):
        write_json(path, [1, object()])
    assert path.read_text() == "[1]\n"
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux")
def test_a_folder_in_which_nothing_can_be_made() -> None:
    """It is there, and not even root may write in it."""
    with pytest.raises(OSError, match=r"/proc/a\.json: cannot be written"):
        check_place(Path("/proc/a.json"))


def test_a_place_stays_empty(tmp_path: Path) -> None:
    check_place(tmp_path / "new" / "a.json")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    check_new(tmp_path / "a.json")
    check_new(tmp_path / "mine", is_folder=True)
    (tmp_path / "mine" / "a.json").touch()
    with pytest.raises(FileExistsError, match=r"a\.json: is there already; remove it"):
        check_new(tmp_path / "mine" / "a.json")
    with pytest.raises(FileExistsError, match="mine: is there already; remove it"):
        check_new(tmp_path / "mine", is_folder=True)
    with pytest.raises(IsADirectoryError, match="name a file in it"):
        check_new(tmp_path / "mine")
