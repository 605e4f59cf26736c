"""Files of weights: whole or not at all, and none of them executes code."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import defaultdict, deque
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from release_states import assert_same, release_state

from saim_mm import checkpoint
from saim_mm.weights import CheckpointError
from saim_mm.weights.checksum_trailer import check_sha256
from saim_mm.weights.safe_loader import load_from_local

STATE = {"a.weight": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2).bfloat16()}


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "folder/x.safetensors"])
@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_written_files_read_back(tmp_path: Path, name: str, key: str | None) -> None:
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    path = tmp_path / name
    checkpoint.write_state_dict(path, STATE, key)
    assert_same(checkpoint.read_state_dict(path), STATE)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if path.suffix != ".safetensors":
        torch.load(path, weights_only=True)


def test_a_view_does_not_drag_its_storage_along(tmp_path: Path) -> None:
    checkpoint.write_state_dict(tmp_path / "x.pth", {"a": torch.zeros(1000, 1000)[0]})
    assert (tmp_path / "x.pth").stat().st_size < 20_000


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    checkpoint.write_state_dict(path, STATE)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.write_state_dict(path, STATE, meta={"no": lambda: None})
    assert_same(checkpoint.read_state_dict(path), STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["x.pth"]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'\.npz'.*\.safetensors"):
        checkpoint.write_state_dict(tmp_path / "x.npz", STATE)


class RunsOnLoad:
    """Its pickle makes a file as soon as it is read the careless way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_executed(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    content = {"model": release_state(), "epoch": RunsOnLoad(trace)}
    torch.save(
        content,
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(CheckpointError, match="evil.pth") as refusal:
        checkpoint.read_state_dict(path)
    assert not trace.exists()
    if protocol == 2:
        assert "would run code" in str(refusal.value)
        assert "mkdir" in str(refusal.value)
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file was harmless, so the test proved nothing"


def test_getattr_in_a_pickle_reaches_nothing(tmp_path: Path) -> None:
    """Names beside the weights become inert stand-ins, `getattr` too."""

    class Chain:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (HistoryBuffer, "mean")

    torch.save({"state_dict": STATE, "x": Chain()}, tmp_path / "x.pth")
    content = checkpoint.read_checkpoint(tmp_path / "x.pth")
    assert type(content["x"]).__name__ == "_Discarded"


def test_what_lies_beside_the_weights_is_read_past(tmp_path: Path) -> None:
    """A runner's log history and the release's command line."""
    history = HistoryBuffer()
    history.update(1.0)
    content = {
        "model": STATE,
        "args": argparse.Namespace(lr=1e-3, data=Path("data")),
        "message_hub": {"loss": history, "best": np.float64(1), "n": np.int64(2)},
    }
    torch.save(content, tmp_path / "x.pth")
    assert_same(checkpoint.read_state_dict(tmp_path / "x.pth"), STATE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_named(tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "part.pth"
    torch.save({"model": STATE}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="part.pth: truncated"):
        checkpoint.read_state_dict(path)


def test_other_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.read_state_dict(tmp_path)
    for name, content in (("page.pth", b"<html>"), ("x.zip", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            checkpoint.read_state_dict(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    with pytest.raises(CheckpointError, match="other.pth"):
        checkpoint.read_state_dict(tmp_path / "other.pth")
    for content in ([1, 2], {"epoch": 3}, {"state_dict": {"a": 1}}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(CheckpointError, match="x.pth: holds"):
            checkpoint.read_state_dict(tmp_path / "x.pth")


def test_a_broken_safetensors_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is an optional extra")
    (tmp_path / "x.safetensors").write_bytes(b"0123456789")
    with pytest.raises(CheckpointError, match="x.safetensors: truncated"):
        checkpoint.read_state_dict(tmp_path / "x.safetensors")


def load_anyhow(path: Path, way: str) -> None:
    if way == "read":
        checkpoint.read_state_dict(path)
    elif way == "verify":
        checkpoint.verify_checkpoint(path)
    else:
        load_from_local(str(path))


@pytest.mark.parametrize("way", ["read", "verify", "load_from"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_bit_is_found_on_every_way(
    tmp_path: Path, way: str, sealed: bool
) -> None:
    """Every file of ours is sealed; of others' the archive's checksums count."""
    state = {"w": torch.ones(500), "v": torch.zeros(500)}
    path = tmp_path / "x.pth"
    if sealed:
        checkpoint.write_state_dict(path, state)
        assert check_sha256(path)
    else:
        torch.save({"state_dict": state}, path)
    load_anyhow(path, way)
    data = path.read_bytes()
    for value in (b"\x00\x00\x80\x3f" * 20, b"\0" * 200):
        flipped = bytearray(data)
        flipped[data.index(value) + 42] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="x.pth: damaged"):
            load_anyhow(path, way)


WHEN = datetime(2020, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (deque([1, "a"], 3), [1, "a"]),  # torch fills lists alone
        (WHEN, WHEN),
        (WHEN.date(), WHEN.date()),
        (WHEN.timetz(), WHEN.timetz()),
        (timedelta(1, 2, 3), timedelta(1, 2, 3)),
        (frozenset({1, "a"}), frozenset({1, "a"})),
        (b"", b""),
        (bytearray(), bytearray()),
        (ConfigDict(a=[ConfigDict(b=1)]), {"a": [{"b": 1}]}),
    ],
)
def test_values_of_honest_files_load(tmp_path: Path, value: Any, expected: Any) -> None:
    torch.save({"x": [value]}, tmp_path / "x.pth")
    found = checkpoint.read_checkpoint(tmp_path / "x.pth")["x"][0]
    assert found == expected
    assert type(found) in (type(expected), ConfigDict)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Decimal(1), "decimal.Decimal"),
        (range(3), "range"),
        (defaultdict(int), "collections.defaultdict"),
        (np.zeros(2, "M8[s]"), "numpy.dtype\\('M8'\\)"),
        (np.array([None]), "numpy.dtype\\('O8'\\)"),
        (np.zeros(2, [("a", "i4")]), "numpy.dtype\\('V4'\\)"),
    ],
)
def test_what_a_sound_file_may_not_hold_is_named(
    tmp_path: Path, value: Any, named: str
) -> None:
    torch.save({"x": value}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=f"refused.*{named}") as refusal:
        checkpoint.read_checkpoint(tmp_path / "x.pth")
    assert "truncated" not in str(refusal.value)


def test_sound_files_of_other_formats_are_not_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(2)}, path, pickle_protocol=4)
    if hasattr(torch.serialization, "add_safe_globals"):
        with pytest.raises(CheckpointError, match=r"refused, as torch.*uninstall_safe"):
            checkpoint.read_checkpoint(path)
    else:  # before 2.4 torch reads it
        assert checkpoint.read_checkpoint(path)["w"].tolist() == [1, 1]
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(
        CheckpointError, match=r"as torch.*TorchScript|ScriptModule, not"
    ):
        checkpoint.read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoint.read_checkpoint(path)


def test_shared_and_endless_nesting_is_read_or_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    shared: list[Any] = [np.float32(1)]
    for _ in range(60):
        shared = [shared, shared, (shared, {"x": shared})]
    endless: list[Any] = [1]
    endless.append(endless)
    torch.save({"shared": shared, "endless": endless}, path)
    found = checkpoint.read_checkpoint(path)
    assert found["shared"][0] is found["shared"][1]
    assert found["endless"][1] is found["endless"]
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    torch.save({"deep": deep}, path)
    content = checkpoint.read_checkpoint(path)
    assert content["deep"][0] != []
    data = pickle.dumps(1, 2)[:2] + b"]" * 5000 + b"a" * 4999 + b"."
    torch.save({}, path)
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in files.items():
            new.writestr(name, data if name.endswith("data.pkl") else content)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        checkpoint.read_checkpoint(path)
