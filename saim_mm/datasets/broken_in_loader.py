"""A broken image that ended a loop over a loader."""

from __future__ import annotations

from .load_image import BrokenImageError


def broken_image(error: Exception) -> str | None:
    """What is wrong with which image, if that was the reason of an error.

    Args:
        error: What a loader raised. Torch tells that of a worker as the text of its
            traceback, which ends in the error.
    """
    if isinstance(error, BrokenImageError):
        return str(error)
    last = str(error).strip().rpartition("\n")[2]
    kind, _, text = last.partition(": ")
    return text if kind.rpartition(".")[2] == BrokenImageError.__name__ else None
