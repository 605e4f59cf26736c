#!/usr/bin/env python
"""Trains any config of this project: pretraining, classifier, detector, segmentor.

A run that SIGTERM, SIGINT, SIGHUP or SIGUSR1 ended ends with exit code 75 and has saved
itself; the same command with --resume goes on. It is 74 if it could not save.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mmengine.config import Config

from saim_mm import launch


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; 'auto', or no value, is the newest one in "
        "the work dir that verifies, or the beginning if there is none",
    )
    parser.add_argument(
        "--amp", action="store_true", help="train in automatic mixed precision"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the effective batch over the config's base",
    )
    return launch.parse_args(parser, argv)


def load_config(args: argparse.Namespace) -> Config:
    """The config with all that the command line says about it."""
    cfg = launch.read_config(args)
    if args.resume and args.resume != "auto":
        cfg.resume, cfg.load_from = True, args.resume
    if args.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        cfg.auto_scale_lr = {**(cfg.get("auto_scale_lr") or {}), "enable": True}
    return cfg


def main(argv: Sequence[str] | None = None) -> int:
    """Trains one run; returns the exit status."""
    args = parse_args(argv)
    cfg = load_config(args)
    runner = launch.make_runner(cfg, args.launcher, newest=args.resume == "auto")
    runner.train()
    return 0


if __name__ == "__main__":
    sys.exit(main())
