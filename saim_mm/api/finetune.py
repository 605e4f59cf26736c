"""Trains a classifier on folders of classes, from a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from .._hub import shipped_config
from ..datasets.channel_preprocessor import are_colours
from ..datasets.class_folders import ClassImages, split_class_folders
from ..evaluation.encoders import build_encoder
from ..models import SAIMViT
from ..utils.atomic_file import write_atomically
from ..utils.progress_line import ProgressLine
from ..weights import CheckpointError, read_state_dict, write_state_dict
from ._child import Block, child_text
from ._finetune_config import BASE, METRIC, TAIL, finetune_blocks
from ._found_images import typical_side
from ._machine import Machine, this_machine
from ._own_run import OwnRun, check_at_least, default_folder, with_options
from ._rule import EncoderSize, FinetunePlan, Steps, plan_finetuning
from ._trial_steps import fit_to_memory, saving_interval


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning left.

    Attributes:
        folder: With logs and checkpoints.
        config: What it ran, as a child of a shipped config.
        classifier: The weights of the best epoch, in mmpretrain's names, with the
            names of the classes under ``meta``.
        classes: Their names; a label is an index into them.
        best: Accuracy in percent on the images of ``val``, of the best epoch.
        last: The same, of the last epoch.
    """

    folder: Path
    config: Path
    classifier: Path
    classes: tuple[str, ...]
    best: float
    last: float


def finetune(
    encoder: str | Path,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    val_share: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    seed: int = 0,
    cfg_options: Sequence[str] = (),
    progress: ProgressLine | None = None,
) -> Finetuned:
    """Trains an encoder and a linear layer on labelled images; called again, goes on.

    What is not given follows from the images and the machine, by the rule of
    ``docs/pretrain_your_images.md``.

    Args:
        encoder: A checkpoint of SAIM pretraining, or a bare encoder, of any size.
        folder: Has ``train/CLASS/`` and ``val/CLASS/`` (or ``test``).
        out: Where everything goes; by default ``work_dirs/finetune-of-FOLDER``.
        val_share: Split off this share of each class, if there is no val or test.
        epochs: How often each image is seen.
        batch_size: Images per optimiser step.
        workers: Processes that load images.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default a GPU if there is one.
        seed: Of weights and crops.
        cfg_options: ``KEY=VALUE`` pairs that override the config.
        progress: Where plan and steps are shown; by default in MMEngine's log.

    Returns:
        Where the results are, and the accuracies.

    Raises:
        ValueError: For images, options, weights or a folder that cannot be used.
        OSError: If something cannot be read or written.
        SystemExit: With code 75, if a signal (Ctrl-C) ended the run and it was saved.
    """
    check_at_least(1, epochs=epochs, batch_size=batch_size)
    check_at_least(0, workers=workers, seed=seed)
    images = Path(folder).expanduser().absolute()
    checkpoint = Path(encoder).expanduser().absolute()
    asked = dict(
        encoder=str(checkpoint),
        folder=str(images),
        val_share=val_share,
        epochs=epochs,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        cfg_options=list(cfg_options),
    )
    target = default_folder("finetune", images) if out is None else Path(out)
    run = OwnRun("finetune", target, asked)
    machine = this_machine(device)
    if run.begun:
        said = [f"Going on as {run.config} says."]
    else:
        said = _begin(run, checkpoint, images, machine)
    if progress is not None:
        progress.say("\n".join(said))
    return _results(run, run.train(progress))


def _begin(run: OwnRun, checkpoint: Path, images: Path, machine: Machine) -> list[str]:
    """Chooses how to train and writes the config; returns what was chosen."""
    vit, preprocessor = build_encoder(checkpoint)
    size = _size(vit, checkpoint)
    if not are_colours(vit.patch_embed.projection.in_channels, preprocessor):
        raise ValueError(
            f"{checkpoint}: an encoder of images that are no photographs, and this "
            "recipe changes colours; judge it by knn or probe, or write a config."
        )
    assert size.image_size is not None
    train, val = split_class_folders(images, vit.img_size, run.asked["val_share"])
    if len(train.classes) < 2:
        raise ValueError(
            f"{images}: one class, {train.classes[0]!r}; a classifier needs two or "
            "more."
        )
    for part in (train, val):
        typical_side([path for path, _ in part.samples])  # some must load
    asked = run.asked
    plan = plan_finetuning(
        len(train),
        size,
        machine,
        epochs=asked["epochs"],
        batch_size=asked["batch_size"],
        workers=asked["workers"],
    )
    if plan.steps.batch > len(train):
        raise ValueError(
            f"batch_size={plan.steps.batch}, and there are {len(train)} images to "
            "learn from; give at most as many."
        )
    base = shipped_config(BASE)
    parent = Config.fromstring(f"_base_ = {base!r}\n", ".py")
    lists = {name: (run.folder / f"{name}.txt").absolute() for name in ("train", "val")}

    def blocks_of(steps: Steps, interval: int = 1) -> Block:
        blocks = finetune_blocks(
            replace(plan, steps=steps),
            parent,
            vit,
            checkpoint,
            train.classes,
            lists,
            asked["seed"],
            interval,
        )
        return with_options(blocks, asked["cfg_options"])

    def config_of(steps: Steps) -> Config:
        return Config.fromstring(child_text(base, blocks_of(steps)), ".py")

    steps, seconds = fit_to_memory(
        config_of, plan.steps, size.image_size, machine.device
    )
    iterations = len(train) // steps.at_once * plan.epochs
    interval = saving_interval(seconds, iterations)
    for part, path in zip((train, val), lists.values(), strict=True):
        _write_list(part, path)
    run.write_config(base, blocks_of(steps, interval), TAIL)
    fitted = replace(plan, steps=steps)
    minutes = seconds * iterations / 60
    return _describe(fitted, len(train), len(val), train.classes, machine, minutes)


def _size(vit: SAIMViT, checkpoint: Path) -> EncoderSize:
    """The sizes of the classifier's encoder."""
    (rows, columns), patch = vit.img_size, vit.patch_embed.projection.kernel_size
    if rows != columns or patch[0] != patch[1]:
        raise CheckpointError(
            f"{checkpoint}: images of {rows} x {columns} and patches of {patch} "
            "pixels; this goes on with square ones only. Write a config for it."
        )
    return EncoderSize(vit.embed_dims, vit.num_layers, patch[0], rows)


def _write_list(part: ClassImages, path: Path) -> None:
    """What :class:`~mmpretrain.datasets.CustomDataset` reads: path and label."""
    text = "".join(f"{image} {label}\n" for image, label in part.samples)
    write_atomically(path, lambda file: file.write(text.encode()))


def _describe(
    plan: FinetunePlan,
    learnt: int,
    judged: int,
    classes: Sequence[str],
    machine: Machine,
    minutes: float,
) -> list[str]:
    """What was chosen and why, a line each."""
    steps = plan.steps
    return [
        f"{learnt} images of {len(classes)} classes to learn from, {judged} to judge.",
        f"{plan.epochs} epochs of batches of {steps.batch} images ({steps.at_once} at "
        f"once), rate {plan.lr:g} after {plan.warm_up} epochs of warm-up.",
        f"On {machine.device}: {steps.precision}, {steps.workers} workers; at most "
        f"about {minutes:.0f} minutes, from one step.",
    ]


def _results(run: OwnRun, runner: Runner) -> Finetuned:
    """Writes the best epoch's weights beside the run, and reads off the accuracies."""
    info, scalars = runner.message_hub.runtime_info, runner.message_hub.log_scalars
    best = Path(info["best_ckpt"])
    classes = tuple(runner.train_loop.dataloader.dataset.metainfo["classes"])
    classifier = run.folder / "classifier.pth"
    write_state_dict(classifier, read_state_dict(best), meta=dict(classes=classes))
    return Finetuned(
        folder=run.folder,
        config=run.config,
        classifier=classifier,
        classes=classes,
        best=float(info["best_score"]),
        last=float(scalars[f"val/{METRIC}"].current()),
    )
