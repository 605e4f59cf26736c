"""Labelled images in folders of classes, as ImageNet and ImageFolder lay them out.

mmpretrain's ``CustomDataset`` takes hidden and empty folders for classes, which shifts
all labels after them, and ends at a link to a folder above it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dataset import Compose
from mmpretrain.datasets import ImageNet
from torch.utils.data import Dataset

from ..registry import register
from .fixed_view import fixed_view
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
        size: As for :func:`fixed_view`, as are ``crop_ratio`` and ``channels``.
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
        self._transform = Compose(fixed_view(size, crop_ratio, channels))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        path, label = self.samples[idx]
        return self._transform(dict(img_path=path, gt_label=label))


@register("dataset")
class ImageNetPart(ImageNet):
    """mmpretrain's ``ImageNet`` without every so-manieth image, or of these alone.

    They are taken in the order of the folders, and so evenly of each class.

    Args:
        every: How many images there are to each that is held out.
        held_out: Whether these are those that are held out.

    Raises:
        ValueError: If ``every`` is less than 2.
    """

    def __init__(self, every: int = 50, held_out: bool = False, **kwargs: Any) -> None:
        if every < 2:
            raise ValueError(f"every={every} must be at least 2, or nothing is left.")
        self.every, self.held_out = every, held_out
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Those that are, or are not, at multiples of ``every``."""
        return [
            image
            for index, image in enumerate(super().load_data_list())
            if (index % self.every == 0) == self.held_out
        ]


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
        size: As for :func:`fixed_view`.
        val_share: Share of each class, in (0, 1), that is split off for validation.
        images_per_class: Use at most so many images of each class to learn from.
        val_images_per_class: Use at most so many images of each class to judge.
        crop_ratio: As for :func:`fixed_view`.
        channels: As for :class:`LoadImage`; ``.npy`` files are images then.

    Raises:
        FileNotFoundError: If folders are missing; the message says which.
        ValueError: If classes are empty or unknown, or an option is out of range.
    """
    if val_share is not None and not 0 < val_share < 1:
        raise ValueError(
            f"val_share={val_share} must be greater than 0 and less than 1, such as 0.2"
        )
    for name, limit in (
        ("images_per_class", images_per_class),
        ("val_images_per_class", val_images_per_class),
    ):
        if limit is not None and limit < 1:
            raise ValueError(
                f"{name}={limit} must be at least 1; leave it out to use every image"
            )
    root = Path(root).expanduser()
    suffixes = suffixes_of(channels)
    folder = root / TRAIN_FOLDER
    judged = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if val_share is not None:
        if judged is not None:
            raise ValueError(
                f"{root}: has {judged.name}/ already, so val_share={val_share} would "
                "split nothing off; leave it out."
            )
        train, val = _split(folder if folder.is_dir() else root, val_share, suffixes)
    elif judged is None or not folder.is_dir():
        raise FileNotFoundError(
            f"{root}: wanted the folders {TRAIN_FOLDER}/<class>/ and "
            f"{' or '.join(VAL_FOLDERS)}/<class>/, and found {_subfolders(root)}; give "
            "the folder above them, or a val_share (--val-share 0.2) to split one."
        )
    else:
        train = list_class_folders(folder, suffixes)
        val = list_class_folders(judged, suffixes)
    unknown = sorted(set(val) - set(train))
    if unknown:
        raise ValueError(
            f"{root}: classes {unknown[:5]} ({len(unknown)} in all) are to be judged "
            f"but have no folder in {folder}; give both the same folders."
        )
    train, val = _limit(train, images_per_class), _limit(val, val_images_per_class)
    view = (sorted(train), size, crop_ratio, channels)
    return ClassImages(train, *view), ClassImages(val, *view)


def _split(
    folder: Path, val_share: float, suffixes: tuple[str, ...]
) -> tuple[ClassPaths, ClassPaths]:
    """Splits one set of class folders."""
    train: dict[str, list[str]] = {}
    val: dict[str, list[str]] = {}
    for name, paths in list_class_folders(folder, suffixes).items():
        if len(paths) < 2:
            raise ValueError(
                f"{folder / name} has one image; at least two are needed to split some "
                "off for validation."
            )
        number = min(max(round(val_share * len(paths)), 1), len(paths) - 1)
        val[name] = _choose(name, paths, number)
        train[name] = sorted(set(paths) - set(val[name]))
    return train, val


def list_class_folders(
    folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> ClassPaths:
    """Class -> the paths of its images, nested or flat; both sorted.

    The folder has ``<class>/``; hidden folders and other files do not count.

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
    return {c: _choose(c, p, min(number, len(p))) for c, p in images.items()}


def _choose(name: str, paths: list[str], number: int) -> list[str]:
    """Some images of a class, at random but always the same."""
    # Not the first ones: files are often numbered along a video or a photographer.
    # As bytes, for names that are not UTF-8; of others the seed is the same.
    return sorted(random.Random(os.fsencode(name)).sample(paths, number))
