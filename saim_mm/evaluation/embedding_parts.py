"""Features that wait beside the output until all are there, so that a run goes on."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..utils.atomic_file import remove_parts, write_atomically, write_json
from .embedding import Rows, join

#: Seconds of work that a kill may cost.
SECONDS = 30.0
_ABOUT, _LOCK = "about.json", "lock"
_ARRAYS = ("kept", "features", "sizes")


class Parts:
    """What was computed of an output, in a folder beside it, ``NAME.parts``.

    A part is written every :data:`SECONDS`, whole or not at all. Parts are of use
    only to a run of the same encoder, settings and images; any other stops, and so does
    a second run at the same time. Leaving the ``with`` block writes what is left.

    Args:
        out: The output.
        about: What the features are of, as JSON can hold it.

    Attributes:
        stop: The first image that is not yet in a part.

    Raises:
        ValueError: If the folder is of something else, or of a run that goes on.
        OSError: If it cannot be written.
    """

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        path = self.folder / _ABOUT
        before = json.loads(path.read_text()) if path.is_file() else about
        changed = [name for name in about if before.get(name) != about[name]]
        if changed:
            pairs = (f"{n}: {before.get(n)!r}, now {about[n]!r}" for n in changed)
            raise ValueError(
                f"{self.folder}: holds features of something else ({', '.join(pairs)}"
                "). Remove that folder to start anew, or give another output."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        remove_parts(self.folder)
        write_json(path, dict(about), indent=1)
        self._waiting: list[Rows] = []
        self._written = time.monotonic()
        self.stop = max((stop for _, stop, _ in self._chain()), default=0)

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.write()
        finally:
            self._lock.close()

    def add(self, rows: Rows) -> None:
        """Takes what follows."""
        self._waiting.append(rows)
        if time.monotonic() - self._written >= SECONDS:
            self.write()

    def write(self) -> None:
        """Writes what was added since the last time."""
        if self._waiting:
            rows = join(self._waiting)
            path = self.folder / f"{rows.first:010d}-{rows.stop:010d}.npz"
            arrays = {name: getattr(rows, name) for name in _ARRAYS}
            broken = json.dumps(rows.broken)
            write_atomically(path, lambda f: np.savez(f, **arrays, broken=broken))
            self._waiting, self.stop = [], rows.stop
        self._written = time.monotonic()

    def __iter__(self) -> Iterator[Rows]:
        """What was written, in order.

        Raises:
            ValueError: If a part is damaged or gone.
        """
        position = 0
        for first, stop, path in self._chain():
            try:
                with np.load(path) as file:
                    arrays = {name: file[name] for name in _ARRAYS}
                    broken = json.loads(str(file["broken"]))
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"{path}: damaged ({error}); remove it, and the run goes on there."
                ) from None
            numbered = {int(number): why for number, why in broken.items()}
            yield Rows(first, stop, **arrays, broken=numbered)
            position = stop
        if position != self.stop:
            raise ValueError(f"{self.folder}: the part from {position} on is gone.")

    def remove(self) -> None:
        """Removes the folder: the output is there."""
        shutil.rmtree(self.folder)

    def _locked(self) -> BinaryIO:
        """A file that no other process can lock while this one has it open."""
        lock = (self.folder / _LOCK).open("wb")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            lock.close()
            raise ValueError(
                f"{self.folder}: another run is at work there; wait for it, or give "
                "another output."
            ) from None
        except OSError:
            pass  # a file system without locks
        return lock

    def _chain(self) -> Iterator[tuple[int, int, Path]]:
        """The parts that follow each other from the first image on."""
        found = {}
        for path in sorted(self.folder.glob("*-*.npz")):
            first, stop = map(int, path.stem.split("-"))
            found[first] = (stop, path)
        position = 0
        while position in found:
            stop, path = found[position]
            yield position, stop, path
            position = stop
