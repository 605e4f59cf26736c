"""A checkpoint of plain values, which loads with ``weights_only=True``.

MMEngine's runner puts log histories, numpy numbers and whatever a hook left in the
message hub into its checkpoints. Here these become tensors and plain values, and again
what they were.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..weights.files import CheckpointError

#: Key of a dict that stands for an object of another type; its value names the type.
MARK = "__saim_mm_type__"
#: Parts of a checkpoint that tell about the run and are no state of it.
_DISPENSABLE = ("meta", "message_hub")
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_TORCH = (torch.Tensor, torch.nn.Parameter, torch.Size, torch.device, torch.dtype)


def encode(value: Any, where: str = "") -> Any:
    """Copies nested containers, with plain values for what is none.

    Args:
        value: A checkpoint, or a part of one. Tensors are not copied.
        where: What the part is called in messages.

    Returns:
        Plain numbers, strings, tensors, lists, tuples and dicts.
        :func:`decode` undoes it, except that numpy numbers and other subclasses of
        plain types stay plain, and paths and enumerations stay what they became.

    Raises:
        CheckpointError: If a part is of a type that has no plain form. Under ``meta``
            and ``message_hub`` it is left out instead, and the log says so.
    """
    if type(value) in _PLAIN or type(value) in _TORCH:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (bool, int, float, str)):
        return _without_subclass(value)
    if isinstance(value, Mapping):
        return _plain_mapping(value, where)
    if isinstance(value, (list, tuple)):
        items = [encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, (set, frozenset)):
        items = [encode(item, where) for item in value]
        return {MARK: "set", "items": items}
    if isinstance(value, HistoryBuffer):
        log, counts = (_to_tensor(array, where) for array in value.data)
        length = value.max_length
        return {MARK: "HistoryBuffer", "log": log, "count": counts, "length": length}
    if isinstance(value, np.ndarray):
        return {MARK: "ndarray", "array": _to_tensor(value, where)}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Enum):
        return encode(value.value, where)
    if isinstance(value, Tensor):
        return value.detach().as_subclass(Tensor)
    raise CheckpointError(
        f"{where}: a {type(value).__module__}.{type(value).__qualname__} in a "
        "checkpoint could only be loaded by running code; store plain numbers, strings "
        "and tensors instead."
    )


def decode(value: Any) -> Any:
    """Undoes :func:`encode`; what was not marked is returned as it is."""
    if isinstance(value, dict):
        kind = value.get(MARK)
        if kind is not None:
            return _restore(kind, value)
        for key, item in value.items():
            value[key] = decode(item)
        return value
    if type(value) in (list, tuple):
        return type(value)(decode(item) for item in value)
    return value


def _plain_mapping(value: Mapping, where: str) -> dict:
    plain: dict = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in value.items():
        name = f"{where}.{key}" if where else str(key)
        try:
            plain[encode(key, where)] = encode(item, name)
        except CheckpointError as error:
            if not name.startswith(_DISPENSABLE):
                raise
            print_log(f"left out of the checkpoint: {error}", "current", level=30)
    if isinstance(value, Counter):
        return {MARK: "Counter", "counts": plain}
    if hasattr(value, "_metadata"):  # versions of a state dict's modules
        plain._metadata = value._metadata  # type: ignore[attr-defined]
    return plain


def _without_subclass(value: Any) -> Any:
    """The plain number or string that an instance of a subclass is."""
    if isinstance(value, Enum):
        value = value.value
    return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))


def _to_tensor(array: np.ndarray, where: str) -> Tensor:
    try:
        # A copy: torch takes no negative strides and no read-only memory.
        return torch.from_numpy(np.array(array))
    except TypeError:
        raise CheckpointError(
            f"{where}: a numpy array of {array.dtype} has no tensor to be stored as; "
            "store plain lists."
        ) from None


def _restore(kind: Any, value: Mapping[str, Any]) -> Any:
    if kind == "HistoryBuffer":
        history = HistoryBuffer(max_length=value["length"])
        history._log_history = value["log"].cpu().numpy()
        history._count_history = value["count"].cpu().numpy()
        return history
    if kind == "ndarray":
        return value["array"].cpu().numpy()
    if kind == "Counter":
        return Counter(value["counts"])
    if kind == "set":
        return set(value["items"])
    raise CheckpointError(
        f"the checkpoint holds a {kind!r}, which this version of saim_mm does not "
        "know; install the version that wrote it, or a later one."
    )
