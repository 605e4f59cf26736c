"""Labelled images in folders of classes, as ImageNet and ImageFolder lay them out.

Not read by mmpretrain's ``CustomDataset``: hidden and empty folders are classes to it,
which shifts all labels after them, and a link to a folder above it is an error.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import Compose
from torch.utils.data import Dataset

from .fixed_view import loaded_view
from .image_files import IMAGE_SUFFIXES, list_images, suffixes_of, warn_of_left_out

TRAIN_FOLDER = "train"
VAL_FOLDERS = ("val", "test")

#: Class -> the paths of its images.
ClassPaths = Mapping[str, list[str]]


class ClassImages(Dataset):
    """Images with labels, resized and cropped as for testing; always the same.

    Items are as of mmpretrain's ``PackInputs``: ``inputs``, a (C, H, W) tensor, uint8
    in BGR or float32, and ``data_samples`` with ``gt_label``.

    Args:
        images: Class -> the paths of its images.
        classes: All classes; a label is an index into them.
        size: Rows and columns after the crop, in pixels.
        crop_ratio: Share of the resized image's short edge that the crop keeps; 224 of
            256, the usual one for ImageNet, by default. 1 crops nothing of a square.
        channels: As for :class:`LoadImage`.

    Raises:
        ValueError: If the ratio is not in (0, 1].
    """

    def __init__(
        self,
        images: ClassPaths,
        classes: list[str],
        size: tuple[int, int],
        crop_ratio: float = 224 / 256,
        channels: int | None = None,
    ) -> None:
        self.channels = channels
        self.classes = tuple(classes)
        index = {name: label for label, name in enumerate(classes)}
        self.samples = [(path, index[name]) for name in images for path in images[name]]
        self._transform = Compose(loaded_view(size, crop_ratio, channels))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        path, label = self.samples[idx]
        return self._transform(dict(img_path=path, gt_label=label))


def split_class_folders(
    root: str | Path,
    size: tuple[int, int],
    val_share: float | None = None,
    images_per_class: int | None = None,
    val_images_per_class: int | None = None,
    crop_ratio: float = 224 / 256,
    channels: int | None = None,
) -> tuple[ClassImages, ClassImages]:
    """Finds the labelled images to learn from and those to be judged on.

    They are the same in every run: what is left out, and what is split off, depends on
    the names alone.

    Args:
        root: Has ``train/<class>/`` and ``val/<class>/`` (or ``test``). With
            ``val_share`` it has ``<class>/``, or only ``train/<class>/``.
        size: As for :class:`ClassImages`.
        val_share: Share of each class, in (0, 1), that is split off for validation.
        images_per_class: Use at most so many images of each class to learn from.
        val_images_per_class: Use at most so many images of each class to judge.
        crop_ratio: As for :class:`ClassImages`.
        channels: As for :class:`LoadImage`; ``.npy`` files are images then.

    Raises:
        FileNotFoundError: If folders are missing; the message says which.
        ValueError: If classes are empty or unknown, or an option is out of range.
    """
    if val_share is not None and not 0 < val_share < 1:
        raise ValueError(
            f"val_share={val_share} must be greater than 0 and less than 1, such as 0.2"
        )
    limits = dict(
        images_per_class=images_per_class, val_images_per_class=val_images_per_class
    )
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(
                f"{name}={limit} must be at least 1; leave it out to use every image"
            )
    root = Path(root).expanduser()
    suffixes = suffixes_of(channels)
    if val_share is None:
        train, val = _read(root, suffixes)
    else:
        train, val = _split(root, val_share, suffixes)
    unknown = sorted(set(val) - set(train))
    if unknown:
        raise ValueError(
            f"{root}: classes {unknown[:5]} ({len(unknown)} in all) are to be judged "
            f"but have no folder in {root / TRAIN_FOLDER}; give both the same folders."
        )
    classes = sorted(train)
    view = (classes, size, crop_ratio, channels)
    return (
        ClassImages(_limit(train, images_per_class), *view),
        ClassImages(_limit(val, val_images_per_class), *view),
    )


def _read(root: Path, suffixes: tuple[str, ...]) -> tuple[ClassPaths, ClassPaths]:
    """The images of ``train`` and of the first of ``VAL_FOLDERS`` that is there."""
    val = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if val is None or not (root / TRAIN_FOLDER).is_dir():
        raise FileNotFoundError(
            f"{root}: wanted the folders {TRAIN_FOLDER}/<class>/ and "
            f"{' or '.join(VAL_FOLDERS)}/<class>/, and found {_subfolders(root)}; give "
            "the folder above them, or a val_share (--val-share 0.2) to split one."
        )
    train = list_class_folders(root / TRAIN_FOLDER, suffixes)
    return train, list_class_folders(val, suffixes)


def _split(
    root: Path, val_share: float, suffixes: tuple[str, ...]
) -> tuple[ClassPaths, ClassPaths]:
    """Splits one set of class folders."""
    both = [name for name in VAL_FOLDERS if (root / name).is_dir()]
    if both:
        raise ValueError(
            f"{root}: has {both[0]}/ already, so val_share={val_share} would split "
            "nothing off; leave it out."
        )
    folder = root / TRAIN_FOLDER if (root / TRAIN_FOLDER).is_dir() else root
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, paths in list_class_folders(folder, suffixes).items():
        if len(paths) < 2:
            raise ValueError(
                f"{folder / name} has one image; at least two are needed to split some "
                "off for validation."
            )
        number = min(max(round(val_share * len(paths)), 1), len(paths) - 1)
        chosen = set(_choose(name, paths, number))
        val[name] = sorted(chosen)
        train[name] = [path for path in paths if path not in chosen]
    return train, val


def list_class_folders(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> ClassPaths:
    """Class -> the paths of its images, nested or flat; both sorted.

    Args:
        folder: Has ``<class>/``; hidden folders and other files do not count.
        suffixes: Suffixes that make a file an image, in lower case.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no class, or a class no image.
    """
    found, left_out = {}, Counter[str]()
    for name in _subfolders(folder):
        paths, others = list_images(str(folder / name), suffixes)
        found[name] = [str(folder / name / path) for path in paths]
        left_out += others
    empty = [name for name, paths in found.items() if not paths]
    if empty or not found:
        reason = f"no image in {empty[:5]}" if empty else "no class folders"
        raise ValueError(
            f"{folder}: {reason}; images belong into one folder per class, "
            f"{folder}/<class>/."
        )
    warn_of_left_out(str(folder), sum(map(len, found.values())), left_out)
    return found


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _limit(images: ClassPaths, number: int | None) -> ClassPaths:
    if number is None:
        return images
    return {c: sorted(_choose(c, p, min(number, len(p)))) for c, p in images.items()}


def _choose(name: str, paths: list[str], number: int) -> list[str]:
    """Some images of a class, at random but always the same."""
    # Not the first ones: files are often numbered along a video or a photographer.
    # As bytes, for names that are not UTF-8; of others the seed is the same.
    return random.Random(os.fsencode(name)).sample(paths, number)
