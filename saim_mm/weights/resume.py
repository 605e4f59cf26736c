"""Finds the newest checkpoint that a run can go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner
from torch import Tensor, nn

from ..utils.model_state import unwrap_model
from .files import CheckpointError, read_torch

#: What :meth:`mmengine.runner.Runner.resume` needs.
_NEEDED = ("meta", "message_hub", "state_dict")


@dataclass
class ResumeCandidate:
    """What :func:`find_newest` found.

    Attributes:
        path: The newest checkpoint that verifies, if there is one.
        skipped: Newer ones, newest first, each with the reason.
    """

    path: Path | None = None
    skipped: list[str] = field(default_factory=list)


def verify_checkpoint(path: str | Path) -> None:
    """Checks that a file is as it was written, and loads without running code.

    Args:
        path: A checkpoint. Without a checksum of ours, those of the ZIP archive count.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, no checkpoint, or wants to run code.
    """
    read_torch(Path(path), mmap=True)


def why_not_finite(content: Mapping[str, Any], model: nn.Module) -> str | None:
    """Names a parameter of a checkpoint that is not finite, if one is not.

    Args:
        content: A checkpoint of the model.
        model: Tells parameters from buffers, which may hold infinities.
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
) -> ResumeCandidate:
    """Finds the newest checkpoint of a run that verifies.

    Newest is what was written last. Files named ``best_*`` and those without what
    resuming needs, such as published ones, do not count.

    Args:
        work_dir: Folder of the run. Its ``last_checkpoint`` may lead to another one,
            that of ``CheckpointHook``'s ``out_dir``.
        refuse: Says why a checkpoint is not to be taken, or ``None``.
    """
    work_dir, newest = Path(work_dir), ResumeCandidate()
    folders = {work_dir}
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        folders.add(Path(pointer.read_text(errors="replace").strip()).parent)
    found = {
        path.resolve(): path.stat().st_mtime_ns
        for folder in folders
        for path in folder.glob("*.pth")
        if path.is_file() and not path.name.startswith("best_")
    }
    for path in sorted(found, key=lambda path: found[path], reverse=True):
        try:
            content = read_torch(path, mmap=True)
        except (CheckpointError, OSError) as error:
            newest.skipped.append(str(error))
            continue
        if isinstance(content, dict) and all(key in content for key in _NEEDED):
            reason = refuse(content)
            if reason is None:
                newest.path = path
                break
            newest.skipped.append(f"{path}: {reason}")
    return newest


def resume_from_newest(runner: Runner) -> None:
    """Makes a run go on from its newest good checkpoint, or begin if it has none.

    Without one the run starts as if it were not told to resume, from ``load_from`` if
    its config names that. To be called before the runner loads anything. One process
    looks, and tells the others.

    Args:
        runner: The runner.

    Raises:
        CheckpointError: If there are checkpoints, and none of them is good.
    """
    newest = ResumeCandidate()
    if is_main_process():
        newest = find_newest(
            runner.work_dir, lambda content: why_not_finite(content, runner.model)
        )
    answer: list[Any] = [newest]
    broadcast_object_list(answer)
    newest = answer[0]
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
