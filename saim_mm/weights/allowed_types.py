"""What torch may build of a file, beside tensors and plain values.

A name in a pickle is never looked up: it is on a list, with what stands for it, or the
file is refused. Each reader has its list; what a user trusts is added to all of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from .errors import CheckpointError
from .nested import replace_nested
from .numpy_pickles import NUMPY, Allowed, ArrayInFile, DtypeInFile
from .old_torch import unpickler_of


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
        log, counts = state.get("_log_history"), state.get("_count_history")
        if not isinstance(log, np.ndarray) or not isinstance(counts, np.ndarray):
            raise CheckpointError("holds a log history without numbers")
        super().__init__(list(log), list(counts), int(state.get("max_length") or 0))
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


def _bytearray(content: Any = b"", *encoding: str) -> bytearray:
    """Stands for ``bytearray``, which also takes a number, and makes so many zeros."""
    if not isinstance(content, (str, bytes)):
        raise CheckpointError(f"asks for a bytearray of {content!r}")
    return bytearray(content, *encoding)


_KNOWN: Allowed = (
    *NUMPY,
    (_History, "mmengine.logging.history_buffer.HistoryBuffer"),
    (ConfigDict, "mmengine.config.config.ConfigDict"),
    (_list, "collections.deque"),
    (frozenset, "builtins.frozenset"),
    *((kind, f"datetime.{kind.__name__}") for kind in _TIMES),
    *((_Discarded, name) for name in _DISCARDED_NAMES),
)
_trusted: dict[str, type] = {}


def trust(types: Iterable[type | str]) -> None:
    """Lets files of checkpoints hold some types, in this process.

    Args:
        types: Classes, or their full names. What a class does when it is built or
            restored is done for a file, so trust both.

    Raises:
        ValueError: As :func:`find_classes` does.
    """
    _trusted.update({_full_name(kind): kind for kind in find_classes(types)})


def trust_nothing() -> None:
    """Takes back all that :func:`trust` did."""
    _trusted.clear()


def find_classes(types: Iterable[type | str]) -> list[type]:
    """The classes that are given, some of them by their full names.

    Raises:
        ValueError: If one is no class, or there is none of that name.
    """
    found = []
    for given in types:
        kind: Any = given
        try:
            if isinstance(given, str):  # torch leaves out the module of Python's own
                name = given if "." in given else f"builtins.{given}"
                kind = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"allow={given!r} is not there ({error}); give the full name of a "
                "class, such as 'argparse.Namespace'"
            ) from None
        if not isinstance(kind, type):
            raise ValueError(
                f"allow={given!r} is no class, and reading a file that asks for it "
                "would run code; allow classes, such as 'argparse.Namespace'"
            )
        found.append(kind)
    return found


def known_globals() -> Allowed:
    """What checkpoints may hold beside tensors, and what the user trusts.

    Here, or by ``torch.serialization.add_safe_globals``. One stand-in per name stays:
    of two, torch would take either.
    """
    in_torch: list[Any] = getattr(torch.serialization, "get_safe_globals", list)()
    taken = {x[1] if isinstance(x, tuple) else _full_name(x) for x in in_torch}
    taken |= _trusted.keys()
    rest = (pair for pair in _KNOWN if pair[1] not in taken)
    return (*((kind, name) for name, kind in _trusted.items()), *rest)


@contextmanager
def allowing(allowed: Allowed) -> Iterator[None]:
    """Lets torch read past some names with ``weights_only=True``."""
    reader: Any = torch._weights_only_unpickler
    # Its own list, which comes before what is added to it.
    own = {**reader._get_allowed_globals(), "builtins.bytearray": _bytearray}
    with _replaced(reader, "_get_allowed_globals", lambda: own):
        safe_globals = getattr(torch.serialization, "safe_globals", None)
        if safe_globals is not None:
            with safe_globals(list(allowed)):
                yield
        else:  # torch.load and the reader's own load take it there
            with _replaced(reader, "Unpickler", unpickler_of(allowed)):
                yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def restore(content: Any) -> Any:
    """Puts numpy's own arrays and types in the place of those built from a file.

    In place, by :func:`replace_nested`.

    Raises:
        CheckpointError: If a function or class lies in it, or an unfinished history.
    """
    return replace_nested(content, _restored)


def _restored(value: Any) -> Any:
    if isinstance(value, ArrayInFile):
        return np.array(value)
    if isinstance(value, DtypeInFile):
        return value.dtype
    trusted = any(value is kind for kind in _trusted.values())
    if isinstance(value, _NO_DATA) and not trusted:
        raise CheckpointError(f"holds {str(value)[:80]}, which is no data")
    return value


def _full_name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
