"""Times how several processes train a SAIM model together: data parallelism and FSDP.

The variants live in the same processes and step in turn on the same made-up images, so
that a busy machine hits them alike. A step ends when the slowest process ends it.

  torchrun --nproc_per_node 2 -m benchmarks data-parallel CONFIG
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS, init_default_scope
from torch import nn

from saim_mm import launch
from saim_mm.reliability import FullyShardedModel
from saim_mm.reliability.sharding import own_part
from saim_mm.utils.environment import environment

from .clock import shown_steps
from .pretrain import build_saim

_DDP = dict(type="MMDistributedDataParallel", broadcast_buffers=False)
VARIANTS: dict[str, dict[str, Any]] = {
    "data parallelism": _DDP,
    "with bucket views": dict(_DDP, gradient_as_bucket_view=True),
    "with static graph": dict(_DDP, static_graph=True),
    "with both": dict(_DDP, gradient_as_bucket_view=True, static_graph=True),
    "fully sharded": dict(type="FullyShardedModel"),
}


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks data-parallel",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", help="config file of a SAIM pretraining")
    add("--batch", type=int, default=8, help="images per step and process")
    add("--steps", type=int, default=20, help="steps that are timed")
    add("--warm-up", type=int, default=3, help="steps before them")
    add("--out", type=Path, metavar="JSON", help="write the figures to this file")
    launch.add_cfg_options(parser, "--set")
    args = parser.parse_args(arguments)
    if min(args.batch, args.steps, args.warm_up) < 1:
        parser.error("--batch, --steps and --warm-up must be at least 1")
    return args


def build(
    cfg: Config, wrapper: dict[str, Any], device: torch.device
) -> tuple[nn.Module, OptimWrapper]:
    """A model as a run would have it, and its optimiser."""
    torch.manual_seed(0)
    model = build_saim(cfg, device)
    wrapped = MODEL_WRAPPERS.build(wrapper, default_args=dict(module=model))
    optim_wrapper = build_optim_wrapper(wrapped, cfg.optim_wrapper)
    if isinstance(wrapped, FullyShardedModel):
        wrapped.shard(optim_wrapper.optimizer)
    return wrapped, optim_wrapper


def step(
    model: nn.Module, optim_wrapper: OptimWrapper, batch: dict[str, Any], number: int
) -> tuple[float, float]:
    """Trains a step; returns its seconds and its loss."""
    torch.manual_seed(number)  # the same orders in all variants
    _wait()
    start = time.perf_counter()
    losses = model.train_step(batch, optim_wrapper)
    _wait()
    return time.perf_counter() - start, losses["loss"].item()


def _wait() -> None:
    """For the device and for all processes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    dist.barrier()


def own_mib(model: nn.Module, optim_wrapper: OptimWrapper) -> float:
    """What this process keeps of weights, gradients and the optimiser's state.

    Between two steps; buffers that gradients are sent from are not in it.
    """
    states = optim_wrapper.optimizer.state.values()
    trained = [p for p in model.parameters() if p.requires_grad]
    tensors = [*model.parameters(), *trained]  # a gradient is as large as its weight
    tensors += [x for state in states for x in state.values() if torch.is_tensor(x)]
    return sum(own_part(tensor).nbytes for tensor in tensors) / 2**20


def step_in_turn(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Steps all variants in turn; medians, and ratios to the first within the turns."""
    device = torch.device(get_device())
    size = cfg.model.backbone.img_size
    shape = (args.batch, 3, size, size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    batch = dict(inputs=pixels, data_samples=None)
    trials = {name: build(cfg, dict(kind), device) for name, kind in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    losses: dict[str, list[float]] = {name: [] for name in trials}
    for number in shown_steps(args.warm_up + args.steps):
        for name, trial in trials.items():
            taken, loss = step(*trial, batch, number)
            losses[name].append(loss)
            if number >= args.warm_up:
                seconds[name].append(taken)
    first, results = next(iter(seconds.values())), {}
    for name, trial in trials.items():
        ratios = [a / b for a, b in zip(seconds[name], first, strict=True)]
        results[name] = dict(
            seconds_per_step=round(statistics.median(seconds[name]), 5),
            times_the_first=round(statistics.median(ratios), 3),
            mib_per_process=round(own_mib(*trial), 1),
            losses=losses[name],
        )
    return results


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine, without gradient accumulation."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    launch.fit_to_machine(cfg)
    cfg.optim_wrapper.pop("accumulative_counts", None)
    return cfg


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures all variants; returns the record."""
    MMLogger.get_current_instance().setLevel("ERROR")  # every process would warn
    cfg = load_config(args)
    init_default_scope(cfg.default_scope)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    record = environment(("torch", "mmengine", "mmcv", "mmpretrain"))
    processes = dist.get_world_size()
    launcher = f"torchrun --nproc_per_node {processes}"
    record.update(
        command=record["command"].replace("python", launcher, 1),
        processes=processes,
        batch=args.batch,
        steps=args.steps,
        variants=step_in_turn(cfg, args),
    )
    dist.destroy_process_group()
    return record


def describe(record: dict[str, Any]) -> str:
    """The record as a table."""
    return "\n".join(
        f"{name:20s}{row['seconds_per_step']:10.4f} s a step"
        f"{row['times_the_first']:8.3f} x{row['mib_per_process']:10.1f} MiB"
        for name, row in record["variants"].items()
    )
