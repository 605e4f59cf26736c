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
import io
import math
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
from PIL import Image

from saim_mm.datasets import LoadImage, list_images
from saim_mm.datasets.image_files import read_image_list
from saim_mm.datasets.tar_shards import (
    MANIFEST,
    Manifest,
    Member,
    PackError,
    check_name,
    names_checksum,
    read_index,
    shard_path,
    verify_tar,
    write_index,
    write_tar,
)
from saim_mm.utils.atomic_file import remove_parts, write_atomically

#: Images over which the cost of reducing is measured, and the side they are shown at.
SAMPLE = 100
SIDE = 224


def parse_args() -> argparse.Namespace:
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
    args = parser.parse_args()
    if args.verify != (args.src is None):
        parser.error("give SRC and DST to pack, or --verify and DST alone")
    if min(args.images_per_shard, args.workers) < 1:
        parser.error("--images-per-shard and --workers must be positive")
    reencodes = args.short_side is not None and not args.uncompressed
    if args.quality is not None and not reencodes:
        parser.error("--quality is for --short-side without --uncompressed")
    if args.short_side is not None and args.short_side < 1:
        parser.error("--short-side must be positive")
    if reencodes:
        args.quality = 95 if args.quality is None else args.quality
        if not 1 <= args.quality <= 100:
            parser.error("--quality must be from 1 to 100")
    return args


def find_names(src: Path, ann_file: str | None) -> list[str]:
    """Names of the images to pack, in their order.

    Raises:
        PackError: If there are none, or they cannot be the names of members.
    """
    if not src.is_dir():
        raise PackError(f"{str(src)!r} is no folder")
    names = read_image_list(ann_file) if ann_file else list_images(str(src))[0]
    if not names:
        raise PackError(f"{str(src)!r} holds no images")
    for name in names:
        check_name(name)
    if len(set(names)) != len(names):
        raise PackError(f"{ann_file!r} lists an image more than once")
    return names


def begin(dst: Path, plan: Manifest) -> None:
    """Makes the folder of a new pack, or checks that an old one is of this plan.

    Raises:
        PackError: If the folder holds something else.
    """
    dst.mkdir(parents=True, exist_ok=True)
    if (dst / MANIFEST).exists():
        old = Manifest.read(dst)
        if old._replace(complete=False, psnr=None) != plan:
            raise PackError(
                f"{str(dst)!r} holds a pack of other images, or made with other "
                "options; repeat its own command, or choose another folder"
            )
        remove_parts(dst)
        return
    if any(dst.iterdir()):
        raise PackError(f"{str(dst)!r} is neither empty nor a pack; choose another one")
    plan.write(dst)


def read_bytes(src: Path, name: str) -> bytes:
    """The bytes of an image; none if it cannot be read, so that it counts as broken."""
    try:
        return (src / name).read_bytes()
    except OSError:
        return b""


def changed(src: Path, name: str, short_side: float, quality: int | None) -> bytes:
    """The bytes of an image, reduced if it is larger and encoded again.

    Args:
        src: Folder of the image.
        name: Its name.
        short_side: Shorter side of the result, in pixels; infinity reduces none.
        quality: JPEG quality; None stands for bitmaps.

    Returns:
        The bytes to pack. They are those of the file if it is broken, or would have to
        be encoded again without being reduced.
    """
    path = src / name
    try:
        pixels = LoadImage()(dict(img_path=str(path)))["img"]
    except Exception:  # a decoder may raise anything for a broken file, which stays so
        return read_bytes(src, name)
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    if quality is None:
        return cv2.imencode(".bmp", pixels)[1].tobytes()
    if scale >= 1:
        return read_bytes(src, name)
    buffer = io.BytesIO()
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def pack_shard(
    shard: Path, names: list[str], read: Callable[[str], bytes]
) -> list[Member]:
    """Writes a tar file and its index, unless both are there; a pack's unit of work."""
    try:
        members = read_index(shard)
        if [member.name for member in members] == names:
            return members
    except (FileNotFoundError, PackError):
        pass
    members = []
    write_atomically(
        shard,
        lambda file: members.extend(write_tar(file, names, read)),
        check=lambda part: verify_tar(part, members),
    )
    write_index(shard, members)
    return members


def in_turn_or_parallel(
    workers: int, function: Callable, *arguments: Iterable
) -> Iterable:
    """Maps a function, by several processes if asked to; results keep their order."""
    if workers == 1:
        yield from map(function, *arguments)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from pool.map(function, *arguments)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def pack(args: argparse.Namespace) -> None:
    """Packs what is not packed yet."""
    names = find_names(args.src, args.list)
    plan = Manifest(
        images=len(names),
        images_per_shard=args.images_per_shard,
        names_sha256=names_checksum(names),
        short_side=args.short_side,
        quality=args.quality,
        uncompressed=args.uncompressed,
    )
    begin(args.dst, plan)
    read = partial(read_bytes, args.src)
    changes = args.uncompressed or args.short_side
    if changes:
        options = dict(short_side=args.short_side or math.inf, quality=args.quality)
        read = partial(changed, args.src, **options)
    step = args.images_per_shard
    shards = [shard_path(args.dst, number) for number in range(plan.shards)]
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    total, empty = 0, []
    done = in_turn_or_parallel(
        args.workers, pack_shard, shards, parts, [read] * len(shards)
    )
    for number, (shard, members) in enumerate(zip(shards, done, strict=True), 1):
        total += sum(member.size for member in members)
        empty += [member.name for member in members if not member.size]
        print(f"[{number}/{len(shards)}] {shard.name}: {len(members)} images")
    psnr = measure_cost(args.src, names, read) if changes else None
    plan._replace(complete=True, psnr=psnr).write(args.dst)
    print(f"{len(names)} images, {total / 2**20:,.1f} MiB, in {args.dst}")
    for name in empty[:10]:
        print(f"empty or unreadable: {name}")
    if len(empty) > 10:
        print(f"and {len(empty) - 10} more")


def measure_cost(
    src: Path, names: list[str], read: Callable[[str], bytes]
) -> dict[str, float] | None:
    """PSNR of changed images against their originals, both resized to SIDE."""
    found = []
    for name in names[:: math.ceil(len(names) / SAMPLE)]:
        content, original = read(name), read_bytes(src, name)
        if content != original:  # so it is not broken
            found.append(psnr(as_seen(content, name), as_seen(original, name)))
    if not found:
        print("no image of the sample was changed")
        return None
    cost = dict(mean=round(mean(found), 2), least=round(min(found), 2))
    print(
        f"packed images against their originals, at {SIDE} x {SIDE} pixels: PSNR "
        f"{cost['mean']} dB, at least {cost['least']} dB, over {len(found)} images"
    )
    return cost


def as_seen(content: bytes, name: str) -> np.ndarray:
    """An image as a whole, (SIDE, SIDE, 3) uint8."""
    image = Image.fromarray(LoadImage().decode(content, name))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """Peak signal to noise, in dB; 99 for equal images."""
    error = np.mean((image.astype(float) - original) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


def verify_shard(shard: Path) -> str | None:
    """What is wrong with a tar file, if anything is."""
    try:
        verify_tar(shard, read_index(shard))
    except (PackError, OSError) as error:
        return str(error)
    return None


def verify(args: argparse.Namespace) -> None:
    """Compares a pack with its checksums.

    Raises:
        PackError: If something is wrong.
    """
    manifest = Manifest.read(args.dst)
    shards = [shard_path(args.dst, number) for number in range(manifest.shards)]
    faults = []
    for fault in in_turn_or_parallel(args.workers, verify_shard, shards):
        if fault:
            print(f"error: {fault}", file=sys.stderr)
            faults.append(fault)
    if faults:
        raise PackError(
            f"{len(faults)} of {len(shards)} tar files are bad; remove them and repeat "
            "the command that packed them"
        )
    if not manifest.complete:
        raise PackError("the pack is not complete; repeat the command that packs it")
    print(
        f"{manifest.images} images in {len(shards)} tar files are as they were packed"
    )


def main() -> int:
    """Returns the exit code."""
    args = parse_args()
    try:
        (verify if args.verify else pack)(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
