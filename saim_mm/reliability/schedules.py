"""Schedules of the learning rate that fit the length of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import MultiStepLR, OptimWrapper
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..registry import register

#: A warm-up of one step would stay at its first rate for good, says MMEngine's formula.
_SHORTEST = 2


@register("param_scheduler")
class MultiStepShareLR(MultiStepLR):
    """MMEngine's ``MultiStepLR`` with milestones that are shares of the run.

    Args:
        optimizer: The optimiser, or its wrapper.
        milestones: Where the rate falls. Numbers below 1 are shares of ``end``, whole
            numbers are steps as in MMEngine's.
        end: Where the schedule ends; the runner gives the length of the run.
        **options: Those of ``MultiStepLR``.

    Raises:
        ValueError: If a milestone is neither.
    """

    def __init__(
        self,
        optimizer: Optimizer | OptimWrapper,
        *,
        milestones: Sequence[float],
        end: int,
        **options: Any,
    ) -> None:
        for milestone in milestones:
            if milestone <= 0 or (milestone >= 1 and milestone != int(milestone)):
                raise ValueError(
                    f"milestones={list(milestones)}: {milestone} is neither a share of "
                    "the run, between 0 and 1, nor a whole number of steps."
                )
        steps = [round(m * end) if m < 1 else int(m) for m in milestones]
        super().__init__(optimizer, milestones=steps, end=end, **options)


def fit_warm_ups(runner: Runner, iterations: int, epoch_length: int) -> None:
    """Shortens warm-ups to half of the run, before the runner builds its schedules.

    A warm-up is a rising ``LinearLR`` from the start on, with an ``end`` of its own. If
    it is longer than half of the run, it ends there, and what was to begin at its end
    begins there too. All others stay as they are written. Where there is no room for
    two steps the run begins at its full rate.

    Args:
        runner: The runner; its schedules must not be built yet, or they stay.
        iterations: Length of the run.
        epoch_length: Iterations in an epoch.

    Raises:
        ValueError: If a schedule would begin after the end of the run.
    """
    given: Any = runner.param_schedulers or []
    by_optimizer = isinstance(given, Mapping) and "type" not in given
    for group in given.values() if by_optimizer else [given]:
        schedules = group if isinstance(group, list) else [group]
        if not all(isinstance(schedule, dict) for schedule in schedules):
            continue
        for schedule in schedules:
            line = _shorten(schedule, schedules, iterations, epoch_length)
            if line:
                runner.logger.info(line)
        for number, schedule in enumerate(schedules):
            _check_begin(number, schedule, iterations, epoch_length)


def _shorten(
    warm_up: dict[str, Any],
    schedules: Sequence[dict[str, Any]],
    iterations: int,
    epoch_length: int,
) -> str | None:
    """Shortens one schedule, if it is a warm-up; returns what to log."""
    if not _is_warm_up(warm_up):
        return None
    unit, length = _unit_and_length(warm_up, iterations, epoch_length)
    written = warm_up["end"]
    followers = [
        other
        for other in schedules
        if other.get("begin", 0) == written
        and _unit_and_length(other, iterations, epoch_length) == (unit, length)
    ]
    steps = int(written * unit)
    # Without a follower it may be all that there is, as in a test of rates.
    shorter = min(steps, length // 2) if followers or steps > length else steps
    if shorter == steps >= _SHORTEST:
        return None
    if shorter < _SHORTEST:
        shorter = 0
        warm_up["start_factor"] = warm_up.get("end_factor", 1.0)
    # The half keeps MMEngine's product with the unit from being rounded down.
    end = shorter if unit == 1 else (shorter + 0.5) / unit
    warm_up["end"] = end if shorter else 1
    for other in followers:
        other["begin"] = end if shorter else 0
    return (
        f"The warm-up of {steps} steps is too long for a run of {length}: it takes "
        f"{shorter}."
    )


def _is_warm_up(schedule: Mapping[str, Any]) -> bool:
    kind = schedule.get("type")
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    rises = schedule.get("start_factor", 1 / 3) < schedule.get("end_factor", 1.0)
    starts = not schedule.get("begin", 0) and "end" in schedule
    return name.rpartition(".")[2] == "LinearLR" and rises and starts


def _unit_and_length(
    schedule: Mapping[str, Any], iterations: int, epoch_length: int
) -> tuple[int, int]:
    """Steps in a unit of ``begin`` and ``end``, and steps in the run."""
    if not schedule.get("by_epoch", True):
        return 1, iterations
    if schedule.get("convert_to_iter_based"):
        return epoch_length, iterations
    return 1, iterations // epoch_length


def _check_begin(
    number: int, schedule: Mapping[str, Any], iterations: int, epoch_length: int
) -> None:
    unit, length = _unit_and_length(schedule, iterations, epoch_length)
    begin = schedule.get("begin", 0)
    if begin and "end" not in schedule and int(begin * unit) >= length:
        raise ValueError(
            f"param_scheduler.{number} ({schedule.get('type')}) begins at {begin}, "
            f"which is step {int(begin * unit)} of a run of {length}; set a smaller "
            f"param_scheduler.{number}.begin or a larger train_cfg.max_epochs "
            "(max_iters)."
        )
