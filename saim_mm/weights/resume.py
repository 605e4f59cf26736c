"""Finds the newest checkpoint that a run can go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import Tensor, nn

from ..utils.model_state import unwrap_model
from .files import CheckpointError, read_torch

#: What :meth:`mmengine.runner.Runner.resume` needs.
_NEEDED = {"meta", "message_hub", "state_dict"}
#: Where ``FiniteGuardHook`` says in a checkpoint which run it is of.
GUARD_KEY = "finite_guard"
_LONGEST_PATH = 4096


@dataclass
class ResumeCandidate:
    """What :func:`find_newest` found.

    Attributes:
        path: The newest checkpoint that verifies, if there is one.
        skipped: Newer ones, and those that cannot be read, each with the reason.
    """

    path: Path | None = None
    skipped: list[str] = field(default_factory=list)


def verify_checkpoint(path: str | Path) -> None:
    """Checks that a file is as it was written, and loads without running code.

    Without a checksum of ours, those of the ZIP archive count.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, no checkpoint, or wants to run code.
    """
    read_torch(Path(path), mmap=True)


def why_not_finite(content: Mapping[str, Any], model: nn.Module) -> str | None:
    """Names a parameter of a checkpoint that is not finite, if one is not.

    The model tells parameters from buffers, which may hold infinities.
    """
    state, optimizer = content.get("state_dict", {}), content.get("optimizer") or {}
    averaged = content.get("ema_state_dict", {})
    named = [
        (name, weights.get(key))
        for name, _ in unwrap_model(model).named_parameters()
        for weights, key in ((state, name), (averaged, f"module.{name}"))
    ]
    for index, values in optimizer.get("state", {}).items():
        named += [(f"optimizer {key} {index}", v) for key, v in values.items()]
    for name, tensor in named:
        if isinstance(tensor, Tensor) and not tensor.isfinite().all():
            return f"{name} is not finite"
    return None


def find_newest(
    work_dir: str | Path,
    refuse: Callable[[dict[str, Any]], str | None] = lambda content: None,
    out_dir: str | Path | None = None,
) -> ResumeCandidate:
    """Finds the newest checkpoint of a run that verifies.

    Newest is what holds the most iterations, whatever clocks say. Of several runs in a
    folder it is the last one's: of the file that ``last_checkpoint`` names if it lies
    here, or else of the one written last. Files named ``best_*`` and those without what
    resuming needs, such as published ones, do not count.

    Args:
        work_dir: Folder of the run.
        refuse: Says why a checkpoint is not to be taken, or ``None``.
        out_dir: Another folder, into which the run writes its checkpoints.
    """
    newest = ResumeCandidate()
    for path in _newest_first(Path(work_dir), out_dir, newest.skipped):
        try:
            reason = refuse(read_torch(path, mmap=True))
            if reason is None:
                newest.path = path
                break
            newest.skipped.append(f"{path}: {reason}")
        except Exception as error:  # whatever it is, an older one may be good
            newest.skipped.append(_failure(path, error))
    return newest


def find_newest_of(
    runner: Runner, refuse: Callable[[dict[str, Any]], str | None]
) -> ResumeCandidate:
    """As :func:`find_newest`, of a runner. One process looks, and tells the others.

    On a network disk the others may see an older folder.
    """
    found: list[Any] = [None]
    if is_main_process():
        found[0] = find_newest(runner.work_dir, refuse, _out_dir(runner))
    broadcast_object_list(found)
    return found[0]


class _Held(NamedTuple):
    run: Any
    iteration: int
    written: int
    path: Path


def _newest_first(
    work_dir: Path, out_dir: str | Path | None, skipped: list[str]
) -> list[Path]:
    """The checkpoints of a run, unverified; names those that cannot be looked into."""
    found = []
    for folder in {work_dir.absolute(), Path(out_dir or work_dir).absolute()}:
        for path in sorted(folder.glob("*.pth")):
            try:
                if not path.is_file() or path.name.startswith("best_"):
                    continue
                content = read_torch(path, mmap=is_zipfile(path), check=False)
                if isinstance(content, dict) and content.keys() >= _NEEDED:
                    run = content.get(GUARD_KEY, {}).get("run")
                    iteration = int(content["meta"]["iter"])
                    written = path.stat().st_mtime_ns
                    found.append(_Held(run, iteration, written, path))
            except Exception as error:
                skipped.append(_failure(path, error))
    if not found:
        return []
    noted = _noted_last(work_dir)
    latest = max(found, key=lambda held: (held.written, held.iteration))
    last = next((held for held in found if str(held.path) == noted), latest)
    found.sort(key=lambda held: (held.run == last.run, held.iteration, held.written))
    return [held.path for held in reversed(found)]


def _noted_last(work_dir: Path) -> str:
    """What ``last_checkpoint`` says; a hint, which may be missing or anything."""
    note = work_dir / "last_checkpoint"
    with suppress(OSError):
        if note.is_file():
            with note.open(errors="replace") as file:
                return file.read(_LONGEST_PATH).strip()
    return ""


def _failure(path: Path, error: Exception) -> str:
    text = str(error)
    return text if str(path) in text else f"{path}: {type(error).__name__}: {text}"


def _out_dir(runner: Runner) -> Path | None:
    """Where the checkpoints of a run go, if not into its work dir."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.out_dir is not None:
            folder = Path(hook.out_dir)
            # The hook adds the name when training begins.
            begun = "file_backend" in vars(hook)
            return folder if begun else folder / Path(runner.work_dir).name
    return None


def resume_from_newest(runner: Runner) -> None:
    """Makes a run go on from its newest good checkpoint, or begin if it has none.

    Without one the run starts as if it were not told to resume, from ``load_from`` if
    its config names that. To be called before the runner loads anything.

    Args:
        runner: The runner.

    Raises:
        CheckpointError: If there are checkpoints, and none of them is good.
    """
    newest = find_newest_of(
        runner, lambda content: why_not_finite(content, runner.model)
    )
    for reason in newest.skipped:
        runner.logger.error(f"not resumed from: {reason}")
    if newest.path is not None:
        runner.logger.info(f"resuming from {newest.path}, which verifies")
        runner._resume, runner._load_from = True, str(newest.path)
    elif newest.skipped:
        raise CheckpointError(
            f"{runner.work_dir}: none of its {len(newest.skipped)} checkpoints is "
            "good, for the reasons in the log. To train from the beginning, move them "
            "away or give another work dir."
        )
    else:
        runner.logger.info(f"{runner.work_dir} holds no checkpoint yet: starting anew")
        runner._resume = False
