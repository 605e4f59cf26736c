"""Writes checkpoints to a local disk such that there is always a good one."""

from __future__ import annotations

import io
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..utils.atomic_file import write_atomically
from ..weights.checksum_trailer import check_sha256, write_with_sha256
from ..weights.files import CheckpointError, read_torch


class VerifiedBackend(LocalBackend):
    """A file backend of MMEngine that moves a file to its place once it is verified.

    ``backend_args=dict(backend='verified')`` of MMEngine's ``save_checkpoint`` leads
    here. MMEngine's ``CheckpointHook``, which would remove whatever files a checkpoint
    names, is shown none.
    """

    def isfile(self, filepath: str | Path) -> bool:
        """Always false."""
        return False

    def isdir(self, filepath: str | Path) -> bool:
        """Always false."""
        return False

    def put(self, obj: bytes | io.BytesIO, filepath: str | Path) -> None:
        """Writes what ``torch.save`` made, with a checksum, and verifies it first.

        Raises:
            OSError: If it cannot be written, or comes back from the disk otherwise.
            CheckpointError: If it would not load with ``weights_only=True``.
        """
        archive = obj if isinstance(obj, bytes) else obj.getvalue()
        write_atomically(
            Path(filepath), lambda file: write_with_sha256(file, archive), check=_verify
        )


def _verify(part: Path) -> None:
    try:
        check_sha256(part)
    except CheckpointError as error:
        raise OSError(f"{error} The disk did not keep what was written.") from None
    read_torch(part, mmap=True, known=(), check=False)


register_backend("verified", VerifiedBackend, force=True)
