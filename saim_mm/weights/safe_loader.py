"""Checkpoints load without running code, whoever loads them.

MMEngine loads everything - ``load_from``, ``resume``, ``init_cfg``, the model zoos of
mmpretrain, mmdet and mmseg - through ``CheckpointLoader``. As its loaders come, one
falls back to unpickling whatever it finds, and the runner executes what it finds under
``meta.config``. :func:`install_safe_loader` makes them safe, for the whole process.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loading

from .checksum_trailer import check_sha256
from .files import DISCARDED, CheckpointError, allowing, explain, read_torch

Loader = Callable[..., Any]
_SAFE: set[Loader] = set()
_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class _History(HistoryBuffer):
    """A log history in a pickle, which also brings methods; these are left there."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        state.pop("statistics_methods", None)
        self.__dict__.update(state)
        self.__class__ = HistoryBuffer


def known_globals() -> tuple[tuple[Any, str], ...]:
    """What checkpoints of MMEngine hold beside tensors: histories and numpy numbers."""
    # Their functions lie elsewhere in each numpy; its own pickles know where.
    functions = dict(
        _reconstruct=np.zeros(0).__reduce__()[0], scalar=np.float64(0).__reduce__()[0]
    )
    kinds = {type(np.dtype(kind)) for kind in (*"?ilfd", "u4", "u8")}
    kept = (
        (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
        (np.dtype, "numpy.dtype"),
        (np.ndarray, "numpy.ndarray"),
        *((kind, f"{kind.__module__}.{kind.__qualname__}") for kind in kinds),
        *(
            (function, f"numpy.{core}.multiarray.{name}")
            for core in ("core", "_core")
            for name, function in functions.items()
        ),
    )
    # One stand-in per name: of two, torch would take either.
    names = {name for _, name in kept}
    return kept + tuple(pair for pair in DISCARDED if pair[1] not in names)


_KNOWN = known_globals()


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loads a file of this machine, as MMEngine's function of this name does.

    Args:
        filename: The file; its checksum is compared if it has one.
        map_location: As for ``torch.load``.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or wants to run code.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{filename}: there is no such checkpoint file; give the path of a local "
            "file or an address that begins with https://."
        )
    check_sha256(path)
    return _disarm(read_torch(path, map_location, _KNOWN), filename)


def install_safe_loader() -> None:
    """Makes all of MMEngine's checkpoint loaders safe, in this process, for good.

    ``SafeCheckpointHook`` and ``SafeLoaderHook`` call it before a run loads anything,
    and so do our tools. Repeat it for loaders that are registered later.
    """
    # OneDL's allow ``getattr`` and a history's methods, by which a file could bring
    # others to be called. Upstream has no such function.
    if hasattr(loading, "get_torch_safe_globals"):
        loading.get_torch_safe_globals = lambda: list(_KNOWN)
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader not in _SAFE:
            safe = _forced(loader) if prefix else load_from_local
            _SAFE.add(safe)
            CheckpointLoader.register_scheme(prefix, safe, force=True)


def _forced(loader: Loader) -> Loader:
    """A loader of MMEngine, with ``weights_only=True`` wherever it calls torch."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **options: Any) -> Any:
        try:
            with allowing(_KNOWN), _weights_only():
                return _disarm(loader(filename, *args, **options), filename)
        except pickle.UnpicklingError as error:
            raise CheckpointError(explain(filename, str(error))) from None

    return load


@contextmanager
def _weights_only() -> Iterator[None]:
    """Lets torch read nothing but weights, whatever its caller asks for."""
    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORBID)}
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        del os.environ[_FORCE]
        os.environ.update({k: v for k, v in before.items() if v is not None})


def _disarm(content: Any, filename: str) -> Any:
    """Drops the text that MMEngine's runner would execute on resuming."""
    meta = content.get("meta") if isinstance(content, dict) else None
    if isinstance(meta, dict) and meta.pop("config", None) is not None:
        print_log(
            f"{filename}: its meta.config is ignored; it is Python and would be "
            "executed.",
            logger="current",
        )
    return content
