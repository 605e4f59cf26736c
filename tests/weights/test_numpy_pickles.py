"""Numpy's names in a pickle build numbers and text, and reach no memory."""

from __future__ import annotations

import io
import os
import pickle
import random
import resource
import zipfile
from collections import deque
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import Child
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from saim_mm.weights import CheckpointError, verify_checkpoint
from saim_mm.weights.allowed_types import _Discarded
from saim_mm.weights.safe_loader import load_from_local

CORE = np.zeros(0).__reduce__()[0].__module__


class Name:
    """A global of a pickle."""

    def __init__(self, name: str) -> None:
        self.name = name


class Call:
    """A call in a pickle, and what its result is filled with."""

    def __init__(self, called: Name, *args: Any, state: Any = None) -> None:
        self.called, self.args, self.state = called, args, state


class Writer(pickle._Pickler):  # type: ignore[name-defined]
    """Writes pickles that no object would write."""

    def save(self, obj: Any, *args: Any, **options: Any) -> None:
        if isinstance(obj, Name):
            module, name = obj.name.rsplit(".", 1)
            self.write(f"c{module}\n{name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.called)
            self.save(obj.args)
            self.write(b"R")
            if obj.state is not None:
                self.save(obj.state)
                self.write(b"b")
        else:
            super().save(obj, *args, **options)


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, 2)
    writer.fast = True
    writer.dump(content)
    return file.getvalue()


def write(path: Path, pickle_bytes: bytes) -> Path:
    """A file of ``torch.save`` with another pickle, and checksums that fit it."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, pickle_bytes if name.endswith("data.pkl") else content)
    return path


def dtype(code: str, *state: Any) -> Call:
    return Call(Name("numpy.dtype"), code, False, True, state=state or None)


SCALAR, NDARRAY = Name(f"{CORE}.scalar"), Name("numpy.ndarray")


def array(shape: tuple, kind: Any, data: Any, base: Any = NDARRAY) -> Any:
    build = Name(f"{CORE}._reconstruct")
    return Call(build, base, (0,), b"b", state=(1, shape, kind, False, data))


INT = dtype("i8", 3, "<", None, None, None, -1, -1, 0)
ADDRESS = b"A" * 8
ATTACKS = {
    "objects by address": array((1,), dtype("O"), ADDRESS),
    "an object by address": Call(SCALAR, dtype("O"), ADDRESS),
    "a structure of objects": Call(
        SCALAR, Call(Name("numpy.dtype"), [("a", "O")]), INT
    ),
    "numpy.ndarray called": Call(NDARRAY, (1,), dtype("O"), ADDRESS),
    "numpy.ndarray of 16 GiB": Call(NDARRAY, (1 << 34,), dtype("u1")),
    "strides": Call(NDARRAY, (4,), dtype("u1"), ADDRESS, 0, (-4096,)),
    "a dtype that becomes another": array(
        (1,), dtype("i8", 3, "<", None, None, None, 1 << 30, 1, 0), ADDRESS
    ),
    "a dtype with fields": array(
        (1,), dtype("i8", 3, "<", None, ("a",), {"a": (INT, 0)}, 8, 1, 0), ADDRESS
    ),
    "too few bytes": array((2,), INT, ADDRESS),
    "a shape that overflows": array((1 << 62, 4), INT, ADDRESS),
    "a negative shape": array((-1, -1), INT, ADDRESS),
    "a list for bytes": array((1,), INT, [1]),
    "no dtype": array((1,), "i8", ADDRESS),
    "no characters": array((2,), dtype("U1"), b"\xff" * 8),
    "endless text": array((0,), dtype("U2000000000"), b""),
    "nested brackets": Call(Name("numpy.dtype"), "(" * 200 + "i4"),
    "another array type": array((1,), INT, ADDRESS, Name("numpy.dtype")),
    "a filled array filled": Call(
        Name(f"{CORE}._reconstruct"), NDARRAY, (9,), b"O", state=(1, (1,), INT, 0)
    ),
    "a history without arrays": Call(
        Name("mmengine.logging.history_buffer.HistoryBuffer"), state={"_log_history": 1}
    ),
    "an unfinished history": Call(
        Name("mmengine.logging.history_buffer.HistoryBuffer")
    ),
    "a class": Name("collections.OrderedDict"),
    "a function": Name("torch._utils._rebuild_tensor_v2"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("any_torch", ["as it is", "before 2.5"])
def test_refused_in_every_way(
    tmp_path: Path, attack: str, any_torch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child: what is not held back ends the process."""
    if any_torch == "before 2.5":
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)
    content = dict(state_dict={}, meta=dict(extra=ATTACKS[attack]))
    path = write(tmp_path / "bad.pth", pickled(content))

    def read(pipe: int) -> None:
        for load in (load_from_local, verify_checkpoint):
            with pytest.raises(CheckpointError, match="bad.pth"):
                load(str(path))

    assert Child(read).join() == 0


def honest() -> list[Any]:
    history = HistoryBuffer([1.0, 2.0], [1, 1], 7)
    return [
        {"a": np.arange(4.0), "b": np.float64(0.5), "c": np.dtype("f4")},
        {"a": np.array(["x", "yz"]), "b": np.array([b"x"]), "c": (np.int16(3),)},
        {"history": history, "config": ConfigDict(a=dict(b=[1, (2,)]))},
        {"state_dict": {"w": torch.ones(2, 2)}, "meta": {"n": np.zeros((2, 0, 3))}},
    ]


@pytest.mark.parametrize("code", ["?", *"bhilqBHILQefdgFDG", ">f4", ">i2", ">U3", "S4"])
def test_every_kind_of_number_comes_back(tmp_path: Path, code: str) -> None:
    for value in (
        np.arange(6).reshape(2, 3).astype(code),
        np.asfortranarray(np.arange(6).reshape(2, 3).astype(code)),
        np.zeros((0, 3), code),
        np.array(1).astype(code),
        np.arange(3).astype(code)[1],
        np.dtype(code),
    ):
        torch.save({"x": [value, value], "t": (value,)}, tmp_path / "x.pth")
        loaded = load_from_local(str(tmp_path / "x.pth"))
        for found in (*loaded["x"], *loaded["t"]):
            # What Python's own reader makes of it: of big-endian arrays, native ones.
            expected = pickle.loads(pickle.dumps(value, 2))
            assert type(found) is type(expected)
            np.testing.assert_equal(found, value)
            assert getattr(found, "dtype", found) == getattr(expected, "dtype", value)
        assert loaded["x"][0] is loaded["t"][0]


def test_arrays_share_no_memory_with_the_file_s_bytes(tmp_path: Path) -> None:
    data = b"\0" * 8000
    content = {"a": array((1000,), INT, data), "b": array((1000,), INT, data)}
    path = write(tmp_path / "x.pth", pickled(content))
    loaded = load_from_local(str(path))
    loaded["a"][:] = 1
    assert not loaded["b"].any()


def mutated(rng: random.Random, pickles: list[bytes]) -> bytes:
    data = bytearray(rng.choice(pickles))
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[start] = rng.randrange(256)
        elif kind == 1:
            del data[start : start + rng.randint(1, 8)]
        elif kind == 2:  # opcodes that build, call, copy and drop
            data[start:start] = bytes(rng.choice(b"Rb\x81ehq0.(t\x85\x86\x87sNJK)]}"))
        else:
            other = rng.choice(pickles)
            begin = rng.randrange(len(other))
            data[start:start] = other[begin : begin + rng.randint(1, 60)]
    return bytes(data)


def check_plain(value: Any, seen: set[int]) -> None:
    """Asserts that nothing which could act lies in what was read."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, HistoryBuffer):
        assert type(value) is HistoryBuffer
        check_plain(list(value.data), seen)
    elif isinstance(value, dict):
        check_plain([*value.keys(), *value.values()], seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            check_plain(item, seen)
    elif isinstance(value, np.ndarray):
        assert type(value) is np.ndarray and value.dtype.kind in "biufcSU"
        value.tolist()
        assert not value.size or value.tobytes()
    else:
        plain = (str, bytes, bytearray, int, float, complex, torch.Tensor, torch.Size)
        others = (torch.dtype, torch.device, np.generic, np.dtype, _Discarded)
        times = (date, time, timedelta, tzinfo)
        assert value is None or isinstance(value, (*plain, *others, *times)), type(
            value
        )


def fuzz(folder: Path, seed: int, count: int) -> None:
    """Reads mutated pickles; whatever is no refusal is plain data."""
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
    rng, pickles = random.Random(seed), []
    times = [datetime(2020, 1, 2, tzinfo=timezone.utc), timedelta(1), date(1, 1, 1)]
    others = {"t": times, "d": deque([1, b""], 3), "f": frozenset({1, "a"})}
    for content in [*honest(), others]:
        torch.save(content, folder / "seed.pth")
        with zipfile.ZipFile(folder / "seed.pth") as file:
            pickles.append(file.read(file.namelist()[0]))
    pickles += [pickled({"x": attack}) for attack in ATTACKS.values()]
    for _ in range(count):
        data = mutated(rng, pickles)
        (folder / "last.pkl").write_bytes(data)
        try:
            content = load_from_local(str(write(folder / "x.pth", data)))
        except (CheckpointError, MemoryError):
            continue
        check_plain(content, set())


@pytest.mark.parametrize("seed", range(2))
def test_no_mutated_pickle_crashes_or_brings_more_than_data(
    tmp_path: Path, seed: int
) -> None:
    child = Child(lambda pipe: fuzz(tmp_path, seed, 100))
    assert child.join(timeout=600) == 0, os.fsdecode(tmp_path / "last.pkl")


@pytest.mark.slow
def test_ten_thousand_mutated_pickles(tmp_path: Path) -> None:
    for seed in range(20):
        child = Child(lambda pipe, seed=seed: fuzz(tmp_path, 100 + seed, 500))
        assert child.join(timeout=500) == 0, os.fsdecode(tmp_path / "last.pkl")
