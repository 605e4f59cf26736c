"""Packs a folder of images into tar files, and compares a pack with its checksums."""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..utils.atomic_file import remove_parts, write_atomically
from .image_files import list_images, read_image_list, read_regular, warn_of_left_out
from .load_image import MAX_BYTES, LoadImage
from .packed_images import (
    MANIFEST,
    Manifest,
    Member,
    PackError,
    check_name,
    names_checksum,
    read_index,
    read_pack,
    shard_path,
    verify_tar,
    write_index,
    write_tar,
)

#: Images over which the cost of changes is measured, and the side they are shown at.
SAMPLE = 100
SIDE = 224


@dataclass(frozen=True)
class PackOptions:
    """How images become a pack.

    Attributes:
        images_per_shard: Images in every tar file but the last.
        short_side: Shorter side to which larger images are reduced, in pixels.
        quality: JPEG quality of the reduced images; 95 by default where there are any.
        uncompressed: Decode all images and pack bitmaps.

    Raises:
        ValueError: If an option is out of its range, or would have no effect.
    """

    images_per_shard: int = 10_000
    short_side: int | None = None
    quality: int | None = None
    uncompressed: bool = False

    def __post_init__(self) -> None:
        for name in ("images_per_shard", "short_side"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be positive")
        if self.short_side is None or self.uncompressed:
            if self.quality is not None:
                raise ValueError(
                    f"quality={self.quality} is for short_side without uncompressed; "
                    "leave it out"
                )
            return
        quality = 95 if self.quality is None else self.quality
        if not 1 <= quality <= 100:
            raise ValueError(f"quality={quality} must be from 1 to 100, such as 95")
        object.__setattr__(self, "quality", quality)


class Packed(NamedTuple):
    """A finished pack.

    Attributes:
        manifest: What it holds.
        bytes: Size of all images.
        empty: Names of the images that were empty or could not be read.
        measured: Number of changed images that ``manifest.psnr`` is over.
    """

    manifest: Manifest
    bytes: int
    empty: list[str]
    measured: int


def pack_images(
    src: Path,
    dst: Path,
    options: PackOptions | None = None,
    ann_file: str | None = None,
    workers: int = 1,
    follow_links: bool = False,
    on_shard: Callable[[int, int, Path, int], object] = lambda *_: None,
) -> Packed:
    """Packs what is not packed yet: the same call goes on where one was stopped.

    Args:
        src: Folder of the images, nested or flat.
        dst: Folder of the pack: new, empty, or of a pack with the same options.
        options: By default images keep their bytes.
        ann_file: List of images; without, all of ``src``.
        workers: Processes.
        follow_links: Also pack what links in ``src`` have outside of it.
        on_shard: Is told of every tar file: which it is (from 1), of how many, its
            path and how many images it holds.

    Returns:
        What was packed, and over a sample of images what their changes cost.

    Raises:
        PackError: If images or folders cannot be used; a ``ValueError``.
        OSError: If a file cannot be written.
    """
    options = options or PackOptions()
    names = _find_names(src, ann_file)
    if not follow_links:
        _check_links(src, names)
    checksum = names_checksum(names)
    plan = Manifest(images=len(names), names_sha256=checksum, **vars(options))
    _begin(dst, plan)
    read = partial(_read_bytes, src)
    changes = options.uncompressed or options.short_side is not None
    if changes:
        side, quality = options.short_side or math.inf, options.quality
        read = partial(_changed, src, short_side=side, quality=quality)
    step = plan.images_per_shard
    shards = [shard_path(dst, number) for number in range(plan.shards)]
    parts = [names[start : start + step] for start in range(0, len(names), step)]
    total, empty = 0, []
    done = _in_turn_or_parallel(workers, partial(_pack_shard, read), shards, parts)
    for number, (shard, members) in enumerate(zip(shards, done, strict=True), 1):
        total += sum(member.size for member in members)
        empty += [member.name for member in members if not member.size]
        on_shard(number, len(shards), shard, len(members))
    costs = _measure_cost(src, names, read) if changes else []
    if costs:
        cost = dict(mean=round(mean(costs), 2), least=round(min(costs), 2))
        plan = plan._replace(psnr=cost)
    plan = plan._replace(complete=True)
    plan.write(dst)
    return Packed(plan, total, empty, len(costs))


def verify_pack(
    folder: Path, workers: int = 1, on_fault: Callable[[str], object] = lambda _: None
) -> Manifest:
    """Reads a whole pack and compares it with its checksums; returns what it holds.

    Args:
        folder: Of the pack.
        workers: Processes.
        on_fault: Is told what is wrong with each bad tar file, as soon as it is found.

    Raises:
        PackError: If something is wrong, or the pack is not complete.
        FileNotFoundError: If there is none.
    """
    manifest = Manifest.read(folder)
    # Their number is what a file claims; the time depends on those that are there.
    there = {path.name for path in folder.glob("images-*.tar")}
    found = (name.removeprefix("images-").removesuffix(".tar") for name in there)
    numbers = sorted({int(n) for n in found if n.isdecimal()})
    shards = [shard_path(folder, n) for n in numbers if n < manifest.shards]
    shards = [shard for shard in shards if shard.name in there]
    bad = manifest.shards - len(shards)
    if bad:
        paths = (shard_path(folder, number) for number in itertools.count())
        missing = next(path for path in paths if path.name not in there)
        on_fault(f"{bad} tar files are missing; the first one is {missing}")
    for fault in _in_turn_or_parallel(workers, _verify_shard, shards):
        if fault:
            on_fault(fault)
            bad += 1
    if bad:
        raise PackError(
            f"{bad} of {manifest.shards} tar files are bad; remove them and repeat the "
            "command that packed them"
        )
    if not manifest.complete:
        raise PackError("the pack is not complete; repeat the command that packs it")
    read_pack(folder)  # compares the names
    return manifest


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """Peak signal to noise of 8-bit images of one shape, in dB; 99 for equal ones."""
    error = np.mean((image.astype(float) - original) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 99.0


def _find_names(src: Path, ann_file: str | None) -> list[str]:
    """Names of the images to pack, in their order; they fit to be members' names."""
    if not src.is_dir():
        raise PackError(f"{str(src)!r} is no folder")
    if ann_file:
        names = read_image_list(ann_file)
    else:
        names, others = list_images(str(src))
        warn_of_left_out(str(src), len(names), others)
    if not names:
        raise PackError(f"{str(src)!r} holds no images")
    for name in names:
        check_name(name)
    if len(set(names)) != len(names):
        raise PackError(f"{ann_file!r} lists an image more than once")
    return names


def _check_links(src: Path, names: list[str]) -> None:
    """Refuses links to files that the owner of ``src`` may not mean to give away."""
    # The links of a folder are followed once for all of its images.
    root, folder_of = os.path.realpath(src), cache(os.path.realpath)

    def is_inside(name: str) -> bool:
        path = os.path.join(root, name)
        linked = os.path.islink(path)
        real = os.path.realpath(path) if linked else folder_of(os.path.dirname(path))
        return os.path.commonpath([root, real]) == root

    outside = [name for name in names if not is_inside(name)]
    if outside:
        raise PackError(
            f"{len(outside)} images, such as {outside[0]!r}, are links to outside of "
            f"{str(src)!r}; if their content may be in the pack, add --follow-links"
        )


def _begin(dst: Path, plan: Manifest) -> None:
    """Makes the folder of a new pack, or checks that an old one is of this plan."""
    dst.mkdir(parents=True, exist_ok=True)
    if not (dst / MANIFEST).exists():
        if any(dst.iterdir()):
            reason = "is neither empty nor a pack; choose another one"
            raise PackError(f"{str(dst)!r} {reason}")
        plan.write(dst)
    elif Manifest.read(dst)._replace(complete=False, psnr=None) != plan:
        raise PackError(
            f"{str(dst)!r} holds a pack of other images, or made with other options; "
            "repeat its own command, or choose another folder"
        )
    remove_parts(dst)


def _read_bytes(src: Path, name: str) -> bytes:
    """The bytes of an image; none if it cannot be read, so that it counts as broken."""
    try:
        return read_regular(src / name, MAX_BYTES)
    except OSError:
        return b""


def _changed(src: Path, name: str, short_side: float, quality: int | None) -> bytes:
    """The bytes of an image, reduced and encoded again, or its own if that is no use.

    ``short_side`` may be infinity; no ``quality`` stands for bitmaps.
    """
    try:
        pixels = LoadImage()(dict(img_path=str(src / name)))["img"]
    except Exception:  # a decoder may raise anything for a broken file, which stays so
        return _read_bytes(src, name)
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1 and quality is not None:
        return _read_bytes(src, name)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = _reduced(pixels, size)
    if quality is None:
        return cv2.imencode(".bmp", pixels)[1].tobytes()
    buffer = io.BytesIO()
    rgb = np.ascontiguousarray(pixels[..., ::-1])
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _pack_shard(
    read: Callable[[str], bytes], shard: Path, names: list[str]
) -> list[Member]:
    """Writes a tar file and its index, unless both are there; a pack's unit of work."""
    with suppress(FileNotFoundError, PackError):
        members = read_index(shard)
        if [member.name for member in members] == names:
            return members
    members = []
    write_atomically(
        shard,
        lambda file: members.extend(write_tar(file, names, read)),
        check=lambda part: verify_tar(part, members),
    )
    write_index(shard, members)
    return members


def _in_turn_or_parallel(
    workers: int, function: Callable, *arguments: Iterable
) -> Iterator:
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


def _measure_cost(
    src: Path, names: list[str], read: Callable[[str], bytes]
) -> list[float]:
    """PSNR of changed images of a sample against their originals, at SIDE x SIDE."""
    found = []
    for name in names[:: math.ceil(len(names) / SAMPLE)]:
        content, original = read(name), _read_bytes(src, name)
        if content != original:  # so it is not broken
            views = [LoadImage().decode(c, name) for c in (content, original)]
            found.append(psnr(*(_reduced(view, (SIDE, SIDE)) for view in views)))
    return found


def _reduced(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3) uint8 in another size, (width, height)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _verify_shard(shard: Path) -> str | None:
    """What is wrong with a tar file, if anything is."""
    try:
        verify_tar(shard, read_index(shard))
    except (PackError, OSError) as error:
        return str(error)
    return None
