"""Stores how far a run has come in its data, and makes its steps repeatable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.optim import Optimizer

from ..datasets import ExactSampler, SeedSample
from ..registry import register
from ..weights.files import CheckpointError
from .exact_loops import (
    DataPosition,
    ExactEpochLoop,
    ExactIterLoop,
    ExactLoop,
    global_batch_size,
    seed_training_step,
)
from .inner_datasets import with_inner_datasets
from .resumed_settings import KERNELS, apply_config

#: Where a checkpoint has what :meth:`ExactResumeHook.before_save_checkpoint` writes.
STATE_KEY = "exact_resume"
#: Of what stands there, what a resumed run should not change.
_DIFFERENCES = {
    "global_batch_size": "an iteration takes {now} images and took {was}. The order of "
    "images goes on, and in a loop of epochs the schedules; else they count "
    "iterations. Set batch_size so that processes x batch_size is {was}",
    "dataset_length": "the dataset holds {now} images and held {was}; they come in "
    "another order from here on",
    "accumulation": "a step accumulates {now} iterations and accumulated {was}",
}


@register("hook")
class ExactResumeHook(Hook):
    """Makes a resumed run equal to one that was never interrupted, bit for bit.

    Before each iteration it seeds all generators from (seed, rank, iteration), so that
    no state of theirs needs to be stored. Every checkpoint, whoever asks for it and
    when, gets the position in the data; the loop then begins there.

    Together with :class:`ExactSampler`, :class:`ExactEpochLoop` or
    :class:`ExactIterLoop`, and for datasets other than :class:`UnlabeledImages`,
    :class:`SeedSample`. Without them it seeds the steps and says what is missing.

    Where the config says another rate, decay or schedule than the checkpoint, or is for
    a run of another length, the config counts (:mod:`.resumed_settings`).

    Args:
        without_optimizer: Go on, too, from a checkpoint without the optimiser's state.
    """

    # Before all that draws random numbers or writes a checkpoint.
    priority = "VERY_HIGH"

    def __init__(self, without_optimizer: bool = False) -> None:
        self.without_optimizer = without_optimizer
        self._begun = False
        self._loop: ExactLoop | None = None
        self._position = DataPosition()
        self._iteration = 0
        self._loaded: dict[str, Any] | None = None
        self._seed = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of a run that is resumed, and makes it learn as the config.

        The optimiser keeps the kernel that it was built with: another machine may have
        written the checkpoint, with or without a GPU.

        Raises:
            CheckpointError: If a run is resumed without its optimiser, or with one of
                another kind.
        """
        self._loaded = checkpoint.get(STATE_KEY)
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)
        if not isinstance(optimizer, Optimizer):  # a config as long as nothing trains
            return
        for group in (checkpoint.get("optimizer") or {}).get("param_groups", ()):
            known = group.keys() & optimizer.defaults.keys() & KERNELS
            group.update({name: optimizer.defaults[name] for name in known})
        if getattr(runner, "_resume", False) and not self._begun:
            if "optimizer" not in checkpoint:
                self._begin_without(runner)
            done = _iterations_done(runner.train_loop, checkpoint)
            for difference in apply_config(runner, checkpoint, done):
                runner.logger.warning(f"not an exact resume: {difference}")

    def _begin_without(self, runner: Runner) -> None:
        lost = (
            f"{runner._load_from or 'the checkpoint'} holds no state of the optimiser "
            "(a published file, or one written with save_optimizer=False)"
        )
        if not self.without_optimizer:
            raise CheckpointError(
                f"{lost}. To go on all the same, with an optimiser that has seen "
                "nothing, set default_hooks.exact_resume.without_optimizer=True; to "
                "begin a new run from the weights, load_from=CHECKPOINT without "
                "resuming."
            )
        runner.logger.warning(f"not an exact resume: {lost}; it begins anew")

    def before_train(self, runner: Runner) -> None:
        """Sets the loop to where the run goes on, if it goes on."""
        self._begun = True
        loop = runner.train_loop
        self._iteration = loop.iter
        self._loop = loop if isinstance(loop, ExactLoop) else None
        if self._loop is None:
            self._seed = runner.seed or 0
            runner.logger.warning(_not_exact(runner))
            return
        datasets = with_inner_datasets(loop.dataloader.dataset)
        for dataset in filter(_lacks_seeds, datasets):
            runner.logger.warning(
                f"{type(dataset).__name__} will crop and flip differently when resumed;"
                " put dict(type='SeedSample') first in its pipeline"
            )
        # By what MMEngine restores: an epoch's start, or iterations.
        self._position = DataPosition(loop.epoch)
        if isinstance(loop, ExactIterLoop):
            images = loop.iter * global_batch_size(loop.dataloader)
            self._position = DataPosition(0, loop.iter, images)
        if self._iteration:
            self._resume(runner, self._loop)
        self._seed = self._loop.sampler.seed

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Seeds the generators of this process."""
        seed_training_step(self._seed, get_rank(), runner.iter)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Counts the iteration, before any hook writes a checkpoint."""
        self._iteration = runner.iter + 1
        if self._loop is not None:
            at, images = self._position, global_batch_size(self._loop.dataloader)
            self._position = replace(
                at, batches=at.batches + 1, samples=at.samples + images
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Counts the epoch; a loop over iterations has but one."""
        if isinstance(self._loop, ExactEpochLoop):
            self._position = DataPosition(epoch=runner.epoch + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the position, as plain numbers.

        ``meta`` is made to agree: what MMEngine puts there is wrong by one epoch if a
        hook that counts epochs saves in the middle of one.
        """
        if self._loop is None:
            return
        checkpoint["meta"].update(epoch=self._position.epoch, iter=self._iteration)
        checkpoint[STATE_KEY] = self._state(runner, self._loop)

    def _state(self, runner: Runner, loop: ExactLoop) -> dict[str, int]:
        """How far the run is, and what that depends on."""
        accumulation = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        unstepped = self._iteration % accumulation
        # The last step of a run is made of what there is.
        if unstepped and runner.optim_wrapper.should_update():
            unstepped = 0
        return dict(
            **asdict(self._position),
            seed=loop.sampler.seed,
            iteration=self._iteration,
            global_batch_size=global_batch_size(loop.dataloader),
            dataset_length=len(loop.sampler.dataset),
            accumulation=accumulation,
            unstepped=unstepped,
        )

    def _resume(self, runner: Runner, loop: ExactLoop) -> None:
        state = self._loaded or {}
        # Of another iteration: by a run without this hook, or none to be resumed.
        saved = state if state.get("iteration") == self._iteration else None
        now = self._state(runner, loop)
        self._position, pending, warnings = resume_point(saved, now)
        if saved is not None:
            loop.sampler.seed = saved["seed"]
        loop.resume_at(self._position, pending)
        for warning in warnings:
            runner.logger.warning(f"not an exact resume: {warning}")
        if saved is not None:
            runner.logger.info(
                f"resuming at {self._position}; the gradients of {pending} "
                "iterations that no step was made of are computed once more"
            )


def resume_point(
    saved: Mapping[str, int] | None, now: Mapping[str, int]
) -> tuple[DataPosition, int, list[str]]:
    """Where in its data a run goes on.

    Args:
        saved: What stands in the checkpoint, if it is of a run with the hook.
        now: The same of the run that goes on, at the position that its loop counts.

    Returns:
        The position; how many iterations before it wait for an optimiser step and are
        computed once more; and why this is no exact resume, a sentence each.
    """
    if saved is None:
        position = DataPosition(now["epoch"], now["batches"], now["samples"])
        lost = "the checkpoint holds no position in the data; going on with"
        return position, 0, [f"{lost} {position}"]
    batches, samples = saved["batches"], saved["samples"]
    same_batches = now["global_batch_size"] == saved["global_batch_size"]
    same_steps = same_batches and now["accumulation"] == saved["accumulation"]
    if not same_batches:
        batches = samples // now["global_batch_size"]
    position = DataPosition(saved["epoch"], batches, samples)
    differences = [
        sentence.format(now=now[name], was=saved[name])
        for name, sentence in _DIFFERENCES.items()
        if now[name] != saved[name]
    ]
    return position, saved["unstepped"] if same_steps else 0, differences


def _iterations_done(loop: BaseLoop, checkpoint: dict[str, Any]) -> int:
    """Iterations that a run has made, had its epochs always been as long as now."""
    meta, state = checkpoint["meta"], checkpoint.get(STATE_KEY) or {}
    if not isinstance(loop, EpochBasedTrainLoop):
        return meta["iter"]
    done = meta["epoch"] * len(loop.dataloader)
    if isinstance(loop, ExactEpochLoop) and state.get("iteration") == meta["iter"]:
        done += state["samples"] // global_batch_size(loop.dataloader)
    return done


def _lacks_seeds(dataset: Any) -> bool:
    """Whether a dataset's transforms draw numbers that no sample seeds."""
    transforms = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    seeded = any(isinstance(transform, SeedSample) for transform in transforms)
    return bool(transforms) and not (seeded or getattr(dataset, "seeds_samples", False))


def _not_exact(runner: Runner) -> str:
    sampler = getattr(runner.train_dataloader.batch_sampler, "sampler", None)
    loop = type(runner.train_loop).__name__
    remedy = "train_cfg=dict(type='ExactEpochLoop' or 'ExactIterLoop', ...)"
    if not isinstance(sampler, ExactSampler):
        remedy += " and train_dataloader.sampler=dict(type='ExactSampler')"
    return (
        f"{loop} cannot go on where a checkpoint was written, so a resumed run will "
        f"see other data than this one; set {remedy}"
    )
