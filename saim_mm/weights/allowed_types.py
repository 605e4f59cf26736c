"""What torch may build of a file, beside tensors and plain values.

A name in a pickle is never looked up: it is on a list, with what stands for it, or the
file is refused. Each reader has its list; what a user trusts is added to all of them.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from . import old_torch
from .sized_bytes import sized_bytearrays

#: Stand-ins, each with the full name it has in a pickle.
Allowed = Sequence[tuple[Any, str]]
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


def find_classes(types: Iterable[type | str]) -> list[type]:
    """The classes that are given, some of them by their full names.

    Raises:
        ValueError: If one is no class, or there is none of that name.
    """
    found = []
    for given in types:
        try:
            kind = _resolve(given) if isinstance(given, str) else given
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


def _resolve(name: str) -> Any:
    """What has a name; torch leaves the module out of those of Python's own."""
    return pkgutil.resolve_name(name if "." in name else f"builtins.{name}")


def is_trusted(kind: Any) -> bool:
    """Whether the user lets files hold a type."""
    return any(kind is known for known in _trusted.values())


def trust_nothing() -> None:
    """Takes back all that :func:`trust` did."""
    _trusted.clear()


def with_trusted(allowed: Allowed) -> Allowed:
    """Adds what the user trusts, here or by ``torch.serialization.add_safe_globals``.

    One stand-in per name stays: of two, torch would take either.
    """
    in_torch: list[Any] = getattr(torch.serialization, "get_safe_globals", list)()
    taken = {x[1] if isinstance(x, tuple) else _full_name(x) for x in in_torch}
    taken |= _trusted.keys()
    rest = (pair for pair in allowed if pair[1] not in taken)
    return (*((kind, name) for name, kind in _trusted.items()), *rest)


@contextmanager
def allowing(allowed: Allowed) -> Iterator[None]:
    """Lets torch read past some names with ``weights_only=True``."""
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    if safe_globals is None:
        with old_torch.allowing(allowed):
            yield
    else:
        with safe_globals(list(allowed)), sized_bytearrays():
            yield


def _full_name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
