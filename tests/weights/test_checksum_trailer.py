"""Checksums in checkpoints: any bit that flips, and any byte that is missing."""

from __future__ import annotations

import hashlib
import io
import random
import re
import zipfile
from pathlib import Path

import pytest
import torch

from saim_mm.reliability.verified_backend import VerifiedBackend
from saim_mm.weights import CheckpointError, verify_checkpoint
from saim_mm.weights.checksum_trailer import check_intact, check_sha256


def archive(size: int = 500) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.arange(float(size))}}, buffer)
    return buffer.getvalue()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "epoch_1.pth"
    VerifiedBackend().put(archive(), path)
    return path


def test_a_file_with_sha256_is_an_ordinary_checkpoint(checkpoint: Path) -> None:
    assert check_sha256(checkpoint)
    verify_checkpoint(checkpoint)
    for options in ({}, {"mmap": True}):
        content = torch.load(str(checkpoint), weights_only=True, **options)
        assert torch.equal(content["state_dict"]["weight"], torch.arange(500.0))
    with zipfile.ZipFile(checkpoint) as file:
        assert file.testzip() is None
        label, _, digest = file.comment.decode().partition(":")
    assert label == "saim_mm sha256"
    assert digest == hashlib.sha256(checkpoint.read_bytes()[:-64]).hexdigest()


def test_a_file_without_sha256_is_told_apart(tmp_path: Path) -> None:
    for name, options in (("zip", {}), ("old", {"_use_new_zipfile_serialization": 0})):
        path = tmp_path / f"{name}.pth"
        torch.save({"weight": torch.ones(3)}, path, **options)
        assert not check_sha256(path)
        verify_checkpoint(path)


@pytest.mark.parametrize("count", [200])
def test_every_flip_and_truncation_is_named(checkpoint: Path, count: int) -> None:
    whole = checkpoint.read_bytes()
    rng = random.Random(0)
    # Each byte of the end, where the checksum and the archive's own record lie.
    ends = [len(whole) - 1 - n for n in range(101)]
    places = ends + [rng.randrange(len(whole)) for _ in range(count - len(ends))]
    named = 0
    for n, place in enumerate(places):
        if n % 4:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.randrange(8)
        else:
            damaged = whole[:place]
        checkpoint.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=re.escape(str(checkpoint))):
            verify_checkpoint(checkpoint)
        named += 1
    assert named == count


def test_bit_rot_in_a_foreign_file_is_found(tmp_path: Path) -> None:
    """Torch does not compare the CRC-32 of its archives, and loads this one."""
    path = tmp_path / "foreign.pth"
    torch.save({"weight": torch.arange(500.0)}, path)
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(500.0).numpy().tobytes()[400:480])
    data[place] ^= 64
    path.write_bytes(data)
    check_intact_message = "CRC-32 of its record"
    with pytest.raises(CheckpointError, match=check_intact_message):
        check_intact(path)
    with pytest.raises(CheckpointError, match=check_intact_message):
        verify_checkpoint(path)


def test_a_disk_that_does_not_keep_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "epoch_1.pth"
    VerifiedBackend().put(archive(3), path)
    before = path.read_bytes()

    def corrupt(descriptor: int) -> None:
        """Changes the file once it has been flushed."""
        part = next(tmp_path.glob(".*.part"))
        data = bytearray(part.read_bytes())
        data[1000] ^= 1
        part.write_bytes(data)

    monkeypatch.setattr("saim_mm.utils.atomic_file._forget_cached", corrupt)
    with pytest.raises(OSError, match="did not keep"):
        VerifiedBackend().put(archive(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_would_not_load_safely_is_not_written(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(1), "path": Path("x")}, buffer)
    with pytest.raises(CheckpointError, match="pathlib"):
        VerifiedBackend().put(buffer, tmp_path / "epoch_1.pth")
    assert not list(tmp_path.iterdir())
