"""Times the training steps of a SAIM model: where the time goes, and of what peak.

With CUDA the times are the device's own and no step waits for the host; on a CPU they
are the host's. Gradient accumulation is switched off: every step updates.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch._dynamo.utils
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, turn_on_activation_checkpointing
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor

from saim_mm import launch
from saim_mm.datasets import without_files
from saim_mm.engine.compile_hook import compile_layers
from saim_mm.evaluation.flops import known_peak_tflops, saim_flops
from saim_mm.models import SAIM
from saim_mm.parity.reference import reference_loss
from saim_mm.utils.environment import environment
from saim_mm.weights import install_safe_loader
from saim_mm.weights.load_model import build_model

from .clock import (
    Clock,
    Mark,
    measured_peak,
    most_allocated,
    resident_bytes,
    shown_steps,
)
from .trial import Trial, training_loss

_PARTS = ("forward", "backward", "optimiser")
_SPLIT = ("loader", *_PARTS)


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("benchmarks pretrain", description=__doc__)
    add = parser.add_argument
    add("config", help="config file of a SAIM pretraining")
    add("--out", help="write the figures to this .json file")
    add("--batch", type=int, help="images per step; by default the config's")
    add("--steps", type=int, default=50, help="steps that are timed")
    add("--warm-up", type=int, default=10, help="steps before them")
    add(
        "--data",
        choices=["none", "synthetic", "config"],
        default="synthetic",
        help="one batch on the device for all steps; made-up images through the "
        "config's loader and transforms (default); the config's own images",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="float32, or autocast; by default what the config does on this machine",
    )
    add("--compile", action="store_true", help="torch.compile every AttentionBlock")
    add(
        "--against",
        choices=["reference", "eager"],
        help="step in turn with the slow saim_mm.parity.reference, or with the same "
        "model without --compile and activation checkpointing",
    )
    add("--peak-tflops", type=float, help="peak of the device, for the MFU")
    launch.add_cfg_options(parser, "--set")
    args = parser.parse_args(arguments)
    if min(args.steps, args.warm_up, args.batch or 1) < 1:
        parser.error("--batch, --steps and --warm-up must be at least 1")
    if args.dtype == "float16" and not torch.cuda.is_available():
        parser.error("--dtype float16 needs CUDA; choose float32 or bfloat16")
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine and the command line.

    Batch and type that the command line leaves open are filled in there.
    """
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    launch.fit_to_machine(cfg)
    if args.against == "eager" and not (
        args.compile or cfg.get("activation_checkpointing")
    ):
        raise SystemExit(
            "error: --against eager would compare a model with itself; add --compile "
            "or set activation_checkpointing"
        )
    wrapper, loader = cfg.optim_wrapper, cfg.train_dataloader
    wrapper.pop("accumulative_counts", None)
    if args.dtype:
        launch.wrapper_without_amp(cfg.optim_wrapper)
        wrapper.type = "OptimWrapper"
    if args.dtype == "float16":
        wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")
    args.dtype = args.dtype or _dtype_of(wrapper)
    args.batch = loader.batch_size = args.batch or loader.batch_size
    if args.data == "synthetic":
        loader.dataset = _made_up(cfg, args.batch * (args.steps + args.warm_up))
    return cfg


def _dtype_of(wrapper: dict[str, Any]) -> str:
    """The type that an optimiser wrapper trains in."""
    if wrapper["type"] != "AmpOptimWrapper":
        return "float32"
    return wrapper.get("dtype") or "float16"


def _made_up(cfg: Config, num_images: int) -> dict[str, Any]:
    """Patterns instead of files, so nothing is read or decoded."""
    transforms = without_files(cfg.train_dataloader.dataset.pipeline)
    size = _image_size(cfg)
    if any(transform["type"] == "RandomResizedCrop" for transform in transforms):
        size = (size[0] * 8 // 7, size[1] * 8 // 7)  # something to crop from
    return dict(
        type="SyntheticImages", num_images=num_images, size=size, pipeline=transforms
    )


def _image_size(cfg: Config) -> tuple[int, int]:
    size = cfg.model.backbone.img_size
    return (size, size) if isinstance(size, int) else tuple(size)


def build_saim(cfg: Config, device: torch.device) -> SAIM:
    """The model of a config, ready to train.

    Raises:
        ValueError: If it is no SAIM model.
    """
    install_safe_loader()  # a config may name pretrained weights
    model = build_model(cfg, init_weights=True)
    if not isinstance(model, SAIM):
        raise ValueError(
            f"{cfg.filename} builds a {type(model).__name__}; this benchmark times "
            "SAIM pretraining, `python -m benchmarks detector` detectors."
        )
    return model.to(device).train()


def slow_loss(model: SAIM, data: dict[str, Any]) -> Tensor:
    """The loss of the same orders as the release would compute it."""
    images, order = data["inputs"], model.order_sampler
    steps = order.draw(len(images), images.device).argsort(dim=1)
    steps = steps // order.segment_length * order.segment_length
    return reference_loss(model, images, steps)


def build_trials(
    model: SAIM, cfg: Config, args: argparse.Namespace
) -> dict[str, Trial]:
    """The model, and beside it, if asked for, another with the same weights."""
    variants = {"saim_mm": (model, training_loss)}
    if args.against:
        slow = slow_loss if args.against == "reference" else training_loss
        variants[args.against] = (copy.deepcopy(model), slow)
    if cfg.get("activation_checkpointing"):
        turn_on_activation_checkpointing(model, cfg.activation_checkpointing)
    if args.compile:
        compile_layers(model)
    autocast: AbstractContextManager = nullcontext()
    if args.dtype == "bfloat16" and cfg.optim_wrapper.type == "OptimWrapper":
        autocast = torch.autocast(next(model.parameters()).device.type, torch.bfloat16)
    return {
        name: Trial(x, build_optim_wrapper(x, cfg.optim_wrapper), compute, autocast)
        for name, (x, compute) in variants.items()
    }


def batches(cfg: Config, args: argparse.Namespace, device: torch.device) -> Iterator:
    """Yields batches for ever.

    Raises:
        ValueError: If the data does not fill one batch.
    """
    if args.data == "none":
        channels = cfg.model.backbone.get("in_channels", 3)
        shape = (args.batch, channels, *_image_size(cfg))
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        return itertools.repeat(dict(inputs=pixels, data_samples=None))
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    if not len(loader):
        raise ValueError(
            f"The {len(loader.dataset)} images of the config do not fill one batch of "
            f"{args.batch}; lower --batch or set train_dataloader.dataset."
        )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def step_in_turn(
    trials: dict[str, Trial],
    data: Iterator,
    args: argparse.Namespace,
    device: torch.device,
) -> tuple[list[dict[str, Any]], float]:
    """Steps the trials in turn on the same batches.

    Returns:
        A result for each trial, and the seconds of the very first step, in which
        layers are compiled.
    """
    clock, waits = Clock(device), []
    first = 0.0
    for number in shown_steps(args.warm_up + args.steps):
        start = clock.mark()
        batch = next(data)
        waits.append((start, clock.mark()))
        for trial in trials.values():
            torch.manual_seed(number)  # the same orders in all trials
            trial.step(batch, clock)
        if not number:
            clock.wait()
            marks = trials["saim_mm"].marks[0]
            first = clock.seconds(marks[0], marks[-1])
    clock.wait()
    waited = [clock.seconds(*wait) for wait in waits[args.warm_up :]]
    results = []
    for name, trial in trials.items():
        result = _times(trial.marks[args.warm_up :], waited, clock, args.batch)
        losses = [loss.item() for loss in trial.losses]
        memory = _memory(trial, batch, clock, device)
        results.append(dict(variant=name, **result, **memory, losses=losses))
    return results, first


def _memory(
    trial: Trial, batch: dict[str, Any], clock: Clock, device: torch.device
) -> dict[str, int]:
    """MiB of tensors, in a forward pass and a step that are not timed.

    With small batches the gradients outweigh what the forward pass keeps for them, and
    the peak says little about it.
    """
    resident = resident_bytes(trial.model, trial.optim_wrapper)
    forward = most_allocated(device, lambda: trial.forward(batch))
    peak = resident + most_allocated(device, lambda: trial.step(batch, clock))
    return dict(
        resident_mib=round(resident / 2**20),
        forward_mib=round(forward / 2**20),
        peak_mib=round(peak / 2**20),
    )


def _times(
    marks: list[tuple[Mark, ...]], waited: list[float], clock: Clock, batch: int
) -> dict[str, Any]:
    """Medians over the steps, in seconds."""
    parts = {
        name: [clock.seconds(step[i], step[i + 1]) for step in marks]
        for i, name in enumerate(_PARTS)
    }
    computed = [sum(step) for step in zip(*parts.values(), strict=True)]
    seconds = [sum(step) for step in zip(computed, waited, strict=True)]
    split = {"loader": waited, **parts}
    return dict(
        images_per_second=round(batch / statistics.median(seconds), 3),
        seconds_per_step=round(statistics.median(seconds), 5),
        fastest=round(min(seconds), 5),
        slowest=round(max(seconds), 5),
        seconds_without_loader=round(statistics.median(computed), 5),
        split={name: round(statistics.median(x), 5) for name, x in split.items()},
        loader_share=round(sum(waited) / sum(seconds), 4),
    )


def peaks(args: argparse.Namespace, device: torch.device) -> dict[str, float | None]:
    """Peaks in TFLOP/s that the speed can be held against, by their source."""
    found = {"given": args.peak_tflops, "data sheet": None}
    if device.type == "cuda" and args.dtype != "float32":
        found["data sheet"] = known_peak_tflops(torch.cuda.get_device_name(device))
    product = measured_peak(device, getattr(torch, args.dtype))
    return {**found, "measured product": round(product, 3)}


def utilise(result: dict[str, Any], flops: int, peaks: dict[str, float | None]) -> None:
    """Adds TFLOP/s, and their share of each peak."""
    tflops = result["images_per_second"] * flops / 1e12
    result["tflops"] = round(tflops, 4)
    result["mfu"] = {
        source: round(tflops / peak, 4) if peak else None
        for source, peak in peaks.items()
    }


def compare(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How much faster and smaller, and whether both learn the same."""
    pairs = zip(ours["losses"], other["losses"], strict=True)
    seconds = "seconds_without_loader"
    return dict(
        speed=round(other[seconds] / ours[seconds], 3),
        peak_memory=round(ours["peak_mib"] / other["peak_mib"], 3),
        forward_memory=round(ours["forward_mib"] / other["forward_mib"], 3),
        largest_relative_loss_difference=max(abs(a - b) / b for a, b in pairs),
    )


def describe(record: dict[str, Any]) -> str:
    """The record as a table; what this machine cannot tell is "not measured"."""
    results = record["results"]
    lines = [
        f"{record['config']} on {record['hardware']}: {record['dtype']}, batch "
        f"{record['batch']}, data {record['data']}, {record['steps']} steps after "
        f"{record['warm_up']}, {record['gflop_per_image']:,.2f} GFLOP per image",
        " " * 32 + "".join(f"{result['variant']:>16s}" for result in results),
        _row("images per second", [r["images_per_second"] for r in results]),
        _row("seconds per step", [r["seconds_per_step"] for r in results]),
        *(_row(f"  {k}", [r["split"][k] for r in results], 4) for k in _SPLIT),
        _row("MiB of a forward pass", [r["forward_mib"] for r in results], 0),
        _row("peak MiB of a step", [r["peak_mib"] for r in results], 0),
        _row("TFLOP/s", [r["tflops"] for r in results]),
    ]
    for source in record["peak_tflops"]:
        lines.append(_row(f"MFU, peak {source}", [r["mfu"][source] for r in results]))
    if record["compile"]:
        lines.append(_row("first step, compiles", [record["compile"]["first_step"]]))
        lines.append(f"graph breaks: {record['compile']['graph_breaks'] or 'none'}")
    if record["ratio"]:
        lines.append(
            "against {against}: {speed:.2f} x the speed without loader, "
            "{peak_memory:.2f} x the peak memory, {forward_memory:.2f} x that of the "
            "forward pass; losses differ by at most "
            "{largest_relative_loss_difference:.1e} of their value".format(
                against=record["against"], **record["ratio"]
            )
        )
    return "\n".join(lines)


def _row(name: str, values: list[float | None], digits: int = 3) -> str:
    cells = ["not measured" if x is None else f"{x:,.{digits}f}" for x in values]
    return f"{name:32s}" + "".join(f"{cell:>16s}" for cell in cells)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what the command line asks for; returns the record."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = environment(("torch", "mmengine", "mmcv", "mmpretrain"))
    cfg = load_config(args)
    set_multi_processing(**cfg.env_cfg.mp_cfg)
    torch.backends.cudnn.benchmark = cfg.env_cfg.cudnn_benchmark
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = build_saim(cfg, device)
    flops = saim_flops(model).step
    peak_tflops = peaks(args, device)
    trials = build_trials(model, cfg, args)
    results, first_step = step_in_turn(trials, batches(cfg, args, device), args, device)
    for result in results:
        utilise(result, flops, peak_tflops)
    settings = ("config", "dtype", "batch", "data", "steps", "warm_up")
    breaks = torch._dynamo.utils.counters["graph_break"]
    compiled = dict(first_step=round(first_step, 3), graph_breaks=dict(breaks))
    return dict(
        **record,
        **{name: getattr(args, name) for name in settings},
        image_size=_image_size(cfg),
        gflop_per_image=round(flops / 1e9, 3),
        memory="resident: weights and optimiser; forward: what its pass adds to them; "
        "peak: the most in a whole step",
        peak_tflops=peak_tflops,
        compile=compiled if args.compile else None,
        against=args.against,
        results=results,
        ratio=compare(*results) if args.against else None,
    )
