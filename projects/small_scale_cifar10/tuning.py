"""What a run trains with: learning rate and setting, chosen on images held out.

At the first budget every rate is tried, then each alternative setting at the best rate.
At a greater budget the best two of the budget before are tried once more (successive
halving). The linear probe decides; where rows have equally many operations, its mean
with kNN, for what the probe alone likes best was poor otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .experiments import Experiment
from .scale import Scale
from .systems import rows_of

#: The seed whose runs choose.
TUNING_SEED = 0
#: By which a row is judged, and their titles.
FIGURES = dict(
    knn="kNN",
    linear="linear probe",
    linear_best="best layer",
    attentive="attentive",
    finetune="fine-tuning",
)
#: How many go on to the next budget.
_FINALISTS = 2


@dataclass(frozen=True)
class Run:
    """One training and judging.

    Attributes:
        row: Name of the experiment that is trained.
        seed: Of all randomness.
        trial: Number of a run that tunes, of its row and budget; ``None`` for one that
            counts.
        budget: Number of the scale's budget; 0 where it has none.
    """

    row: str
    seed: int
    trial: int | None = None
    budget: int = 0

    @property
    def tuning(self) -> bool:
        """Whether it tunes."""
        return self.trial is not None

    @property
    def key(self) -> dict[str, Any]:
        """What tells its record from others."""
        key: dict[str, Any] = dict(row=self.row, seed=self.seed, tuning=self.tuning)
        return {**key, "budget": self.budget} if self.budget else key


@dataclass(frozen=True)
class Choice:
    """What a run trains with.

    Attributes:
        rate: Peak learning rate; ``None`` where nothing is trained.
        changes: Options that differ from the experiment's.
    """

    rate: float | None
    changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Choice:
        """What the run of a record was trained with."""
        return cls(record["rate"], record.get("changes", {}))


def num_trials(experiment: Experiment, scale: Scale, budget: int) -> int:
    """How many runs tune an experiment at a budget."""
    if experiment.task == "none":
        return 0
    first = len(scale.rates) + len(experiment.alternatives)
    return min(_FINALISTS, first) if budget else first


def choose(run: Run, scale: Scale, records: list[dict[str, Any]]) -> Choice | None:
    """What a run trains with, or ``None`` while runs are missing that decide it."""
    rows = rows_of(scale)
    experiment = rows[rows[run.row].tuned_name]
    if experiment.task == "none":
        return Choice(None)
    if run.trial is None:
        return _best(experiment, scale, run.budget, records, 0)
    if run.budget:
        return _best(experiment, scale, run.budget - 1, records, run.trial)
    if run.trial < len(scale.rates):
        return Choice(scale.rates[run.trial])
    plain = [c for c in ranking(records, scale, experiment.name, 0) if not c.changes]
    if any(Choice(rate) not in plain for rate in scale.rates):
        return None
    return Choice(plain[0].rate, experiment.alternatives[run.trial - len(scale.rates)])


def deciding(scale: Scale) -> tuple[str, ...]:
    """The figures whose mean decides."""
    return ("knn", "linear") if scale.budgets else ("linear",)


def score(record: dict[str, Any], scale: Scale) -> float:
    """What decides, of a trial."""
    figures = deciding(scale)
    return sum(record[figure] for figure in figures) / len(figures)


def ranking(
    records: list[dict[str, Any]], scale: Scale, row: str, budget: int
) -> list[Choice]:
    """What was tried at a budget, the best on held-out images first."""
    tried = [r for r in records if r["row"] == row and r["tuning"]]
    tried = [r for r in tried if r.get("budget", 0) == budget]
    tried.sort(key=lambda record: score(record, scale), reverse=True)
    return [Choice.of(record) for record in tried]


def chosen_now(records: list[dict[str, Any]], scale: Scale) -> list[dict[str, Any]]:
    """Without the runs that count and were trained with another choice than today's."""

    def stands(record: dict[str, Any]) -> bool:
        run = Run(record["row"], record["seed"], None, record.get("budget", 0))
        choice = choose(run, scale, records)
        return choice is None or choice == Choice.of(record)

    return [record for record in records if record["tuning"] or stands(record)]


def _best(
    experiment: Experiment,
    scale: Scale,
    budget: int,
    records: list[dict[str, Any]],
    place: int,
) -> Choice | None:
    """The best but ``place``, once every trial that is to be made has been made.

    One that an earlier choice asked for, such as a setting at another rate, is none.
    """
    count = num_trials(experiment, scale, budget)
    runs = [Run(experiment.name, TUNING_SEED, trial, budget) for trial in range(count)]
    trials = [choose(run, scale, records) for run in runs]
    tried = ranking(records, scale, experiment.name, budget)
    return tried[place] if all(trial in tried for trial in trials) else None
