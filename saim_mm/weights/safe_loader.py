"""Checkpoints load without running code, whoever loads them.

MMEngine loads everything - ``load_from``, ``resume``, ``init_cfg``, the model zoos of
mmpretrain, mmdet and mmseg - through ``CheckpointLoader``. As its loaders come, one
falls back to unpickling whatever it finds, and the runner executes what it finds under
``meta.config``. :func:`install_safe_loader` makes them safe, for the whole process,
until :func:`uninstall_safe_loader`.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as loading

from .allowed_types import allowing, known_globals, restore, trust, trust_nothing
from .errors import CheckpointError
from .files import explain, read_torch, refused, without_wrappers

Loader = Callable[..., Any]
#: Every safe loader there was, with the one of MMEngine that it stands for: one may
#: come back with a table that somebody had put aside.
_originals: dict[Loader, Loader] = {}
#: What OneDL's MMEngine allows: also ``getattr`` and a history's methods, by which a
#: file could bring others to be called. Upstream has no such list.
_ALLOW_LIST = "get_torch_safe_globals"
_OWN_LIST = getattr(loading, _ALLOW_LIST, None)
_FORCE, _FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Loads a file of this machine, as MMEngine's function of this name does.

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
    return _disarm(read_torch(path, map_location), filename)


def install_safe_loader(allow: Iterable[type | str] = ()) -> None:
    """Makes all of MMEngine's checkpoint loaders safe, in this process.

    ``SafeCheckpointHook`` and ``SafeLoaderHook`` call it before a run loads anything,
    and so do our tools. Repeat it for loaders that are registered later.

    Args:
        allow: Classes, or their full names, that files of people whom you trust hold
            beside tensors, plain values, numpy's arrays and MMEngine's ``ConfigDict``
            and histories. They are added to those of earlier calls, and are good for
            all that this package reads.

    Raises:
        ValueError: If something in ``allow`` is no class, or is not there.
    """
    trust(allow)
    if _OWN_LIST is not None:
        setattr(loading, _ALLOW_LIST, lambda: list(known_globals()))
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader not in _originals:
            safe = _forced(loader) if prefix else load_from_local
            _originals[safe] = loader
            CheckpointLoader.register_scheme(prefix, safe, force=True)


def uninstall_safe_loader() -> None:
    """Gives MMEngine its own loaders back, and trusts no further types.

    For files that no ``allow`` makes readable, of people whom you trust: whatever is
    loaded from here on may run code. A run with ``SafeCheckpointHook`` or
    ``SafeLoaderHook`` switches safe loading on again.
    """
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader in _originals:
            CheckpointLoader.register_scheme(prefix, _originals[loader], force=True)
    if _OWN_LIST is not None:
        setattr(loading, _ALLOW_LIST, _OWN_LIST)
    trust_nothing()


def _forced(loader: Loader) -> Loader:
    """A loader of MMEngine, with ``weights_only=True`` wherever it calls torch."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **options: Any) -> Any:
        try:
            with allowing(known_globals()), _weights_only():
                return _disarm(restore(loader(filename, *args, **options)), filename)
        except CheckpointError as error:
            raise CheckpointError(refused(filename, error)) from None
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
    """Drops the text that MMEngine's runner would execute on resuming.

    What wrappers put before all keys of the weights goes, too.
    """
    if not isinstance(content, dict):
        return content
    state, meta = content.get("state_dict"), content.get("meta")
    if isinstance(state, dict) and all(isinstance(key, str) for key in state):
        content["state_dict"] = without_wrappers(state)
    if isinstance(meta, dict) and meta.pop("config", None) is not None:
        print_log(
            f"{filename}: its meta.config is ignored; it is Python and would be "
            "executed.",
            logger="current",
        )
    return content
