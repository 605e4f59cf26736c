"""Schedules of the learning rate that fit the length of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.optim import MultiStepLR
from mmengine.runner import Runner

from ..registry import register


@register("param_scheduler")
class MultiStepShareLR(MultiStepLR):
    """MMEngine's ``MultiStepLR``; milestones below 1 are shares of the run.

    Args:
        *args: The optimiser, or its wrapper.
        milestones: Where the rate falls: shares of ``end``, or steps.
        end: The length of the run, as the runner gives it.
        **options: Those of ``MultiStepLR``.
    """

    def __init__(
        self, *args: Any, milestones: Sequence[float], end: int, **options: Any
    ) -> None:
        steps = [round(m * end) if m < 1 else m for m in milestones]
        super().__init__(*args, milestones=steps, end=end, **options)


def fit_warm_ups(runner: Runner, iterations: int, epoch_length: int) -> None:
    """Shortens warm-ups to half of the run, before the runner builds its schedules.

    A warm-up is a rising ``LinearLR`` from the start on, with an ``end`` of its own. If
    it is longer than half of the run, it ends there, and what was to begin at its end
    begins there too. Where there is no room for two steps, the run begins at its full
    rate: MMEngine would stay at the first one for good. All else stays as written.

    Args:
        runner: The runner; schedules that are built already stay.
        iterations: Length of the run.
        epoch_length: Iterations in an epoch.
    """
    schedules = runner.param_schedulers
    schedules = schedules if isinstance(schedules, list) else [schedules]
    for warm_up in schedules:
        if not _is_warm_up(warm_up):
            continue
        by_epoch = warm_up.get("by_epoch", True)
        converted = by_epoch and warm_up.get("convert_to_iter_based", False)
        unit = epoch_length if converted else 1  # steps in a unit of `end`
        length = iterations // (epoch_length if by_epoch and not converted else 1)
        begin = warm_up["end"]
        followers = [s for s in schedules if s.get("begin", 0) == begin]
        steps = int(begin * unit)
        # Alone it may be all that there is, as in a test of rates.
        longest = length // 2 if followers or steps > length else steps
        if 2 <= steps <= longest:
            continue
        fits = min(steps, longest)
        if fits < 2:
            fits, warm_up["start_factor"] = 0, warm_up.get("end_factor", 1.0)
        # The half keeps MMEngine's product with the unit from being rounded down.
        end = (fits + 0.5) / unit if fits and unit > 1 else fits
        warm_up["end"] = end or 1
        for follower in followers:
            follower["begin"] = end
        runner.logger.info(
            f"The warm-up of {steps} steps does not fit a run of {length}: {fits}."
        )


def _is_warm_up(schedule: Any) -> bool:
    if not isinstance(schedule, dict) or "end" not in schedule:
        return False
    kind = schedule.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    rises = schedule.get("start_factor", 1 / 3) < schedule.get("end_factor", 1.0)
    return name.split(".")[-1] == "LinearLR" and rises and not schedule.get("begin")
