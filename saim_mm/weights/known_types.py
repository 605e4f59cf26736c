"""What checkpoints of this field hold beside tensors, and what each name becomes."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from .allowed_types import Allowed, is_trusted, with_trusted
from .errors import CheckpointError
from .nested import replace_nested
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
    *(
        f"pathlib.{module}{pure}{system}Path"
        for module in ("", "_local.")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    ),
)
_TIMES = (date, datetime, time, timedelta, timezone)
_NO_DATA = (type, FunctionType, BuiltinFunctionType, _History)


def _list(items: Any = (), maxlen: Any = None) -> list:
    """Stands for ``collections.deque``: torch appends to lists alone."""
    return list(items)


_KNOWN: Allowed = (
    *NUMPY,
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (ConfigDict, "mmengine.config.config.ConfigDict"),
    (_list, "collections.deque"),
    (frozenset, "builtins.frozenset"),
    *((kind, f"datetime.{kind.__name__}") for kind in _TIMES),
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
    return replace_nested(content, _restored)


def _restored(value: Any) -> Any:
    if isinstance(value, ArrayInFile):
        return np.array(value)
    if isinstance(value, DtypeInFile):
        return value.dtype
    if isinstance(value, _NO_DATA) and not is_trusted(value):
        raise CheckpointError(f"holds {str(value)[:80]}, which is no data")
    return value
