"""Variants of a config that train in turn on the same batch, and how they compare.

Each variant lives in a process of its own, so that none profits from what another one
allocated. They step in turn, so that a busy machine hits them alike.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import torch
from _benchmark import circumstances
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed, turn_on_activation_checkpointing

from saim_mm import launch

#: What a variant changes in the model's config.
Change: TypeAlias = Callable[[ConfigDict], None]
#: Whether the variants know what to change in a model.
Fits: TypeAlias = Callable[[ConfigDict], bool]
#: Config and number of images -> a batch, as the loader would give it.
MakeBatch: TypeAlias = Callable[[Config, int], dict[str, list]]


def as_configured(model: ConfigDict) -> None:
    """The variant that the config describes."""


def argument_parser(
    description: str | None, config_help: str
) -> argparse.ArgumentParser:
    """The command line of a tool that compares variants."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help=config_help)
    parser.add_argument("--out", help="write the figures to this .json file")
    parser.add_argument("--batch-size", type=int, default=1, help="images per step")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    launch.add_cfg_options(parser)
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine and from scratch."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.model.backbone.init_cfg = None
    # It names parameters that some variants lack, and costs no time.
    cfg.optim_wrapper.pop("paramwise_cfg", None)
    if "data_preprocessor" in cfg:
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    launch.fit_to_machine(cfg)
    return cfg


class Trial:
    """A variant that trains step by step; it lives in a process of its own.

    Args:
        args: The command line.
        change: What this variant changes.
        make_batch: Makes the batch of all steps.
    """

    #: The one of this process.
    current: Trial

    def __init__(
        self, args: argparse.Namespace, change: Change, make_batch: MakeBatch
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # It logs a line for each parameter.
        MMLogger.get_current_instance().setLevel(logging.WARNING)
        cfg = load_config(args)
        change(cfg.model)
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(self.device).train()
        if cfg.get("activation_checkpointing"):
            turn_on_activation_checkpointing(self.model, cfg.activation_checkpointing)
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.data = make_batch(cfg, args.batch_size)

    def step(self) -> dict[str, float]:
        """Trains a step: its seconds, its loss, and the most MiB so far."""
        set_random_seed(0)  # the same drop paths and mixtures in all variants
        start = time.perf_counter()
        losses = self.model.train_step(self.data, self.optim_wrapper)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return dict(
            seconds=seconds, loss=losses["loss"].item(), memory=self.memory_mib()
        )

    def memory_mib(self) -> float:
        """The most so far: on the GPU by tensors, on the CPU by the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _prepare(args: argparse.Namespace, change: Change, make_batch: MakeBatch) -> float:
    """Builds the trial of this process; returns its MiB."""
    Trial.current = Trial(args, change, make_batch)
    return Trial.current.memory_mib()


def _step() -> dict[str, float]:
    """A step of the trial of this process."""
    return Trial.current.step()


def measure(
    args: argparse.Namespace, variants: dict[str, Change], make_batch: MakeBatch
) -> list[dict[str, Any]]:
    """Steps all variants in turn; returns a result for each."""
    with ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = {name: stack.enter_context(context.Pool(1)) for name in variants}
        built = {
            name: pool.apply(_prepare, (args, variants[name], make_batch))
            for name, pool in pools.items()
        }
        rounds = [
            {name: pool.apply(_step) for name, pool in pools.items()}
            for _ in range(args.warm_up + args.steps)
        ]
    timed = rounds[args.warm_up :]
    first = next(iter(variants))
    results = []
    for name in variants:
        seconds = [steps[name]["seconds"] for steps in timed]
        ratios = [steps[name]["seconds"] / steps[first]["seconds"] for steps in timed]
        results.append(
            dict(
                variant=name,
                seconds_per_step=round(statistics.median(seconds), 4),
                times_the_first=round(statistics.median(ratios), 3),
                fastest=round(min(seconds), 4),
                slowest=round(max(seconds), 4),
                peak_mib=round(rounds[-1][name]["memory"]),
                built_mib=round(built[name]),
                loss=rounds[-1][name]["loss"],
            )
        )
    return results


def compare(
    parser: argparse.ArgumentParser,
    packages: list[str],
    variants: dict[str, Change],
    make_batch: MakeBatch,
    fits: Fits,
) -> None:
    """Measures every variant, prints and records.

    Args:
        parser: The command line's.
        packages: Those whose versions matter.
        variants: What each changes, the first being what the others are held against.
        make_batch: Makes the batch; like the changes a function of a module, so that
            other processes find it.
        fits: Tells whether a config's model is of the kind that the tool is for.
    """
    args = parser.parse_args()
    if min(args.batch_size, args.steps) < 1 or args.warm_up < 0:
        parser.error("--batch-size and --steps must be positive, --warm-up at least 0")
    model = load_config(args).model
    if not fits(model):
        parser.error(f"{args.config} builds a {model.type}; see --help for what fits")
    cuda = torch.cuda.is_available()
    record = dict(
        **circumstances(packages),
        config=args.config,
        batch_size=args.batch_size,
        memory="most allocated by tensors" if cuda else "peak resident set",
        timed_steps=args.steps,
        results=measure(args, variants, make_batch),
    )
    for result in record["results"]:
        print(
            f"{result['variant']:32s}{result['seconds_per_step']:9.3f} s/step"
            f"{result['times_the_first']:8.2f} x"
            f"{result['peak_mib']:8d} MiB peak ({result['built_mib']} when built)"
        )
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=2) + "\n")
