"""Means of few seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from scipy import stats

#: Probability that an interval holds the mean.
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean of some seeds.

    Attributes:
        mean: The mean.
        half_width: The 95 % interval reaches from the mean minus this to the mean plus
            this; ``None`` for a single seed.
        count: Number of seeds.
    """

    mean: float
    half_width: float | None
    count: int

    def __str__(self) -> str:
        if self.half_width is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.half_width:.1f}"

    def signed(self) -> str:
        """As text, with the sign of a difference."""
        return f"+{self}" if self.mean >= 0 else str(self)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval by Student's t.

    Raises:
        ValueError: If there are no values.
    """
    count = len(values)
    if not count:
        raise ValueError("0 values have no mean; give those of one seed at least.")
    if count == 1:
        return Estimate(values[0], None, 1)
    quantile = stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)
    return Estimate(mean(values), float(quantile * stats.sem(values)), count)


def paired_difference(
    first: dict[int, float], second: dict[int, float]
) -> Estimate | None:
    """First minus second, over the seeds that both have.

    Paired, because two experiments of one seed see the same batches and crops.

    Args:
        first: Seed -> figure.
        second: Seed -> figure.

    Returns:
        ``None`` if they share no seed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    return estimate([first[seed] - second[seed] for seed in seeds])
