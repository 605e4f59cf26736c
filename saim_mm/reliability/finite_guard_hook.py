"""Counts the steps that were not made, writes down why, and ends what cannot go on."""

from __future__ import annotations

import math
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..datasets import SampleIndex
from ..registry import register
from ..utils.atomic_file import write_json
from ..utils.model_state import unwrap_model
from ..weights.files import write_sealed
from ..weights.resume import GUARD_KEY, find_newest_of, why_not_finite
from ..weights.safe_loader import load_from_local
from .exact_loops import exact_sampler_of
from .expendable import attempt
from .finite_guard import AsyncFlag, FiniteGuard
from .sharding import load_whole, whole_state

#: Folder in the work dir.
FOLDER = "not_finite"
#: Steps left out after which only the last one of ``patience`` in a row is written
#: down: what comes and goes for ever must not fill the disk.
_RECORDED = 100
#: Steps after which the answer of a GPU is read; it is long there by then. A fixed
#: number, so that all processes read it at the same step.
_LAG = 2


class NotFiniteError(FloatingPointError):
    """Loss or gradients were not finite for too many steps in a row."""


class _Iteration(NamedTuple):
    """An iteration of a step; its samples are packed, and described if need be."""

    number: int
    samples: Sequence[Any]
    loss: Tensor | float


@register("hook")
class FiniteGuardHook(Hook):
    """Makes no step on a loss or gradient that is not finite, on any process.

    The first such step of a row, up to the hundredth step of a run, is written to
    ``not_finite`` in the work dir: the samples, the seeds and the weights, from which
    ``tools/analysis_tools/replay_step.py`` rebuilds it. After ``patience`` of
    them in a row the weights and the optimiser go back to the last good checkpoint,
    once, and the run goes on with the data that follow; the next time it ends.

    Args:
        patience: Steps in a row, without which a run can do.
        keep_weights: In how many records of a run the weights are kept too.

    Raises:
        ValueError: If ``patience`` is less than 1 or ``keep_weights`` less than 0.
    """

    # Before hooks that save: no checkpoint without the count.
    priority = "HIGH"

    def __init__(self, patience: int = 10, keep_weights: int = 3) -> None:
        if patience < 1 or keep_weights < 0:
            raise ValueError(
                f"patience={patience} must be at least 1 and keep_weights="
                f"{keep_weights} at least 0; 10 and 3 are the defaults"
            )
        self.patience = patience
        self.keep_weights = keep_weights
        self.skipped = 0
        self.in_a_row = 0
        self.rolled_back = False
        self._guard: FiniteGuard | None = None
        self._window: list[_Iteration] = []
        #: Steps, and whether their gradients were finite.
        self._unread: deque[tuple[list[_Iteration], AsyncFlag]] = deque()
        self._records = 0
        self._run = uuid.uuid4().hex  # of this run and of those that resume it

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """A resumed run goes on counting."""
        state = checkpoint.get(GUARD_KEY, {})
        self.skipped = state.get("skipped", 0)
        self.in_a_row = state.get("in_a_row", 0)
        self.rolled_back = state.get("rolled_back", False)
        self._run = state.get("run", self._run)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the counts, with the steps whose answers are on their way."""
        skipped, in_a_row = self.skipped, self.in_a_row
        for _, finite in self._unread:
            left_out = not finite.read()
            skipped, in_a_row = skipped + left_out, in_a_row + 1 if left_out else 0
        counts = dict(skipped=skipped, in_a_row=in_a_row, rolled_back=self.rolled_back)
        checkpoint[GUARD_KEY] = dict(**counts, run=self._run)

    def before_train(self, runner: Runner) -> None:
        """Begins to watch the optimiser."""
        self._guard = FiniteGuard(runner.optim_wrapper)
        self._window = []
        self._unread.clear()

    def after_train(self, runner: Runner) -> None:
        """Reads what is left, and ceases to watch."""
        self._read(runner, lag=0)
        if self._guard is not None:
            self._guard.remove()
            self._guard = None

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | Sequence | None = None,
    ) -> None:
        """Notes the iteration and, if a step was due, how it went."""
        assert self._guard is not None, "before_train comes first"
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else ()
        loss = outputs.get("loss", math.nan) if isinstance(outputs, dict) else math.nan
        self._window.append(_Iteration(runner.iter, samples or (), loss))
        finite = self._guard.take_answer()
        if finite is not None:
            self._unread.append((self._window, finite))
            self._window = []
            self._read(runner, lag=_LAG if finite.deferred else 0)

    def _read(self, runner: Runner, lag: int) -> None:
        """Reads the answers of all steps but the last few."""
        while len(self._unread) > lag:
            step, finite = self._unread.popleft()
            if finite.read():
                self.in_a_row = 0
            else:
                self._count(runner, step)

    def _count(self, runner: Runner, step: list[_Iteration]) -> None:
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == 1 or self.in_a_row == self.patience:
            where = self._write(runner, step)
            runner.logger.warning(
                f"iteration {step[-1].number + 1}: loss or gradient is not finite, "
                f"no step was made ({self.in_a_row} in a row, {self.skipped} in all); "
                f"{where}"
            )
        if self.in_a_row >= self.patience:
            self._roll_back(runner)

    def _roll_back(self, runner: Runner) -> None:
        """Takes weights and optimiser from the last good checkpoint, or ends the run.

        Raises:
            NotFiniteError: If that was done before, or there is none.
        """
        summary = (
            f"{self.in_a_row} steps in a row had a loss or gradient that is not finite "
            f"({self.skipped} in all); {Path(runner.work_dir) / FOLDER} has the "
            "samples: rebuild a step by tools/analysis_tools/replay_step.py"
        )
        if self.rolled_back:
            raise NotFiniteError(f"{summary}. Going back to a checkpoint did not help")
        found = find_newest_of(
            runner, lambda content: self._why_not_back_to(content, runner)
        )
        if found.path is None:
            none = f"{summary}. There is no checkpoint to go back to"
            raise NotFiniteError("; ".join([none, *found.skipped]))
        self._load_as_saved(runner, load_from_local(str(found.path), "cpu"))
        self.rolled_back, self.in_a_row = True, 0
        runner.logger.error(
            f"{summary}. Weights and optimiser are those of {found.path} again, the "
            "data go on; the next time the run ends"
        )

    def _load_as_saved(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Takes weights and optimiser from a checkpoint, as resuming would.

        Hooks that put other weights into a checkpoint, such as averaged ones, take out
        what was in the model, and theirs. This one goes on counting.
        """
        resuming, runner._resume = runner._resume, True
        try:
            for hook in runner.hooks:
                if hook is not self:
                    hook.after_load_checkpoint(runner, checkpoint)
        finally:
            runner._resume = resuming
        load_whole(checkpoint, unwrap_model(runner.model), runner.optim_wrapper)

    def _why_not_back_to(self, content: dict[str, Any], runner: Runner) -> str | None:
        """Why a checkpoint is none to go back to: another run's, or not healthy."""
        state = content.get(GUARD_KEY, {})
        if state.get("run") != self._run:
            return "it is another run's"
        if state.get("in_a_row"):
            return "it was written while steps were left out"
        own = unwrap_model(runner.model).state_dict()
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if {name: t.shape for name, t in content["state_dict"].items()} != shapes:
            return "it is of another model"
        return why_not_finite(content, runner.model)

    def _write(self, runner: Runner, step: list[_Iteration]) -> str:
        """Writes each process's record of a step; returns where it is, in words."""
        if self.skipped > _RECORDED and self.in_a_row < self.patience:
            return f"of the first {_RECORDED} {FOLDER} says which samples"
        folder = Path(runner.work_dir) / FOLDER
        name = f"iter_{step[-1].number + 1}"
        path = folder / f"{name}_rank_{get_rank()}.json"
        weights = None
        self._records += 1
        if self._records <= self.keep_weights:
            state = whole_state(unwrap_model(runner.model).state_dict())
            file = folder / f"{name}_weights.pth"
            if not is_main_process() or attempt(
                runner.logger, folder, write_sealed, file, state
            ):
                weights = file.name
        scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
        record = dict(
            iterations=[iteration.number for iteration in step],
            rank=get_rank(),
            world_size=get_world_size(),
            seed=_seed_of(runner),
            losses=[float(iteration.loss) for iteration in step],
            weights=weights,
            # On a GPU the answer is read late; steps since then may have been made.
            weights_after_iteration=runner.iter,
            loss_scale=1.0 if scaler is None else float(scaler.get_scale()),
            samples=[_describe(iteration.samples) for iteration in step],
        )
        written = attempt(
            runner.logger, folder, write_json, path, record, indent=1, end=""
        )
        return f"{path} says which samples" if written else "there is no record of it"


def _describe(samples: Sequence[Any]) -> list[dict[str, Any]]:
    """What identifies the samples of a batch, as far as they carry it."""
    described = []
    for sample in samples:
        index = sample.get("sample_idx")
        entry: dict[str, Any] = {} if index is None else {"index": int(index)}
        if isinstance(index, SampleIndex):
            entry.update(seed=index.seed, epoch=index.epoch, requested=index.requested)
        files = {name: sample.get(name) for name in ("img_path", "img_id")}
        described.append(entry | {k: v for k, v in files.items() if v is not None})
    return described


def _seed_of(runner: Runner) -> int:
    """The seed that the steps were seeded from (:class:`ExactResumeHook`)."""
    try:
        return exact_sampler_of(runner.train_dataloader).seed
    except ValueError:
        return runner.seed or 0
