"""A checkpoint of plain values, which loads with ``weights_only=True``.

MMEngine's runner puts log histories, numpy numbers and whatever a hook left in the
message hub into its checkpoints. Here these become tensors and plain values, and again
what they were.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..weights.files import CheckpointError
from ..weights.nested import replace_nested
from ..weights.numpy_pickles import build_array

#: Key of a dict that stands for an object of another type; its value names the type.
MARK = "__saim_mm_type__"
#: Parts of a checkpoint that tell about the run and are no state of it.
_DISPENSABLE = re.compile(r"(meta|message_hub)([.\[]|$)")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_TORCH = (torch.Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype)
#: What a checkpoint nests is less than a tenth of this; Python follows a few times it.
_DEEPEST = 100


def encode(value: Any, where: str = "") -> Any:
    """Copies nested containers, with plain values for what is none.

    Tensors are not copied, and what is shared stays shared. ``where`` is what the part
    of a checkpoint is called in messages.

    Returns:
        Plain numbers, strings, tensors, lists, tuples and dicts.
        :func:`decode` undoes it, except that numpy numbers and other subclasses of
        plain types stay plain, and paths and enumerations stay what they became.

    Raises:
        CheckpointError: If a part is of a type that has no plain form, contains itself
            or is nested too deeply. Under ``meta`` and ``message_hub`` it is left out
            instead, and the log says so.
    """
    return _Encoder().encode(value, where)


def decode(value: Any) -> Any:
    """Undoes :func:`encode`, in place; what was not marked stays as it is.

    Raises:
        CheckpointError: If a mark is unknown, or not followed by what it needs.
    """
    return replace_nested(value, _decoded)


class _Encoder:
    """Encodes each part once."""

    def __init__(self) -> None:
        # The part itself is kept, and with it its id. It is encoded once more for where
        # less may be left out of it.
        self._done: dict[tuple[int, bool], tuple[Any, Any]] = {}
        self._open: list[int] = []

    def encode(self, value: Any, where: str) -> Any:
        if type(value) in _PLAIN or type(value) in _TORCH:
            # Torch reads no bytes of length 0.
            return _marked("bytes") if type(value) is bytes and not value else value
        key = id(value), bool(_DISPENSABLE.match(where))
        if key not in self._done:
            if id(value) in self._open or len(self._open) == _DEEPEST:
                raise CheckpointError(
                    f"{where[:200]}: a {_name(value)} that contains itself or is "
                    f"nested more than {_DEEPEST} levels deep; store it in flat parts."
                )
            self._open.append(id(value))
            try:
                self._done[key] = value, self._encoded(value, where)
            finally:
                self._open.pop()
        return self._done[key][1]

    def _encoded(self, value: Any, where: str) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value, where)
        if isinstance(value, (list, tuple, set, frozenset, deque)):
            return self._items(value, where)
        if isinstance(value, HistoryBuffer):
            log, counts = (_from_numbers(array, where) for array in value.data)
            length = value.max_length
            return _marked("HistoryBuffer", log=log, count=counts, length=length)
        if isinstance(value, np.ndarray):
            return _from_array(value, where)
        plain = _to_plain(value)
        if type(plain) is type(value):
            raise CheckpointError(
                f"{where}: a {_name(value)} in a checkpoint could only be loaded by "
                "running code; store plain numbers, strings and tensors instead."
            )
        return self.encode(plain, where)

    def _items(self, value: Any, where: str) -> Any:
        items = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, (list, tuple)):
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, deque):
            return _marked("deque", items=items, maxlen=value.maxlen)
        return _marked("set" if isinstance(value, set) else "frozenset", items=items)

    def _mapping(self, value: Mapping, where: str) -> dict:
        plain: dict = OrderedDict() if isinstance(value, OrderedDict) else {}
        for key, item in value.items():
            name = f"{where}.{key}" if where else str(key)
            try:
                plain[self._key(key, name, plain)] = self.encode(item, name)
            except CheckpointError as error:
                if not _DISPENSABLE.match(name):
                    raise
                print_log(f"left out of the checkpoint: {error}", "current", level=30)
        if isinstance(value, Counter):
            return _marked("Counter", counts=plain)
        if hasattr(value, "_metadata"):  # versions of a state dict's modules
            plain._metadata = value._metadata  # type: ignore[attr-defined]
        return plain

    def _key(self, key: Any, name: str, others: Mapping) -> Any:
        plain = self.encode(key, name)
        try:
            is_there = plain in others
        except TypeError:
            raise CheckpointError(
                f"{name[:200]}: a {_name(key)} as a key; use numbers or text."
            ) from None
        if is_there:
            raise CheckpointError(
                f"{name[:200]}: a {_name(key)} as a key becomes {plain!r}, which is "
                "one already; use numbers or text that differ."
            )
        return plain


def _marked(kind: str, **parts: Any) -> dict[str, Any]:
    return {MARK: kind, **parts}


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    if isinstance(value, timedelta):
        parts = [value.days, value.seconds, value.microseconds]
        return _marked("timedelta", parts=parts)
    for moment in (datetime, date, time):  # a datetime is a date
        if isinstance(value, moment):
            return _marked(moment.__name__, text=value.isoformat())
    subclassed = (kind for kind in (int, float, str, bytes) if isinstance(value, kind))
    return next((kind(value) for kind in subclassed), value)


def _from_array(array: np.ndarray, where: str) -> dict[str, Any]:
    """Numbers as a tensor; text, and numbers that torch does not have, as bytes."""
    try:
        return _marked("ndarray", array=_from_numbers(array, where))
    except CheckpointError:
        if array.dtype.kind not in "biufcSU":
            raise
    data = torch.from_numpy(np.frombuffer(array.tobytes(), np.uint8).copy())
    shape, dtype = list(array.shape), array.dtype.str
    return _marked("ndarray", data=data, shape=shape, dtype=dtype)


def _from_numbers(array: np.ndarray, where: str) -> Tensor:
    try:
        # A copy: torch takes no negative strides and no read-only memory.
        return torch.from_numpy(np.array(array))
    except (TypeError, ValueError):  # ValueError: another byte order
        raise CheckpointError(
            f"{where}: a numpy array of {array.dtype} has no tensor to be stored as; "
            "store plain lists."
        ) from None


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict) or MARK not in value:
        return value
    kind = value[MARK]
    if not isinstance(kind, str) or kind not in _RESTORED:
        raise CheckpointError(
            f"the checkpoint holds a {kind!r}, which this version of saim_mm does not "
            "know; install the version that wrote it, or a later one."
        )
    try:
        return _RESTORED[kind](value)
    except Exception as error:  # what follows the mark may be anything
        raise CheckpointError(
            f"the checkpoint holds a {kind} that is none: {str(error)[:200]}"
        ) from None


def _to_array(value: Mapping[str, Any]) -> np.ndarray:
    if "array" in value:
        return value["array"].cpu().numpy()
    data = value["data"].cpu().numpy().tobytes()
    return build_array(value["dtype"], value["shape"], data)


def _to_history(value: Mapping[str, Any]) -> HistoryBuffer:
    history = HistoryBuffer(max_length=value["length"])
    history._log_history = value["log"].cpu().numpy()
    history._count_history = value["count"].cpu().numpy()
    return history


_RESTORED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "Counter": lambda value: Counter(value["counts"]),
    "HistoryBuffer": _to_history,
    "bytes": lambda value: b"",
    "date": lambda value: date.fromisoformat(value["text"]),
    "datetime": lambda value: datetime.fromisoformat(value["text"]),
    "deque": lambda value: deque(value["items"], value["maxlen"]),
    "frozenset": lambda value: frozenset(value["items"]),
    "ndarray": _to_array,
    "set": lambda value: set(value["items"]),
    "time": lambda value: time.fromisoformat(value["text"]),
    "timedelta": lambda value: timedelta(*value["parts"]),
}
