"""What is nested in lists, tuples and dicts, each part once however often shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import CheckpointError

_PLAIN = (str, int, float, bool, bytes, type(None))


def replace_nested(content: Any, replace: Callable[[Any], Any]) -> Any:
    """Applies a function to all that is nested in something, inside first.

    It gets each part, but for plain values, and returns what stands for it. Lists and
    dicts are changed in place.

    Raises:
        CheckpointError: If it is nested more deeply than Python can follow.
    """
    try:
        return _replace(content, replace, {})
    except RecursionError:
        raise CheckpointError("is nested too deeply to be read") from None


def _replace(
    value: Any, replace: Callable[[Any], Any], done: dict[int, tuple[Any, Any]]
) -> Any:
    if type(value) in _PLAIN:
        return value
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = value, value  # also keeps it, and with it its id
    result = value
    if isinstance(value, list):
        value[:] = [_replace(item, replace, done) for item in value]
    elif type(value) is tuple:
        result = tuple(_replace(item, replace, done) for item in value)
    elif isinstance(value, dict):
        for key, item in value.items():
            dict.__setitem__(value, key, _replace(item, replace, done))
    if isinstance(getattr(value, "__dict__", None), dict):  # versions of modules, say
        _replace(value.__dict__, replace, done)
    done[id(value)] = value, replace(result)
    return done[id(value)][1]
