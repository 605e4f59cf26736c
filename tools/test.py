#!/usr/bin/env python
"""Evaluates a checkpoint with any config of this project that has a test set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mmengine
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from saim_mm import launch
from saim_mm.datasets.load_image import broken_image
from saim_mm.engine.knn_loop import KNNLoop
from saim_mm.weights.whole_model import CompleteLoadHook


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint to evaluate")
    parser.add_argument("--out", help="write the metrics to this .json or .yml file")
    parser.add_argument("--dump", help="write the predictions to this .pkl file")
    parser.add_argument("--show-dir", help="write pictures of the predictions here")
    return launch.parse_args(parser, argv)


def load_config(args: argparse.Namespace) -> Config:
    """The config with all that the command line says about it."""
    cfg = launch.read_config(args)
    if not cfg.get("test_dataloader"):
        raise ValueError(
            f"{args.config} has no test_dataloader, so there is nothing to evaluate; "
            "a pretraining is judged by kNN, a probe or fine-tuning."
        )
    cfg.load_from = args.checkpoint
    if args.show_dir:
        draw_predictions(cfg, args.show_dir)
    return cfg


def draw_predictions(cfg: Config, folder: str) -> None:
    """Switches on the pictures, which each OpenMMLab project calls by other names."""
    hook = cfg.default_hooks.get("visualization")
    if hook is None:
        raise ValueError(
            f"--show-dir needs default_hooks.visualization, which {cfg.filename} does "
            "not set."
        )
    if cfg.default_scope == "mmdet":
        hook.update(draw=True, test_out_dir=os.path.abspath(folder))
    elif cfg.default_scope == "mmseg":
        hook.update(draw=True)
        cfg.visualizer.save_dir = folder
    else:
        hook.update(enable=True, out_dir=folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates one run; returns the exit status."""
    args = parse_args(argv)
    cfg = load_config(args)
    changes = launch.fit_to_machine(cfg)
    launch.connect(args.launcher, cfg.get("env_cfg", {}).get("dist_cfg"))
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for line in changes:
        runner.logger.info(line)
    if not isinstance(runner.test_loop, KNNLoop):  # it loads an encoder, and checks it
        runner.register_hook(CompleteLoadHook())
    if args.dump:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.dump))
    try:
        metrics = runner.test()
    except (RuntimeError, ValueError) as error:
        if (told := broken_image(error)) is None:
            raise
        sys.stderr.write(f"error: {told}; mend or remove this image\n")
        return 1
    if args.out and runner.rank == 0:
        mmengine.dump(metrics, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
