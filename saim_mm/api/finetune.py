"""Trains a classifier on folders of classes, from a pretrained encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from .._hub import shipped_config
from ..datasets.channel_preprocessor import are_colours
from ..datasets.class_folders import split_class_folders
from ..evaluation.encoders import build_encoder
from ..models import SAIMViT
from ..utils.atomic_file import write_text
from ..utils.command_line import counted
from ..utils.progress_line import ProgressLine
from ..weights import read_state_dict, write_state_dict
from ._child import Block, arch_of
from ._found_images import typical_side
from ._machine import Machine, this_machine
from ._own_run import OwnRun
from ._pretrain_config import arch_block, hooks_block, optim_block
from ._rule import FinetunePlan, plan_finetuning
from ._start_weights import size_to_keep

_BASE = "saim/benchmarks/vit-b_finetune_100e_in1k.py"
_METRIC = "accuracy/top1"
#: `tools/test.py` judges on the same images as training does.
_TAIL = "test_dataloader = val_dataloader\ntest_evaluator = val_evaluator\n"
#: Share of the resized image's short edge that is judged, as of 224 of 256 pixels.
_CROP_RATIO = 224 / 256


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

    Raises:
        ValueError: For images, options, weights or a folder that cannot be used.
        OSError: If something cannot be read or written.
        SystemExit: With code 75, if a signal (Ctrl-C) ended the run and it was saved.
    """
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
    run = OwnRun("finetune", images, out, asked)
    machine = this_machine(device)
    said = [f"Going on as {run.config} says."] if run.begun else _begin(run, machine)
    runner = run.train(said, progress)
    info, scalars = runner.message_hub.runtime_info, runner.message_hub.log_scalars
    classes = tuple(runner.train_loop.dataloader.dataset.metainfo["classes"])
    classifier = run.folder / "classifier.pth"
    best = read_state_dict(Path(info["best_ckpt"]))
    write_state_dict(classifier, best, meta=dict(classes=classes))
    return Finetuned(
        folder=run.folder,
        config=run.config,
        classifier=classifier,
        classes=classes,
        best=float(info["best_score"]),
        last=float(scalars[f"val/{_METRIC}"].current()),
    )


def _begin(run: OwnRun, machine: Machine) -> list[str]:
    """Chooses how to train and writes the config; returns what was chosen."""
    asked = run.asked
    checkpoint, images = Path(asked["encoder"]), Path(asked["folder"])
    vit, preprocessor = build_encoder(checkpoint)
    size = size_to_keep(vit, checkpoint)
    if not are_colours(vit.patch_embed.projection.in_channels, preprocessor):
        raise ValueError(
            f"{checkpoint}: an encoder of images that are no photographs, and this "
            "recipe changes colours; judge it by knn or probe, or write a config."
        )
    train, val = split_class_folders(images, vit.img_size, asked["val_share"])
    if len(train.classes) < 2:
        raise ValueError(
            f"{images}: one class, {train.classes[0]!r}; a classifier needs two or "
            "more."
        )
    for part in (train, val):
        typical_side([path for path, _ in part.samples])  # some must load
    plan = plan_finetuning(len(train), size, machine, **run.instead)
    if plan.steps.batch > len(train):
        raise ValueError(
            f"batch_size={plan.steps.batch}, and there are {len(train)} images to "
            "learn from; give at most as many."
        )
    base = shipped_config(_BASE)
    parent = Config.fromstring(f"_base_ = {base!r}\n", ".py")
    lists = {name: (run.folder / f"{name}.txt").absolute() for name in ("train", "val")}

    def blocks_of(plan: FinetunePlan, interval: int) -> Block:
        return _blocks(plan, parent, vit, asked, train.classes, lists, interval)

    plan, config, said = run.fitted(base, plan, blocks_of, machine, _TAIL)
    for part, path in zip((train, val), lists.values(), strict=True):
        text = "".join(f"{image} {label}\n" for image, label in part.samples)
        write_text(path, text)
    write_text(run.config, config)
    steps = plan.steps
    warm_up = min(plan.warm_up, plan.epochs / 2)  # as the exact loops shorten it
    return [
        f"{len(train)} images of {len(train.classes)} classes to learn from, "
        f"{len(val)} to judge.",
        f"{counted(plan.epochs, 'epoch')} of batches of "
        f"{counted(steps.batch, 'image')} ({steps.at_once} at once), rate {plan.lr:g} "
        f"after {counted(warm_up, 'epoch')} of warm-up.",
        said,
    ]


def _blocks(
    plan: FinetunePlan,
    base: Config,
    encoder: SAIMViT,
    asked: Mapping[str, Any],
    classes: Sequence[str],
    lists: dict[str, Path],
    interval: int,
) -> Block:
    """The settings of a child of :data:`_BASE`; it saves after ``interval`` steps."""
    side, patch = encoder.img_size[0], encoder.patch_embed.projection.kernel_size[0]
    number = len(classes)
    sizes = dict(
        LoadRandomResizedCrop=dict(scale=side),
        ResizeEdge=dict(scale=round(side / _CROP_RATIO)),
        CenterCrop=dict(crop_size=side),
    )

    def dataset(parent: ConfigDict, listed: Path) -> Block:
        """Images by a list: mmpretrain takes hidden and empty folders for classes."""
        steps = [step.to_dict() for step in parent.dataset.pipeline]
        return dict(
            _delete_=True,
            type="CustomDataset",
            data_root="",
            ann_file=str(listed),
            metainfo=dict(classes=list(classes)),
            pipeline=[{**step, **sizes.get(step["type"], {})} for step in steps],
        )

    learnt = dataset(base.train_dataloader, lists["train"])
    judged = dataset(base.test_dataloader, lists["val"])
    rise, cosine = (scheduler.to_dict() for scheduler in base.param_scheduler)
    judging = dict(batch_size=plan.steps.at_once, num_workers=plan.steps.workers)
    return dict(
        data_preprocessor=dict(num_classes=number),
        model=dict(
            backbone=dict(
                arch=arch_block(arch_of(encoder)),
                img_size=side,
                patch_size=patch,
                init_cfg=dict(checkpoint=asked["encoder"]),
            ),
            head=dict(num_classes=number, in_channels=encoder.embed_dims),
        ),
        train_dataloader=dict(**judging, dataset=learnt),
        val_dataloader=dict(**judging, dataset=judged),
        val_evaluator=dict(topk=(1,)),
        optim_wrapper=optim_block(plan.lr, plan.steps),
        auto_scale_lr=dict(base_batch_size=plan.steps.batch),
        # As in Table 7, whose warm-up is a fifth of the run.
        param_scheduler=[
            {**rise, "end": plan.warm_up},
            {**cosine, "begin": plan.warm_up},
        ],
        train_cfg=dict(max_epochs=plan.epochs),
        default_hooks=hooks_block(interval, save_best=_METRIC, rule="greater"),
        randomness=dict(seed=asked["seed"]),
    )
