#!/usr/bin/env python
"""Packs a folder of images into a few large tar files, for network disks.

    pack_images.py SRC DST      packs, or goes on where it was stopped
    pack_images.py --verify DST reads a whole pack and compares it with its checksums

The images keep their bytes, unless --short-side asks for smaller ones or --uncompressed
for pixels that need no decoding; what that costs is measured at the end. Train with
type='PackedImages' and data_root=DST.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.datasets.packing import SIDE, Packed, PackOptions, pack_images, verify_pack
from saim_mm.utils.command_line import one_line_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("src", nargs="?", type=Path, help="folder of images, nested or flat")
    add("dst", type=Path, help="folder of the pack")
    add("--verify", action="store_true", help="read DST and compare it; needs no SRC")
    add("--list", metavar="FILE", help="pack these images of SRC, one path a line")
    add(
        "--images-per-shard",
        type=int,
        default=10_000,
        metavar="N",
        help="images in one tar file (default: %(default)s, about 1 GB of ImageNet)",
    )
    add(
        "--short-side",
        type=int,
        metavar="PIXELS",
        help="reduce images whose shorter side is longer, and encode them again",
    )
    add("--quality", type=int, help="JPEG quality of reduced images (default: 95)")
    add(
        "--uncompressed",
        action="store_true",
        help="pack decoded images: several times the space, and a fraction of the time",
    )
    add("--workers", type=int, default=1, metavar="N", help="processes")  # fmt: skip
    add(
        "--follow-links",
        action="store_true",
        help="pack also what links in SRC have outside of it",
    )
    args = parser.parse_args(argv)
    if args.verify != (args.src is None):
        parser.error("give SRC and DST to pack, or --verify and DST alone")
    if args.workers < 1:
        parser.error("--workers must be positive")
    try:
        args.options = PackOptions(
            args.images_per_shard, args.short_side, args.quality, args.uncompressed
        )
    except ValueError as error:
        parser.error(str(error))
    return args


def show_shard(number: int, total: int, shard: Path, images: int) -> None:
    """Says that a tar file is packed."""
    print(f"[{number}/{total}] {shard.name}: {images} images")


def show(packed: Packed, folder: Path) -> None:
    """Says what was packed, and what changes cost."""
    manifest = packed.manifest
    if manifest.psnr:
        print(
            f"packed images against their originals, at {SIDE} x {SIDE} pixels: PSNR "
            f"{manifest.psnr['mean']} dB, at least {manifest.psnr['least']} dB, over "
            f"{packed.measured} images"
        )
    elif manifest.uncompressed or manifest.short_side:
        print("no image of the sample was changed")
    print(f"{manifest.images} images, {packed.bytes / 2**20:,.1f} MiB, in {folder}")
    for name in packed.empty[:10]:
        print(f"empty or unreadable: {name!r}")
    if len(packed.empty) > 10:
        print(f"and {len(packed.empty) - 10} more")


def show_fault(fault: str) -> None:
    """Says what is wrong with a tar file."""
    print(f"error: {fault}", file=sys.stderr)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    args = parse_args(argv)
    try:
        if args.verify:
            found = verify_pack(args.dst, args.workers, show_fault)
            files = f"{found.images} images in {found.shards} tar files"
            print(f"{files} are as they were packed")
            return 0
        packed = pack_images(
            args.src,
            args.dst,
            args.options,
            args.list,
            args.workers,
            args.follow_links,
            show_shard,
        )
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    show(packed, args.dst)
    return 0


if __name__ == "__main__":
    sys.exit(main())
