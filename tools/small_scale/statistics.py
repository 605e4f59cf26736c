"""Means of few seeds, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

#: 97.5 % quantile of Student's t, for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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
        ValueError: If there are no values, or more than ten.
    """
    if not 1 <= len(values) <= len(_T) + 1:
        raise ValueError(f"{len(values)} values; 1 to {len(_T) + 1} can be summed up.")
    if len(values) == 1:
        return Estimate(values[0], None, 1)
    quantile = _T[len(values) - 2]
    half_width = quantile * stdev(values) / math.sqrt(len(values))
    return Estimate(mean(values), half_width, len(values))


def paired_difference(
    first: dict[int, float], second: dict[int, float]
) -> Estimate | None:
    """First minus second, over the seeds that both have.

    Paired, because two rows of one seed see the same batches and crops.

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
