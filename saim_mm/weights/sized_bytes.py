"""Bytes of a file, no more of them than the file holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .errors import CheckpointError


def bytearray_of(content: Any = b"", *encoding: str) -> bytearray:
    """What a pickle means by ``bytearray``.

    The type itself takes a number, too, and makes that many zeros of it.

    Raises:
        CheckpointError: If it is given no bytes and no text.
    """
    if not isinstance(content, (str, bytes)):
        raise CheckpointError(f"asks for a bytearray of {content!r}")
    return bytearray(content, *encoding)


@contextmanager
def sized_bytearrays() -> Iterator[None]:
    """Has torch take :func:`bytearray_of` for ``bytearray``, from torch 2.5 on.

    Its own list of names comes before what ``torch.serialization.safe_globals`` adds.
    """
    reader: Any = torch._weights_only_unpickler
    before = reader._get_allowed_globals
    named = {**before(), "builtins.bytearray": bytearray_of}
    reader._get_allowed_globals = lambda: named
    try:
        yield
    finally:
        reader._get_allowed_globals = before
