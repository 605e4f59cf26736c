"""Variants of a config that train in turn on the same batch, and how they compare.

They step in turn, so that a busy machine hits them alike.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from saim_mm import launch
from saim_mm.utils.environment import environment

from .clock import shown_steps
from .trial import OwnProcess, Trial

#: What a variant changes in the model's config.
Change: TypeAlias = Callable[[ConfigDict], None]
#: Config and number of images -> a batch, as the loader would give it.
MakeBatch: TypeAlias = Callable[[Config, int], dict[str, list]]


def as_configured(model: ConfigDict) -> None:
    """The variant that the config describes."""


def parse_args(
    arguments: Sequence[str],
    name: str,
    about: str,
    config: str,
    fits: Callable[[ConfigDict], bool],
) -> argparse.Namespace:
    """The command line of a benchmark that compares variants.

    Args:
        arguments: What stands behind the benchmark's name.
        name: The benchmark's.
        about: What it does.
        config: What kind of config is asked for.
        fits: Tells whether the variants know what to change in a config's model.
    """
    parser = argparse.ArgumentParser(f"benchmarks {name}", description=about)
    add = parser.add_argument
    add("config", help=config)
    add("--out", help="write the figures to this .json file")
    add("--batch-size", type=int, default=1, help="images per step")
    add("--steps", type=int, default=10, help="steps that are timed")
    add("--warm-up", type=int, default=2, help="steps before them")
    launch.add_cfg_options(parser)
    args = parser.parse_args(arguments)
    if min(args.batch_size, args.steps) < 1 or args.warm_up < 0:
        parser.error("--batch-size and --steps must be positive, --warm-up at least 0")
    model = load_config(args).model
    if not fits(model):
        parser.error(f"{args.config} builds a {model.type}; see --help for what fits")
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine and from scratch."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.model.backbone.init_cfg = None
    # It names parameters that some variants lack, and costs no time.
    cfg.optim_wrapper.pop("paramwise_cfg", None)
    launch.fit_to_machine(cfg)
    return cfg


def prepare(
    args: argparse.Namespace, change: Change, make_batch: MakeBatch
) -> tuple[Trial, dict[str, list]]:
    """A variant, ready to train, and its batch."""
    MMLogger.get_current_instance().setLevel(logging.WARNING)
    cfg = load_config(args)
    change(cfg.model)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trial.build(cfg, device), make_batch(cfg, args.batch_size)


def measure(
    args: argparse.Namespace,
    variants: dict[str, Change],
    make_batch: MakeBatch,
    packages: Sequence[str],
) -> dict[str, Any]:
    """Steps all variants in turn; returns the record.

    Args:
        args: The command line.
        variants: What each changes, the first being what the others are held against.
        make_batch: Makes the batch; like the changes a function of a module, so that
            other processes find it.
        packages: Those whose versions matter.
    """
    cuda = torch.cuda.is_available()
    record = dict(
        **environment(packages),
        config=args.config,
        batch_size=args.batch_size,
        memory="most allocated by tensors" if cuda else "peak resident set",
        timed_steps=args.steps,
    )
    with ExitStack() as stack:
        trials = {}
        for name, change in variants.items():
            trials[name] = OwnProcess(prepare, args, change, make_batch)
            stack.callback(trials[name].stop)
        rounds = [
            {name: trial.step() for name, trial in trials.items()}
            for _ in shown_steps(args.warm_up + args.steps)
        ]
    timed, first, results = rounds[args.warm_up :], next(iter(variants)), []
    for name, trial in trials.items():
        seconds = [steps[name].seconds for steps in timed]
        ratios = [steps[name].seconds / steps[first].seconds for steps in timed]
        results.append(
            dict(
                variant=name,
                seconds_per_step=round(statistics.median(seconds), 4),
                times_the_first=round(statistics.median(ratios), 3),
                fastest=round(min(seconds), 4),
                slowest=round(max(seconds), 4),
                peak_mib=round(rounds[-1][name].mib),
                built_mib=round(trial.built_mib),
                loss=rounds[-1][name].loss,
            )
        )
    return dict(**record, results=results)


def describe(record: dict[str, Any]) -> str:
    """The record as a table."""
    return "\n".join(
        f"{result['variant']:32s}{result['seconds_per_step']:9.3f} s/step"
        f"{result['times_the_first']:8.2f} x"
        f"{result['peak_mib']:8d} MiB peak ({result['built_mib']} when built)"
        for result in record["results"]
    )
