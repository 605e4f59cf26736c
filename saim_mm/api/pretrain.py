"""Pretrains on a folder of images, by a rule that fits images and machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .._doctor import parse_options
from .._hub import shipped_config
from ..utils.progress_line import ProgressLine
from ..weights import (
    CheckpointError,
    read_state_dict,
    saim_to_encoder,
    write_state_dict,
)
from ..weights.load_model import build_model
from ..weights.whole_model import check_complete
from ._child import Block, arch_of, child_text
from ._found_images import Found, count_images
from ._machine import Machine, this_machine
from ._own_run import OwnRun, check_at_least, default_folder, with_options
from ._pretrain_config import MODELS, base_of, pretrain_blocks, size_of
from ._rule import EncoderSize, PretrainPlan, Steps, plan_pretraining
from ._start_weights import StartWeights, read_start
from ._trial_steps import fit_to_memory, saving_interval
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

    Returns:
        Where the results are.

    Raises:
        ValueError: For images, options, weights or a folder that cannot be used.
        OSError: If something cannot be read or written.
        ImportError: If the folder needs a library that is missing.
        SystemExit: With code 75, if a signal (Ctrl-C) ended the run and it was saved.
    """
    check_at_least(1, epochs=epochs, batch_size=batch_size)
    check_at_least(0, workers=workers, seed=seed)
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
    target = default_folder("pretrain", images) if out is None else Path(out)
    run = OwnRun("pretrain", target, asked)
    machine = this_machine(device)
    if run.begun:
        said = [f"Going on as {run.config} says."]
    else:
        start = None if init is None else read_start(init, with_decoder)
        said = _begin(run, images, model, start, machine)
    page = run.folder / "report.html"
    said.append(
        f"Look at {page} in a browser while it goes on; the encoder will be "
        f"{run.folder / 'encoder.pth'}."
    )
    if progress is not None:
        progress.say("\n".join(said))
    trained = run.train(progress).model
    encoder = run.folder / "encoder.pth"
    write_state_dict(encoder, saim_to_encoder(trained.state_dict()).state_dict)
    report(run.folder, page, images=images, device=machine.device)
    return Pretrained(run.folder, run.config, encoder, page)


def _begin(
    run: OwnRun,
    images: Path,
    model: str | None,
    start: StartWeights | None,
    machine: Machine,
) -> list[str]:
    """Chooses how to train and writes the config; returns what was chosen."""
    found = count_images(images, **_told_to_dataset(run.asked["cfg_options"]))
    size = _size(model, start)
    asked = run.asked
    plan = plan_pretraining(
        found.number,
        found.side,
        size,
        machine,
        "random" if start is None else "whole model" if start.decoder else "encoder",
        epochs=asked["epochs"],
        batch_size=asked["batch_size"],
        workers=asked["workers"],
    )
    arch = MODELS[model or _MODEL] if start is None else arch_of(start.encoder)

    def blocks_of(steps: Steps, interval: int = 1) -> Block:
        fitted = replace(plan, steps=steps)
        blocks = pretrain_blocks(fitted, arch, images, start, asked["seed"], interval)
        if found.kind != "UnlabeledImages":
            blocks["train_dataloader"]["dataset"]["type"] = found.kind
        return with_options(blocks, asked["cfg_options"])

    base = shipped_config(base_of(plan))

    def config_of(steps: Steps) -> Config:
        return Config.fromstring(child_text(base, blocks_of(steps)), ".py")

    cfg = config_of(plan.steps)
    if start is not None and start.decoder:
        check_complete(build_model(cfg), read_state_dict(start.path), str(start.path))
    pixels = int(cfg.model.backbone.img_size)
    steps, seconds = fit_to_memory(config_of, plan.steps, pixels, machine.device)
    interval = saving_interval(seconds, plan.updates * steps.accumulation)
    run.write_config(base, blocks_of(steps, interval))
    return _describe(replace(plan, steps=steps), found, machine, seconds)


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


def _describe(
    plan: PretrainPlan, found: Found, machine: Machine, seconds: float
) -> list[str]:
    """What was chosen and why, a line each."""
    steps = plan.steps
    recipe = "little data" if plan.little else "the paper"
    reading = (
        f"{plan.read} patches read and all asked for, a narrow decoder"
        if plan.narrow
        else "a decoder"
    )
    smoothing = "smoothed targets" if plan.smoothing else "no smoothing"
    source = "" if found.kind == "UnlabeledImages" else f", read by {found.kind}"
    minutes = seconds * steps.accumulation * plan.updates / 60
    return [
        f"{found.number} images{source}, typically {found.side} pixels: the recipe of "
        f"{recipe}, {reading} of depth {plan.decoder}, {smoothing}, crops from "
        f"{plan.crop_from:.0%} of the area.",
        f"{plan.image_size} pixels in patches of {plan.patch_size}; {plan.epochs:g} "
        f"epochs, {plan.updates} steps of {steps.batch} images ({steps.at_once} at "
        f"once), rate {plan.lr:g} after {plan.warm_up} steps of warm-up.",
        f"On {machine.device}: {steps.precision}, {steps.workers} workers; at most "
        f"about {minutes:.0f} minutes, from one step.",
    ]
