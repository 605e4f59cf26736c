"""Pretrains on a folder of images, by a rule that fits images and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .._doctor import parse_options
from .._hub import shipped_config
from ..utils.atomic_file import write_text
from ..utils.command_line import counted
from ..utils.progress_line import ProgressLine
from ..weights import (
    CheckpointError,
    read_state_dict,
    saim_to_encoder,
    write_state_dict,
)
from ..weights.load_model import build_model
from ..weights.whole_model import check_complete
from ._child import Block, arch_of
from ._found_images import Found, count_images
from ._machine import Machine, this_machine
from ._own_run import OwnRun
from ._pretrain_config import FAST, MODELS, PAPER, pretrain_blocks, size_of
from ._rule import EncoderSize, PretrainPlan, plan_pretraining
from ._start_weights import StartWeights, read_start
from .report import report

_MODEL = "vit-s"
#: Options of a dataset that say where in the data the images are.
_WHERE = ("ann_file", "column", "data_prefix", "extensions")


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining left.

    Attributes:
        folder: With logs and checkpoints.
        config: What it ran, as a child of a shipped config.
        encoder: The bare encoder.
        report: The run on one page.
    """

    folder: Path
    config: Path
    encoder: Path
    report: Path


def pretrain(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    model: str | None = None,
    epochs: int | None = None,
    init: str | Path | None = None,
    with_decoder: bool | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    seed: int = 0,
    cfg_options: Sequence[str] = (),
    progress: ProgressLine | None = None,
) -> Pretrained:
    """Pretrains SAIM on a folder of images; called again, it goes on where it was.

    What is not given follows from the images and the machine, by the rule of
    ``docs/pretrain_your_images.md``.

    Args:
        folder: Images, nested or flat, without labels; or a pack, shards of
            WebDataset, or a Hugging Face dataset on disk.
        out: Where everything goes; by default ``work_dirs/pretrain-of-FOLDER``.
        model: ``vit-nano``, ``vit-tiny``, ``vit-s``, ``vit-b``, ``vit-l`` or
            ``vit-h``; by default ``vit-s``, or what ``init`` holds.
        epochs: How often each image is seen.
        init: Weights of SAIM to go on from: a checkpoint of pretraining or an encoder.
        with_decoder: Whether the decoder of ``init`` is taken, too; by default if it
            holds one.
        batch_size: Images per optimiser step.
        workers: Processes that load images.
        device: ``cpu``, ``cuda`` or ``cuda:N``; by default a GPU if there is one.
        seed: Of weights, crops and orders.
        cfg_options: ``KEY=VALUE`` pairs that override the config.
        progress: Where plan and steps are shown; by default in MMEngine's log.

    Raises:
        ValueError: For images, options, weights or a folder that cannot be used.
        OSError: If something cannot be read or written.
        ImportError: If the folder needs a library that is missing.
        SystemExit: With code 75, if a signal (Ctrl-C) ended the run and it was saved.
    """
    if with_decoder is not None and init is None:
        raise ValueError(
            f"with_decoder={with_decoder} is about init, which is not given."
        )
    images = Path(folder).expanduser().absolute()
    init = None if init is None else Path(init).expanduser().absolute()
    asked = dict(
        folder=str(images),
        model=model,
        epochs=epochs,
        init=init and str(init),
        with_decoder=with_decoder,
        batch_size=batch_size,
        workers=workers,
        seed=seed,
        cfg_options=list(cfg_options),
    )
    run = OwnRun("pretrain", images, out, asked)
    machine = this_machine(device)
    page = run.folder / "report.html"
    said = [f"Going on as {run.config} says."] if run.begun else _begin(run, machine)
    said.append(
        f"Look at {page} in a browser while it goes on; the encoder will be "
        f"{run.folder / 'encoder.pth'}."
    )
    trained = run.train(said, progress).model
    encoder = run.folder / "encoder.pth"
    write_state_dict(encoder, saim_to_encoder(trained.state_dict()).state_dict)
    report(run.folder, page, images=images, device=machine.device)
    return Pretrained(run.folder, run.config, encoder, page)


def _begin(run: OwnRun, machine: Machine) -> list[str]:
    """Chooses how to train and writes the config; returns what was chosen."""
    asked = run.asked
    images, model, init = Path(asked["folder"]), asked["model"], asked["init"]
    start = None if init is None else read_start(Path(init), asked["with_decoder"])
    found = count_images(images, **_told_to_dataset(asked["cfg_options"]))
    whole = start is not None and start.size.decoder is not None
    plan = plan_pretraining(
        found.number,
        found.side,
        _size(model, start),
        machine,
        "random" if start is None else "whole model" if whole else "encoder",
        **run.instead,
    )
    arch = MODELS[model or _MODEL] if start is None else arch_of(start.encoder)

    def blocks_of(plan: PretrainPlan, interval: int) -> Block:
        blocks = pretrain_blocks(plan, arch, images, start, asked["seed"], interval)
        if found.kind != "UnlabeledImages":
            blocks["train_dataloader"]["dataset"]["type"] = found.kind
        return blocks

    base = shipped_config(FAST if plan.narrow else PAPER)
    plan, config, said = run.fitted(base, plan, blocks_of, machine)
    if start is not None and whole:
        built = build_model(Config.fromstring(config, ".py"))
        check_complete(built, read_state_dict(start.path), str(start.path))
    write_text(run.config, config)
    return [*_describe(plan, found), said]


def _told_to_dataset(pairs: Sequence[str]) -> dict[str, Any]:
    """What cfg_options say of where in the data the images are."""
    options = parse_options(pairs)
    keys = {name: f"train_dataloader.dataset.{name}" for name in _WHERE}
    return {name: options[key] for name, key in keys.items() if key in options}


def _size(model: str | None, start: StartWeights | None) -> EncoderSize:
    """The size of the encoder, named or that of the weights.

    Raises:
        ValueError: If it is named, and the weights have another.
    """
    if start is None:
        return size_of(model or _MODEL)
    size = start.size
    if model is not None:
        named = size_of(model)
        if (named.width, named.layers) != (size.width, size.layers):
            raise CheckpointError(
                f"{start.path}: an encoder of {size.layers} layers of {size.width} "
                f"channels, and model={model!r} has {named.layers} of {named.width}; "
                "leave model out, or give weights of its size."
            )
    return size


def _describe(plan: PretrainPlan, found: Found) -> list[str]:
    """What was chosen and why, a line each."""
    steps, recipe, decoder = plan.steps, "the paper", "a decoder"
    if plan.little:
        recipe = "little data"
    if plan.narrow:
        decoder = f"{plan.read} patches read and all asked for, a narrow decoder"
    smoothing = "smoothed targets" if plan.smoothing else "no smoothing"
    source = "" if found.kind == "UnlabeledImages" else f", read by {found.kind}"
    return [
        f"{found.number} images{source}, typically {found.side} pixels: the recipe of "
        f"{recipe}, {decoder} of depth {plan.decoder}, {smoothing}, crops from "
        f"{plan.crop_from:.0%} of the area.",
        f"{plan.image_size} pixels in patches of {plan.patch_size}; "
        f"{counted(plan.epochs, 'epoch')}, {counted(plan.updates, 'step')} of "
        f"{counted(steps.batch, 'image')} ({steps.at_once} at once), rate {plan.lr:g} "
        f"after {counted(plan.warm_up, 'step')} of warm-up.",
    ]
