"""Options that are one of a few words."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses an option that is none.

    Raises:
        ValueError: If it is none.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {choices}.")
