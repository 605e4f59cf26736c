"""What checkpoints of this field hold beside tensors, and what each name becomes."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from .allowed_types import Allowed, is_trusted, with_trusted
from .errors import CheckpointError
from .numpy_pickles import NUMPY, ArrayInFile, DtypeInFile

_HISTORY_STATE = ("_log_history", "_count_history", "max_length")


class _Discarded:
    """Stands in for what is not needed; takes anything and keeps nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __hash__(self) -> int:
        return 0


class _History(HistoryBuffer):
    """A log history in a pickle, which also brings methods; these are left there."""

    def __init__(self) -> None:
        pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        log, counts, length = (state.get(name) for name in _HISTORY_STATE)
        if not isinstance(log, np.ndarray) or not isinstance(counts, np.ndarray):
            raise CheckpointError("holds a log history without numbers")
        super().__init__(list(log), list(counts), int(length or 0))
        # Bit for bit, whatever kinds of number they have.
        self._log_history, self._count_history = np.array(log), np.array(counts)
        self.__class__ = HistoryBuffer


#: The command line of the authors' release, paths, and the function by which a log
#: history names its methods: none is looked up, and nothing can be reached by it.
_DISCARDED_NAMES = (
    "argparse.Namespace",
    "builtins.getattr",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)
_KNOWN: Allowed = (
    *NUMPY,
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (ConfigDict, "mmengine.config.config.ConfigDict"),
    *((_Discarded, name) for name in _DISCARDED_NAMES),
)


def known_globals() -> Allowed:
    """What checkpoints may hold beside tensors, and what the user trusts."""
    return with_trusted(_KNOWN)


def restore(content: Any) -> Any:
    """Puts numpy's own arrays and types in the place of those built from a file.

    Args:
        content: What torch read. Its dicts and lists are changed in place, each once
            however often it is shared.

    Raises:
        CheckpointError: If a function or class lies in it, or an unfinished history.
    """
    return _restore(content, {})


def _restore(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if type(value) in (str, int, float, bool, bytes, type(None)):
        return value
    if id(value) not in done:
        done[id(value)] = value, value  # also keeps it, and with it its id
        done[id(value)] = value, _restored(value, done)
    return done[id(value)][1]


def _restored(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, ArrayInFile):
        return np.array(value)
    if isinstance(value, DtypeInFile):
        return value.dtype
    if type(value) is tuple:
        return tuple(_restore(item, done) for item in value)
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, _History)):
        if not is_trusted(value):
            raise CheckpointError(f"holds {str(value)[:80]}, which is no data")
    elif isinstance(value, list):
        value[:] = [_restore(item, done) for item in value]
    elif isinstance(value, dict):
        for key, item in value.items():
            dict.__setitem__(value, key, _restore(item, done))
    if isinstance(getattr(value, "__dict__", None), dict):  # versions of modules, say
        _restore(value.__dict__, done)
    return value
