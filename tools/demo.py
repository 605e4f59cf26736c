#!/usr/bin/env python
"""Pretrains a small SAIM for a few minutes on a CPU and shows what it learnt.

Without --data it trains on sample photographs that are shipped inside scikit-image and
scikit-learn; nothing is downloaded. Each run has a folder of its own in the work dir;
its loss curve, its predictions and its encoder are copied to the work dir itself, in
place of those of the run before.
"""

# ruff: noqa: E402  (the environment is set before torch reads it)
from __future__ import annotations

import os

# OpenMP's threads wait for each other in a busy loop. With two cores and anything else
# running, the data worker too, that made training seven times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from saim_mm import launch
from saim_mm.datasets.sample_photos import (
    NoPhotosError,
    copy_small,
    find_photos,
    sample_photos,
)
from saim_mm.engine import quiet_runner, shown
from saim_mm.utils.progress_line import ProgressLine
from saim_mm.utils.run_folder import RunFolderError, run_folder
from saim_mm.visualization import (
    LossCurve,
    draw_loss_curve,
    read_loss_curve,
    save_png,
)
from saim_mm.visualization.from_files import draw_predictions
from saim_mm.weights import saim_to_encoder, write_state_dict

CONFIG = Path(__file__).parents[1] / "configs" / "saim" / "saim_demo.py"
#: What a run leaves in the work dir.
RESULTS = ("loss_curve.png", "predictions.png", "encoder.pth")
#: Photographs that a run uses; a run takes 24,000 crops.
MAX_PHOTOS = 1000
SHEET_ROWS = 6


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse ends on its own with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="folder of images, nested or flat, without labels; by default sample "
        "photographs",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/demo"),
        help="where the results go (default: %(default)s)",
    )
    parser.add_argument(
        "--max-iters", type=int, metavar="N", help="training steps (default: config's)"
    )
    launch.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.max_iters is not None and args.max_iters < 2:
        parser.error(f"--max-iters={args.max_iters} must be at least 2.")
    return args


def photos_of(folder: str | None) -> list[Path]:
    """The images in a user's folder, or the sample photographs without one."""
    try:
        if not folder:
            return sample_photos()
        photos, total = find_photos(folder, MAX_PHOTOS)
    except FileNotFoundError as error:
        hint = "or give a folder of your own with --data FOLDER"
        raise NoPhotosError(f"{error}, {hint}") from None
    except NoPhotosError as error:
        raise NoPhotosError(f"--data {error}") from None
    if len(photos) < total:
        print(f"Using {len(photos)} of the {total} images, drawn at random.")
    return photos


def collect_photos(sources: list[Path], folder: Path) -> None:
    """Copies the photographs and says which are broken."""
    print(f"Collecting {len(sources)} photographs in {folder}")
    problems = copy_small(sources, folder)
    for problem in problems[:10]:
        print(f"Skipped {problem}")
    if len(problems) > 10:
        print(f"Skipped {len(problems) - 10} more")


def load_config(args: argparse.Namespace, run_dir: Path, photos: Path) -> Config:
    """The demo's config, with the command line, for this machine."""
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(run_dir)
    cfg.train_dataloader.dataset.data_root = str(photos)
    if args.max_iters is not None:
        cfg.train_cfg.max_iters = args.max_iters
    # Of a run of minutes nothing need be saved: Ctrl-C ends it at once.
    cfg.default_hooks.pop("preemption")
    return cfg


def write_results(runner: Runner, photos: Path, run_dir: Path) -> LossCurve:
    """Writes the three results into the run's folder and returns its loss curve."""
    model, curve = runner.model, read_loss_curve(run_dir)
    save_png(draw_loss_curve(curve), run_dir / "loss_curve.png")
    save_png(draw_predictions(model, photos, SHEET_ROWS), run_dir / "predictions.png")
    encoder = saim_to_encoder(model.state_dict()).state_dict
    write_state_dict(run_dir / "encoder.pth", encoder)
    return curve


def summary(curve: LossCurve, seconds: float, work_dir: Path, run_dir: Path) -> str:
    """What the user reads at the end."""
    steps = len(curve.loss)
    return f"""
Trained {steps} steps in {seconds / 60:.1f} minutes ({steps / seconds:.2f} per second).
Loss: {curve.first():.4f} at the first step, {curve.last():.4f} over the last ten.

  loss curve   {work_dir / "loss_curve.png"}
  predictions  {work_dir / "predictions.png"}
  encoder      {work_dir / "encoder.pth"}

The photographs, the log and the whole model are in {run_dir}"""


def run(args: argparse.Namespace, sources: list[Path], run_dir: Path) -> None:
    """Collects, trains, writes the results and says where they are."""
    photos = run_dir / "photographs"
    collect_photos(sources, photos)
    runner = quiet_runner(load_config(args, run_dir, photos))
    started = time.perf_counter()
    with shown(runner, ProgressLine(sys.stdout)):
        runner.train()
    seconds = time.perf_counter() - started
    curve = write_results(runner, photos, run_dir)
    for name in RESULTS:
        shutil.copy2(run_dir / name, args.work_dir / name)
    print(summary(curve, seconds, args.work_dir, run_dir))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 2 for unusable input, 130 after Ctrl-C."""
    args = parse_args(argv)
    try:
        sources = photos_of(args.data)
        with run_folder(args.work_dir, NoPhotosError) as run_dir:
            run(args, sources, run_dir)
    except (NoPhotosError, RunFolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; this run leaves nothing behind.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
