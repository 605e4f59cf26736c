"""Records of finished runs: one JSON file each, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saim_mm.utils.atomic_file import write_json

from .experiments import Experiment, Scale

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class Run:
    """One training and judging.

    Attributes:
        experiment: What is trained.
        seed: Of all randomness.
        rate: Peak learning rate that is tried, for a run that tunes; ``None`` for one
            that counts, which takes the tuned rate.
    """

    experiment: Experiment
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        """Name of the record, without suffix."""
        tried = "" if self.rate is None else f"_tune_{self.rate:g}"
        return f"{self.experiment.name}_seed{self.seed}{tried}"


class Records:
    """The folder of all records of one scale.

    Args:
        folder: Where they lie; made if need be.
        scale: Their sizes and budget.

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
        if json.loads(settings.read_text()) != scale.as_json():
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
        return cls(folder, Scale.from_json(json.loads(settings.read_text())))

    def is_ready(self, run: Run) -> bool:
        """Whether all is finished that a run builds on."""
        tuned = run.rate is None and run.experiment.task != "none"
        return not tuned or self.best_rate(run.experiment) is not None

    def has(self, run: Run) -> bool:
        """Whether a run is finished."""
        return self._path(run).exists()

    def write(self, run: Run, figures: dict[str, Any]) -> None:
        """Keeps the figures of a finished run."""
        key = dict(row=run.experiment.name, seed=run.seed, tuning=run.rate is not None)
        write_json(self._path(run), {**key, **figures}, indent=1)

    def read(self) -> list[dict[str, Any]]:
        """All that is finished, in the order of the names."""
        paths = sorted(set(self.folder.glob("*.json")) - {self.folder / _SETTINGS})
        return [json.loads(path.read_text()) for path in paths]

    def best_rate(self, experiment: Experiment) -> float | None:
        """The tried rate whose linear probe did best on the images held out.

        ``None`` while a rate has not been tried, and where nothing is trained.
        """
        tried = tuned_rates(self.read()).get(experiment.tuned_name, {})
        if experiment.task == "none" or not set(self.scale.rates) <= set(tried):
            return None
        return max(self.scale.rates, key=lambda rate: tried[rate])

    def _path(self, run: Run) -> Path:
        return self.folder / f"{run.name}.json"


def tuned_rates(records: list[dict[str, Any]]) -> dict[str, dict[float, float]]:
    """Experiment -> rate -> linear probe on the images held out."""
    tried: dict[str, dict[float, float]] = {}
    for record in records:
        if record["tuning"]:
            tried.setdefault(record["row"], {})[record["rate"]] = record["linear"]
    return tried
