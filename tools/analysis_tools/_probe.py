"""What the probes share: arguments, features, errors in one line, the result."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import POOLS, FeatureExtractor, Features, build_encoder

#: Judges features to learn from and to be judged on; the result is printed as JSON.
Judge = Callable[[argparse.Namespace, Features, Features], dict[str, Any]]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every probe has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", type=Path, help="pretraining checkpoint, or a bare encoder"
    )
    parser.add_argument(
        "data", type=Path, help="folder with train/<class>/ and val|test/<class>/"
    )
    parser.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="split off this share of each class, if there is no val or test folder",
    )
    parser.add_argument("--config", type=Path, help="config of the checkpoint")
    parser.add_argument(
        "--num-heads", type=int, help="attention heads, if nothing else tells"
    )
    parser.add_argument(
        "--pool",
        choices=POOLS,
        default="avg",
        help="mean of the patches (default) or class token, of the last block",
    )
    parser.add_argument(
        "--images-per-class", type=int, metavar="N", help="at most N to learn from"
    )
    parser.add_argument(
        "--val-images-per-class", type=int, metavar="N", help="at most N to judge"
    )
    parser.add_argument(
        "--crop-ratio",
        type=float,
        default=224 / 256,
        help="share of the resized image that is seen (default 0.875; 1: all)",
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=4, help="loader processes")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--out", type=Path, help="write the result to this .json file")
    return parser


def run(parser: argparse.ArgumentParser, judge: Judge) -> int:
    """Extracts the features, judges them and prints the result.

    Returns:
        Exit status.
    """
    args = parser.parse_args()
    try:
        train, val, about = _extract(args)
        result = {**about, **judge(args, train, val)}
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(f"{text}\n", encoding="utf-8")
    return 0


def _extract(args: argparse.Namespace) -> tuple[Features, Features, dict[str, Any]]:
    """Features of both sets on the device, and what they are of."""
    start = time.perf_counter()
    backbone, preprocessor = build_encoder(args.checkpoint, args.config, args.num_heads)
    sets = split_class_folders(
        args.data,
        size=tuple(backbone.img_size),
        val_share=args.val_share,
        images_per_class=args.images_per_class,
        val_images_per_class=args.val_images_per_class,
        crop_ratio=args.crop_ratio,
    )
    extractor = FeatureExtractor(
        backbone.to(args.device), preprocessor.to(args.device), args.pool
    )
    train, val = (
        extractor.extract(images, args.batch_size, args.workers).to(args.device)
        for images in sets
    )
    about = dict(
        checkpoint=str(args.checkpoint),
        data=str(args.data),
        pool=args.pool,
        classes=len(sets[0].classes),
        train_images=len(train),
        val_images=len(val),
        seconds_for_features=round(time.perf_counter() - start, 1),
    )
    return train, val, about
