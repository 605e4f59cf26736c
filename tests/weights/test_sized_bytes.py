"""A small file that asks for much memory is refused, and takes none."""

from __future__ import annotations

import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import Child

from saim_mm.weights import CheckpointError
from saim_mm.weights.files import read_torch

#: A number beyond the memory that :func:`read_with_little` has.
MANY = 8 * 2**30
NUMBER = b"\x8a\x08" + MANY.to_bytes(8, "little")
CALLS = {
    "bytearray": b"\x80\x02cbuiltins\nbytearray\n" + NUMBER + b"\x85R.",
    "bytearray of Python 2": b"\x80\x02c__builtin__\nbytearray\n" + NUMBER + b"\x85R.",
    "instruction for a bytearray": b"\x80\x05\x96" + MANY.to_bytes(8, "little") + b".",
}
#: What is remembered as number 2**31 needs room for one object.
MEMO = b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b"."


def write(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
    return path


def read_with_little(path: Path) -> bool:
    """Whether a file is read, in a process that may take few more bytes."""
    taken = int(Path("/proc/self/statm").read_text().split()[0])
    limit = taken * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        read_torch(path)
    except CheckpointError:
        return False
    return True


@pytest.mark.parametrize("case", CALLS)
def test_a_number_is_no_content(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", CALLS[case])

    def child(pipe: Any) -> None:
        assert not read_with_little(path)

    assert Child(child).join(timeout=300) == 0


def test_a_great_number_of_a_remembered_object(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", MEMO)

    def child(pipe: Any) -> None:
        assert read_with_little(path)

    assert Child(child).join(timeout=300) == 0


def test_honest_bytes_are_read(tmp_path: Path) -> None:
    content = [bytearray(), bytearray(b"\x00\xff"), bytearray("ä".encode()), b"\x80"]
    torch.save(content, tmp_path / "file.pth")
    found = read_torch(tmp_path / "file.pth")
    assert found == content
    assert [type(x) for x in found] == [type(x) for x in content]


def test_torch_is_as_before(tmp_path: Path) -> None:
    torch.save(bytearray(b"x"), tmp_path / "file.pth")
    reader: Any = torch._weights_only_unpickler
    before = reader._get_allowed_globals, reader.Unpickler
    read_torch(tmp_path / "file.pth")
    assert before == (reader._get_allowed_globals, reader.Unpickler)
