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
import contextlib
import importlib.util
import random
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from saim_mm import launch
from saim_mm.datasets import IMAGE_SUFFIXES, LoadImage, list_images
from saim_mm.models import SAIM
from saim_mm.visualization import (
    LossCurve,
    draw_loss_curve,
    read_images,
    read_loss_curve,
    reconstruction_sheet,
    save_png,
)
from saim_mm.weights import saim_to_encoder, write_state_dict

CONFIG = Path(__file__).parents[1] / "configs" / "saim" / "saim_demo.py"
#: What a run leaves in the work dir.
RESULTS = ("loss_curve.png", "predictions.png", "encoder.pth")
#: Package -> folder and photographs in its wheel. Drawings, scans, medical images and
#: the right eye of a stereo pair are left out. Every other one is in predictions.png.
SAMPLES = {
    "skimage": (
        "data",
        "astronaut.png brick.png chelsea.png coins.png coffee.png moon.png "
        "motorcycle_left.png camera.png rocket.jpg",
    ),
    "sklearn": ("datasets/images", "china.jpg flower.jpg"),
}
#: Photographs that a run uses; a run takes 24,000 crops.
MAX_PHOTOS = 1000
#: Their shorter side in pixels. Decoding a camera's 12 megapixels for every crop of 64
#: pixels would take longer than training on it.
PHOTO_SIZE = 256
SHEET_ROWS = 6


class DemoError(Exception):
    """What the user gave cannot be used; the message is one line."""


def parse_args() -> argparse.Namespace:
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
    args = parser.parse_args()
    if args.max_iters is not None and args.max_iters < 2:
        parser.error(f"--max-iters={args.max_iters} must be at least 2.")
    return args


def sample_photos() -> list[Path]:
    """The sample photographs in the installed wheels, found without importing them."""
    photos = []
    for package, (folder, names) in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        for root in spec.submodule_search_locations if spec else ():
            files = [Path(root) / folder / name for name in names.split()]
            photos += [file for file in files if file.is_file()]
    if not photos:
        raise DemoError(
            "no sample photographs: pip install scikit-image scikit-learn, or give a "
            "folder of your own with --data FOLDER"
        )
    return photos


def photos_of(folder: str) -> list[Path]:
    """The images in a user's folder; of very many, some drawn at random."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise DemoError(f"--data {folder!r} {state}; give a folder of images")
    names, others = list_images(str(root))
    if not names:
        raise DemoError(
            f"--data {folder!r} holds no images ({others} other files); looked for "
            f"{' '.join(IMAGE_SUFFIXES)} at any depth"
        )
    if len(names) > MAX_PHOTOS:
        print(f"Using {MAX_PHOTOS} of the {len(names)} images, drawn at random.")
        names = sorted(random.Random(0).sample(names, MAX_PHOTOS))
    return [root / name for name in names]


def collect_photos(sources: list[Path], folder: Path) -> None:
    """Writes small copies of the photographs into a new folder; skips broken ones."""
    print(f"Collecting {len(sources)} photographs in {folder}")
    folder.mkdir()
    # The names in nested folders may repeat, or be too long; the number is unique.
    targets = [folder / f"{i:04d}_{s.stem[:40]}.jpg" for i, s in enumerate(sources)]
    with ThreadPoolExecutor() as pool:
        problems = [p for p in pool.map(copy_small, sources, targets) if p]
    for problem in problems[:10]:
        print(f"Skipped {problem}")
    if len(problems) > 10:
        print(f"Skipped {len(problems) - 10} more")
    if len(problems) == len(sources):
        raise DemoError(f"none of the {len(sources)} images can be read")


def copy_small(source: Path, target: Path) -> str | None:
    """Copies one photograph; returns what is wrong with it, if anything is."""
    try:
        image = LoadImage()(dict(img_path=str(source)))["img"]
    except Exception as error:  # a decoder may raise anything for a bad file
        reason = getattr(error, "reason", None) or str(error).strip().split("\n")[0]
        return f"{str(source)!r}: {reason}"
    scale = min(1.0, PHOTO_SIZE / min(image.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    target.write_bytes(cv2.imencode(".jpg", image)[1])
    return None


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
    launch.fit_to_machine(cfg)
    return cfg


def predictions_sheet(model: SAIM, photos: Path) -> np.ndarray:
    """Predictions beside originals for some of the photographs, cut to the centre."""
    size = tuple(model.backbone.img_size)
    images = read_images(photos, size, model.data_preprocessor, SHEET_ROWS)
    generator = torch.Generator(images.device).manual_seed(0)
    order = model.order_sampler.draw(len(images), images.device, generator)
    return reconstruction_sheet(model, images, order)


def write_results(runner: Runner, photos: Path, run_dir: Path) -> LossCurve:
    """Writes the three results into the run's folder and returns its loss curve."""
    model, curve = runner.model, read_loss_curve(run_dir)
    save_png(draw_loss_curve(curve), run_dir / "loss_curve.png")
    save_png(predictions_sheet(model, photos), run_dir / "predictions.png")
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
    runner = Runner.from_cfg(load_config(args, run_dir, photos))
    started = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - started
    curve = write_results(runner, photos, run_dir)
    for name in RESULTS:
        shutil.copy2(run_dir / name, args.work_dir / name)
    print(summary(curve, seconds, args.work_dir, run_dir))


def make_run_dir(work_dir: Path) -> Path:
    """Makes a new folder, named by the time, for one run."""
    run_dir = work_dir / time.strftime("%Y%m%d_%H%M%S")
    try:
        run_dir.mkdir(parents=True)
    except OSError as error:
        raise DemoError(f"cannot make {str(run_dir)!r}: {error.strerror}") from None
    return run_dir


@contextlib.contextmanager
def removed_if_stopped(run_dir: Path) -> Iterator[None]:
    """Leaves nothing of a run that was interrupted or had no usable images.

    What an unforeseen error leaves stays: the log is needed to understand it.
    """
    try:
        yield
    except (DemoError, KeyboardInterrupt):
        shutil.rmtree(run_dir, ignore_errors=True)
        with contextlib.suppress(OSError):  # results of earlier runs
            run_dir.parent.rmdir()
        raise


def main() -> int:
    """Returns the exit code: 2 for unusable input, 130 after Ctrl-C."""
    args = parse_args()
    try:
        sources = photos_of(args.data) if args.data else sample_photos()
        run_dir = make_run_dir(args.work_dir)
        with removed_if_stopped(run_dir):
            run(args, sources, run_dir)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; this run leaves nothing behind.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
