"""A resumed run learns as its config says, whatever its checkpoint did.

MMEngine takes learning rate, weight decay and schedules from the checkpoint. Here the
config counts where they differ, and the schedules go on from where they would be, had
they been those of the config from the start.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..weights.files import CheckpointError
from .weights_only_codec import decode

#: What an optimiser stores although it belongs to the machine: its kernel.
KERNELS = frozenset({"fused", "foreach"})
#: One of these is in the groups of one kind of optimiser and not in another's.
_KINDS = ("betas", "momentum", "alpha", "rho")
#: What a scheduler stores besides its settings.
_PROGRESS = {"last_step", "_global_step", "_last_value", "base_values", "verbose"}


def apply_config(runner: Runner, checkpoint: dict[str, Any], done: int) -> list[str]:
    """Puts what the config says into a checkpoint that is about to be resumed.

    Args:
        runner: Optimiser and schedules are built, and have made no step yet.
        checkpoint: Changed in place, if it differs.
        done: Iterations that the run has made, in epochs of the present length.

    Returns:
        What differs, a sentence each; nothing is changed if there is none.

    Raises:
        CheckpointError: If the optimiser is of another kind or has other parameters,
            or a schedule that depends on results of validation would have to go on.
    """
    optimizer = runner.optim_wrapper.optimizer
    schedules = runner.param_schedulers or []
    if not isinstance(schedules, list):  # of several optimisers
        return []
    saved = (checkpoint.get("optimizer") or {}).get("param_groups")
    states = decode(checkpoint.get("param_schedulers", []))
    found = [] if saved is None else _changed_groups(optimizer, saved)
    found += _changed_schedules(schedules, states)
    if not found and saved is not None:
        return []
    length = max(len(runner.train_loop.dataloader), 1)
    _replay(schedules, done, checkpoint["meta"]["epoch"], length)
    if "param_schedulers" in checkpoint:
        checkpoint["param_schedulers"] = [s.state_dict() for s in schedules]
    if saved is not None:
        # The last group of the wrapper stands for the rates without factors.
        base = checkpoint["optimizer"].get("base_param_settings")
        olds = saved if base is None else [*saved, base]
        for group, old in zip(runner.optim_wrapper.param_groups, olds, strict=False):
            old.update({k: v for k, v in group.items() if k != "params"})
    return found


def _changed_groups(optimizer: Optimizer, saved: Sequence[dict]) -> list[str]:
    groups = optimizer.param_groups
    sizes = [[len(group["params"]) for group in some] for some in (groups, saved)]
    kinds = [[name in some[0] for name in _KINDS] for some in (groups, saved)]
    if sizes[0] != sizes[1] or kinds[0] != kinds[1]:
        raise CheckpointError(
            "the checkpoint cannot be resumed: its optimiser has groups of "
            f"{sizes[1]} parameters and options {sorted(saved[0].keys() - {'params'})},"
            f" and this run's {type(optimizer).__name__} has groups of {sizes[0]}. Set "
            "optim_wrapper.optimizer.type and optim_wrapper.paramwise_cfg as they "
            "were, or begin a new run from its weights: load_from=CHECKPOINT without "
            "resuming."
        )
    found = []
    for name in optimizer.defaults.keys() - KERNELS:
        key = f"initial_{name}" if f"initial_{name}" in groups[0] else name
        pairs = [
            (_plain(new[key]), _plain(old[key]))
            for new, old in zip(groups, saved, strict=True)
            if key in old and _plain(new[key]) != _plain(old[key])
        ]
        if pairs:
            new, old = max(pairs, key=str)
            found.append(_sentence(f"optimizer.{name}", {name: (new, old)}))
    return sorted(found)


def _changed_schedules(
    schedules: Sequence[_ParamScheduler], saved: Sequence[dict[str, Any]]
) -> list[str]:
    if len(schedules) != len(saved):
        counts = {"schedules": (len(schedules), len(saved))}
        return [_sentence("param_scheduler", counts)]
    found = []
    for number, (schedule, old) in enumerate(zip(schedules, saved, strict=True)):
        # An option that only the checkpoint has is of another kind of schedule.
        new = dict.fromkeys(old) | schedule.state_dict()
        changed = {
            name: (new[name], old[name])
            for name in sorted(old.keys() - _PROGRESS)
            if _plain(new[name]) != _plain(old[name])
        }
        if changed:
            found.append(_sentence(f"param_scheduler.{number}", changed))
    return found


def _sentence(what: str, values: Mapping[str, tuple[Any, Any]]) -> str:
    listed = ", ".join(f"{k} {new} (was {old})" for k, (new, old) in values.items())
    return f"{what} of the config differs from the checkpoint's and counts: {listed}"


def _replay(
    schedules: Sequence[_ParamScheduler], iterations: int, epochs: int, length: int
) -> None:
    """Takes schedules that were just built to a place in the run."""
    if any(getattr(schedule, "need_val_args", False) for schedule in schedules):
        raise CheckpointError(
            "the config differs from the checkpoint, and a schedule that depends on "
            "results of validation cannot be moved to where the run is; undo the "
            "change of optim_wrapper or param_scheduler."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser makes no steps
        for done in range(1, iterations + 1):
            epoch_ends = done % length == 0 and done <= epochs * length
            # As MMEngine's hook: those by epochs after all the others.
            for by_epoch in (False, True)[: 1 + epoch_ends]:
                for schedule in schedules:
                    if schedule.by_epoch is by_epoch:
                        schedule.step()


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
