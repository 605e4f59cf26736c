"""Records of finished runs: one JSON file each, written whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from saim_mm.utils.atomic_file import write_json

from .scale import Scale
from .tuning import FIGURES, Choice, Run, deciding

_SETTINGS = "settings.json"
_REMEDY = "remove it, and the command makes it anew."


def read_json(path: Path) -> Any:
    """The content of a file of JSON.

    Raises:
        ValueError: If it is something else.
        OSError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from None


class Records:
    """The folder of all records of one scale.

    Args:
        folder: Where they lie; made if need be.
        scale: Their sizes and budgets.

    Raises:
        ValueError: If the folder holds records of another scale.
    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder = folder
        self.scale = scale
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / _SETTINGS
        if not settings.exists():
            write_json(settings, scale.as_json(), indent=1)
        if Scale.from_json(read_json(settings)) != scale:
            raise ValueError(
                f"{settings} holds other settings than {scale.as_json()}; give "
                "another --out, so that figures of different runs do not mix."
            )

    @classmethod
    def open(cls, folder: Path) -> Records:
        """Records that are there already, with their own settings.

        Raises:
            ValueError: If the folder holds none.
        """
        settings = folder / _SETTINGS
        if not settings.exists():
            raise ValueError(f"{folder} holds no records; `run` makes them.")
        return cls(folder, Scale.from_json(read_json(settings)))

    def has(self, run: Run, choice: Choice | None) -> bool:
        """Whether a run is finished, and trained with what is chosen for it now.

        A trial that is done later, or anew, may choose otherwise.
        """
        path = self._path(run)
        return path.exists() and Choice.of(_read(path, self.scale)) == choice

    def write(self, run: Run, figures: dict[str, Any]) -> None:
        """Keeps the figures of a finished run."""
        write_json(self._path(run), {**run.key, **figures}, indent=1)

    def read(self) -> list[dict[str, Any]]:
        """All that is finished, in the order of the names.

        Raises:
            ValueError: If a file is no record, or lacks a figure that others have.
        """
        paths = sorted(set(self.folder.glob("*.json")) - {self.folder / _SETTINGS})
        records = {path: _read(path, self.scale) for path in paths}
        judged = {path: r for path, r in records.items() if not r["tuning"]}
        figures = {figure for r in judged.values() for figure in FIGURES if figure in r}
        for path, record in judged.items():
            if lacking := sorted(figures - set(record)):
                raise ValueError(f"{path} lacks {lacking} of the others; {_REMEDY}")
        return list(records.values())

    def name(self, run: Run) -> str:
        """Name of a run's record, without suffix."""
        budget = f"_budget{run.budget + 1}" if run.budget else ""
        return f"{run.row}{budget}_seed{run.seed}{self._tried(run)}"

    def _tried(self, run: Run) -> str:
        rates = self.scale.rates
        if run.trial is None:
            return ""
        if run.budget:
            return f"_tune_best{run.trial + 1}"
        if run.trial < len(rates):
            return f"_tune_{rates[run.trial]:g}"
        return f"_tune_setting{run.trial - len(rates) + 1}"

    def _path(self, run: Run) -> Path:
        return self.folder / f"{self.name(run)}.json"


def _read(path: Path, scale: Scale) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        missing = {"row", "seed", "tuning", "rate", *deciding(scale)} - set(record)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no record ({error}); {_REMEDY}") from None
    if missing:
        lacks = ", ".join(sorted(missing))
        raise ValueError(f"{path} is no record, as it lacks {lacks}; {_REMEDY}")
    numbers = {k: v for k, v in record.items() if k in ("seed", "rate", *FIGURES)}
    for name, value in numbers.items():
        untrained = name == "rate" and value is None
        if not untrained and not _is_number(value):
            raise ValueError(f"{path}: {name} is {value!r}, no number; {_REMEDY}")
    return record


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
