#!/usr/bin/env python
"""Times the training steps of a SAIM model: where the time goes, and of what peak.

With CUDA the times are the device's own and no step waits for the host; on a CPU they
are the host's. Gradient accumulation is switched off: every step updates.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _benchmark import (
    Clock,
    Mark,
    circumstances,
    measured_peak,
    most_allocated,
    resident_bytes,
)
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, turn_on_activation_checkpointing
from mmpretrain.registry import MODELS
from torch import Tensor

from saim_mm import launch
from saim_mm.engine.flops import known_peak_tflops, saim_flops
from saim_mm.models import SAIM
from saim_mm.models.layers import StreamLayer
from saim_mm.reference import reference_loss

_PARTS = ("forward", "backward", "optimiser")
_DTYPES = ("float32", "bfloat16", "float16")
_AMP_OPTIONS = ("loss_scale", "dtype", "use_fsdp")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file of a SAIM pretraining")
    parser.add_argument("--out", help="write the figures to this .json file")
    parser.add_argument(
        "--batch", type=int, help="images per step; by default the config's"
    )
    parser.add_argument("--steps", type=int, default=50, help="steps that are timed")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before them")
    parser.add_argument(
        "--data",
        choices=["none", "synthetic", "config"],
        default="synthetic",
        help="one batch on the device for all steps; made-up images through the "
        "config's loader and transforms (default); the config's own images",
    )
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="float32, or autocast; by default what the config does on this machine",
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile every StreamLayer"
    )
    parser.add_argument(
        "--against",
        choices=["reference"],
        help="step in turn with the slow implementation of saim_mm.reference",
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="peak of the device, for the MFU"
    )
    parser.add_argument(
        "--set",
        "--cfg-options",
        dest="cfg_options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config",
    )
    args = parser.parse_args()
    if min(args.steps, args.warm_up, args.batch or 1) < 1:
        parser.error("--batch, --steps and --warm-up must be at least 1")
    if args.dtype == "float16" and not torch.cuda.is_available():
        parser.error("--dtype float16 needs CUDA; choose float32 or bfloat16")
    return args


# --- what is measured ---------------------------------------------------------------


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine and the command line."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    launch.fit_to_machine(cfg)
    wrapper, loader = cfg.optim_wrapper, cfg.train_dataloader
    wrapper.pop("accumulative_counts", None)
    if args.dtype:
        for option in _AMP_OPTIONS:
            wrapper.pop(option, None)
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
    """Patterns a bit larger than the model's images; nothing is read or decoded."""
    transforms = cfg.train_dataloader.dataset.pipeline
    return dict(
        type="SyntheticImages",
        num_images=num_images,
        size=[side * 8 // 7 for side in _image_size(cfg)]
        if any(t.type == "RandomResizedCrop" for t in transforms)
        else _image_size(cfg),
        pipeline=[t for t in transforms if not t.type.startswith("LoadImage")],
    )


def _image_size(cfg: Config) -> tuple[int, int]:
    size = cfg.model.backbone.img_size
    return (size, size) if isinstance(size, int) else tuple(size)


def build_model(cfg: Config, device: torch.device) -> SAIM:
    """The model of a config, ready to train.

    Raises:
        ValueError: If it is no SAIM model.
    """
    init_default_scope(cfg.default_scope)
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    if not isinstance(model, SAIM):
        raise ValueError(
            f"{cfg.filename} builds a {type(model).__name__}; this tool times SAIM "
            "pretraining, benchmark_detector.py detectors."
        )
    model.init_weights()
    if cfg.get("activation_checkpointing"):
        turn_on_activation_checkpointing(model, cfg.activation_checkpointing)
    return model.to(device).train()


def batches(cfg: Config, args: argparse.Namespace, device: torch.device) -> Iterator:
    """Yields batches for ever.

    Raises:
        ValueError: If the data does not fill one batch.
    """
    if args.data == "none":
        shape = (args.batch, 3, *_image_size(cfg))
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        return itertools.repeat(dict(inputs=pixels, data_samples=None))
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    if not len(loader):
        raise ValueError(
            f"The {len(loader.dataset)} images of the config do not fill one batch of "
            f"{args.batch}; lower --batch or set train_dataloader.dataset."
        )
    return _endless(loader)


def _endless(loader: Iterable) -> Iterator:
    while True:
        yield from loader


def fast_loss(model: SAIM, data: dict[str, Any]) -> Tensor:
    """The loss as it is trained with."""
    return model(**data, mode="loss")["loss"]


def slow_loss(model: SAIM, data: dict[str, Any]) -> Tensor:
    """The loss of the same orders as the release would compute it."""
    images, order = data["inputs"], model.order
    steps = order.draw(len(images), images.device).argsort(dim=1)
    steps = steps // order.segment_length * order.segment_length
    return reference_loss(model, images, steps)


@dataclass
class Trial:
    """A way to compute the loss, with its own copy of the weights, step by step."""

    name: str
    compute: Callable[[SAIM, dict[str, Any]], Tensor]
    model: SAIM
    optim_wrapper: OptimWrapper
    autocast: AbstractContextManager
    marks: list[tuple[Mark, ...]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)

    def step(self, batch: dict[str, Any], clock: Clock) -> None:
        """Trains a step, as ``BaseModel.train_step`` does."""
        torch.manual_seed(len(self.losses))  # the same orders in all trials
        marks = [clock.mark()]
        with self.optim_wrapper.optim_context(self.model), self.autocast:
            data = self.model.data_preprocessor(batch, True)
            loss = self.compute(self.model, data)
        marks.append(clock.mark())
        self.optim_wrapper.backward(loss)
        marks.append(clock.mark())
        self.optim_wrapper.step()
        self.optim_wrapper.zero_grad()
        marks.append(clock.mark())
        self.marks.append(tuple(marks))
        self.losses.append(loss.detach())


def build_trials(
    cfg: Config, args: argparse.Namespace, device: torch.device
) -> list[Trial]:
    """The model, and beside it the reference with the same weights if asked for."""
    torch.manual_seed(0)
    models = [build_model(cfg, device)]
    computes: list[tuple[str, Callable]] = [("saim_mm", fast_loss)]
    if args.against:
        models.append(copy.deepcopy(models[0]))
        computes.append(("reference", slow_loss))
    if args.compile:
        for module in models[0].modules():
            if isinstance(module, StreamLayer):
                module.compile()
    autocast: AbstractContextManager = nullcontext()
    if args.dtype == "bfloat16" and cfg.optim_wrapper.type == "OptimWrapper":
        autocast = torch.autocast(device.type, torch.bfloat16)
    return [
        Trial(*compute, model, build_optim_wrapper(model, cfg.optim_wrapper), autocast)
        for compute, model in zip(computes, models, strict=True)
    ]


# --- how it is measured -------------------------------------------------------------


def measure(
    trials: list[Trial], data: Iterator, args: argparse.Namespace, device: torch.device
) -> tuple[list[dict[str, Any]], float]:
    """Steps the trials in turn on the same batches.

    Returns:
        A result for each trial, and the seconds of the very first step, in which
        layers are compiled.
    """
    clock, waits = Clock(device), []
    first = 0.0
    for number in range(args.warm_up + args.steps):
        start = clock.mark()
        batch = next(data)
        waits.append((start, clock.mark()))
        for trial in trials:
            trial.step(batch, clock)
        if not number:
            clock.wait()
            first = clock.seconds(trials[0].marks[0][0], trials[0].marks[0][-1])
    clock.wait()
    waited = [clock.seconds(*wait) for wait in waits[args.warm_up :]]
    results = []
    for trial in trials:
        result = _times(trial.marks[args.warm_up :], waited, clock, args.batch)
        resident = resident_bytes(trial.model, trial.optim_wrapper)
        extra = most_allocated(device, lambda t=trial: t.step(batch, clock))
        result["peak_mib"] = round((resident + extra) / 2**20)
        result["resident_mib"] = round(resident / 2**20)
        result["losses"] = [round(loss.item(), 6) for loss in trial.losses[:-1]]
        results.append(dict(variant=trial.name, **result))
    return results, first


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
    sheet = None
    if device.type == "cuda" and args.dtype != "float32":
        sheet = known_peak_tflops(torch.cuda.get_device_name(device))
    product = measured_peak(device, getattr(torch, args.dtype))
    return {
        "given": args.peak_tflops,
        "data sheet": sheet,
        "measured product": round(product, 3),
    }


def utilise(result: dict[str, Any], flops: int, peaks: dict[str, float | None]) -> None:
    """Adds TFLOP/s, and their share of each peak."""
    tflops = result["images_per_second"] * flops / 1e12
    result["tflops"] = round(tflops, 4)
    result["mfu"] = {
        source: round(tflops / peak, 4) if peak else None
        for source, peak in peaks.items()
    }


def compare(ours: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """How much faster and smaller, and whether both learn the same."""
    pairs = zip(ours["losses"], reference["losses"], strict=True)
    return dict(
        speed=round(
            reference["seconds_without_loader"] / ours["seconds_without_loader"], 3
        ),
        peak_memory=round(ours["peak_mib"] / reference["peak_mib"], 3),
        largest_relative_loss_difference=max(abs(a - b) / b for a, b in pairs),
    )


# --- what is told -------------------------------------------------------------------


def describe(record: dict[str, Any]) -> str:
    """The record as a table; what this machine cannot tell is "not measured"."""
    results = record["results"]

    def row(name: str, *values: float | None, digits: int = 3) -> str:
        cells = ("not measured" if v is None else f"{v:,.{digits}f}" for v in values)
        return f"{name:32s}" + "".join(f"{cell:>16s}" for cell in cells)

    lines = [
        f"{record['config']} on {record['hardware']}: {record['dtype']}, batch "
        f"{record['batch']}, data {record['data']}, {record['steps']} steps after "
        f"{record['warm_up']}, {record['gflop_per_image']:,.1f} GFLOP per image and step",
        " " * 32 + "".join(f"{r['variant']:>16s}" for r in results),
        row("images per second", *(r["images_per_second"] for r in results)),
        row("seconds per step", *(r["seconds_per_step"] for r in results)),
        *(
            row(f"  {part}", *(r["split"][part] for r in results), digits=4)
            for part in results[0]["split"]
        ),
        row("peak memory of tensors, MiB", *(r["peak_mib"] for r in results), digits=0),
        row("TFLOP/s", *(r["tflops"] for r in results)),
        *(
            row(f"MFU, peak {source}", *(r["mfu"][source] for r in results))
            for source in record["peak_tflops"]
        ),
    ]
    if record["compile"]:
        lines.append(
            row("first step (compiles), seconds", record["compile"]["first_step"])
            + f"   {record['compile']['graph_breaks']} graph breaks"
        )
    if record["ratio"]:
        lines.append(
            "against the reference: {speed:.2f} x the speed without loader, "
            "{peak_memory:.2f} x the peak memory; losses differ by at most "
            "{largest_relative_loss_difference:.1e} of their value".format(
                **record["ratio"]
            )
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and records."""
    args = parse_args()
    MMLogger.get_current_instance().setLevel("WARNING")  # a line per parameter
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = circumstances(("torch", "mmengine", "mmcv", "mmpretrain"))
    cfg = load_config(args)
    trials = build_trials(cfg, args, device)
    flops = saim_flops(trials[0].model).step
    record.update(
        config=args.config,
        dtype=args.dtype,
        batch=args.batch,
        data=args.data,
        steps=args.steps,
        warm_up=args.warm_up,
        image_size=_image_size(cfg),
        gflop_per_image=round(flops / 1e9, 3),
        peak_tflops=peaks(args, device),
        memory="most bytes of tensors in a step: weights, optimiser, activations",
    )
    results, first_step = measure(trials, batches(cfg, args, device), args, device)
    for result in results:
        utilise(result, flops, record["peak_tflops"])
    breaks = torch._dynamo.utils.counters["graph_break"] if args.compile else {}
    record.update(
        compile=dict(first_step=round(first_step, 3), graph_breaks=sum(breaks.values()))
        if args.compile
        else None,
        results=results,
        ratio=compare(*results) if args.against else None,
    )
    print(describe(record))
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
