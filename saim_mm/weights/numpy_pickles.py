"""Arrays and numbers of numpy in a pickle, built without numpy's own constructors.

``numpy.ndarray`` and ``numpy.dtype`` believe what they are told: an array of objects
whose bytes a file brings is an array of addresses of its choice. What stands for them
here takes numbers and text alone, and exactly as many bytes as these have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from .errors import CheckpointError

#: Stand-ins, each with the full name it has in a pickle.
Allowed = Sequence[tuple[Any, str]]
#: Booleans, integers, floating-point and complex numbers, bytes and text, by width.
_NUMBERS = re.compile(r"[biufcSU][1-9]\d{0,4}")
_ORDERS = ("<", ">", "|", "=")
_LAST_CHARACTER = 0x10FFFF


def _refuse(what: str) -> NoReturn:
    raise CheckpointError(f"{what}; of numpy's, only numbers and text are read")


class DtypeInFile:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            _refuse(f"holds a numpy.dtype({str(code)[:40]!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, *structure, size = state[1:6]
        if order not in _ORDERS or any(part is not None for part in structure):
            _refuse("holds a numpy.dtype of several parts")
        if size not in (-1, self.dtype.itemsize):
            _refuse(f"holds a {self.dtype} of {size} bytes")
        self.dtype = self.dtype.newbyteorder(order)


class ArrayInFile(np.ndarray):
    """Stands for ``numpy.ndarray``: built by :func:`_reconstruct`, filled once."""

    def __new__(cls, *args: Any) -> ArrayInFile:
        """Refuses, as no pickle of numpy does this."""
        _refuse("calls numpy.ndarray")

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, data = state
        if self.size:
            _refuse("fills an array twice")
        dtype = _checked(kind, shape, data)
        filled: Any = (1, shape, dtype, bool(is_fortran), data)
        super().__setstate__(filled)


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not ArrayInFile:
        _refuse(f"holds an array of the kind {kind}")
    return np.ndarray.__new__(ArrayInFile, (0,), np.int8)


def _scalar(kind: Any, data: Any) -> Any:
    dtype = _checked(kind, (), data)
    return np.frombuffer(data, dtype)[0]


def build_array(dtype: Any, shape: Any, data: bytes) -> np.ndarray:
    """An array of numbers or text.

    Args:
        dtype: Byte order, kind and width, such as ``<f4``.
        shape: The shape, a list of integers.
        data: Its bytes.

    Raises:
        CheckpointError: If it is of another kind, or the bytes are too few or many.
    """
    kind = DtypeInFile(str(dtype)[1:])
    order: Any = str(dtype)[:1]
    kind.dtype = kind.dtype.newbyteorder(order)
    checked = _checked(kind, tuple(shape), data)
    return np.frombuffer(data, checked).reshape(shape).copy()


def _checked(kind: Any, shape: Any, data: Any) -> np.dtype:
    """The kind of number, if there are exactly the bytes that the shape takes."""
    if type(kind) is not DtypeInFile or type(data) is not bytes:
        _refuse(f"holds an array of {type(data).__name__}")
    if type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        _refuse(f"holds an array of shape {str(shape)[:40]}")
    if len(data) != math.prod(shape) * kind.dtype.itemsize:
        _refuse(f"holds {len(data)} bytes for an array of {kind.dtype} {shape}"[:160])
    if kind.dtype.kind == "U" and data:
        characters = np.frombuffer(data, f"{kind.dtype.str[0]}u4")
        if characters.max() > _LAST_CHARACTER:
            _refuse("holds text that is none")
    return kind.dtype


def _no_bytes() -> bytes:
    """Stands for ``bytes``, by which a pickle names those of an empty array."""
    return b""


#: numpy's names, which lie elsewhere in each numpy, with what stands for them.
NUMPY: Allowed = (
    (DtypeInFile, "numpy.dtype"),
    (ArrayInFile, "numpy.ndarray"),
    (_no_bytes, "builtins.bytes"),
    *(
        (stand_in, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _reconstruct), ("scalar", _scalar))
    ),
)
