"""A small labelled data set, wholly in the memory of the device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from saim_mm.datasets.class_folders import TRAIN_FOLDER, list_class_folders

#: ImageNet's, RGB, for images of 0 to 255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
TEST_FOLDERS = ("test", "val")
#: Images (B, 3, H, W) of 0 to 255 and a generator -> crops of the whole batch.
Crops = Callable[[Tensor, torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Images:
    """Images with labels.

    Attributes:
        pixels: (N, 3, H, W) uint8, RGB.
        labels: (N,) long.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        """The same on another device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DataSplit:
    """What is trained on, what chooses learning rates, and what judges."""

    train: Images
    held_out: Images
    test: Images

    def to(self, device: torch.device) -> DataSplit:
        """The same on another device."""
        return DataSplit(*(part.to(device) for part in vars(self).values()))


def load_split(
    root: Path, size: int, train: int, held_out: int, test: int
) -> DataSplit:
    """Reads ``train/CLASS/*`` and ``test/CLASS/*`` (or ``val``).

    Of each class equally many images are taken, always the same ones; those held out
    come from the training folder, beside those to train on.

    Args:
        root: The folder.
        size: Rows and columns that every image must have.
        train: Number of images to train on.
        held_out: Number of images that choose learning rates.
        test: Number of images to judge on.

    Raises:
        ValueError: If a folder is missing, a class has too few images or an image has
            another size.
    """
    judges = [root / name for name in TEST_FOLDERS if (root / name).is_dir()]
    if not (root / TRAIN_FOLDER).is_dir() or not judges:
        raise ValueError(
            f"{root} must hold {TRAIN_FOLDER}/CLASS/* and {TEST_FOLDERS[0]}/CLASS/*; "
            "give the folder in which these two lie."
        )
    seen = _read(root / TRAIN_FOLDER, size, (train, held_out))
    return DataSplit(seen[0], seen[1], _read(judges[0], size, (test,))[0])


def _read(folder: Path, size: int, counts: tuple[int, ...]) -> list[Images]:
    """Disjoint parts of a folder of classes, of these many images."""
    classes = list_class_folders(folder)
    if any(count % len(classes) for count in counts):
        raise ValueError(
            f"{folder} has {len(classes)} classes and {counts} images are wanted, "
            "equally many of each; use multiples of the number of classes."
        )
    parts: list[list[tuple[np.ndarray, int]]] = [[] for _ in counts]
    for label, (name, files) in enumerate(classes.items()):
        shares = [count // len(classes) for count in counts]
        if len(files) < sum(shares):
            raise ValueError(
                f"{folder / name} has {len(files)} images and {sum(shares)} are "
                "wanted; use a smaller preset."
            )
        # Of its own: the choice must not depend on any run's seed.
        random.Random(0).shuffle(files)
        chosen = iter(files)
        for part, share in zip(parts, shares, strict=True):
            part += [(_decode(next(chosen), size), label) for _ in range(share)]
    return [_stack(part) for part in parts]


def _decode(path: str, size: int) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != (size, size):
        raise ValueError(
            f"{path} has {pixels.shape[:2]} pixels and all must have {(size, size)}; "
            "resize the images first."
        )
    return pixels


def _stack(samples: list[tuple[np.ndarray, int]]) -> Images:
    pixels = torch.from_numpy(np.stack([pixels for pixels, _ in samples]))
    labels = torch.tensor([label for _, label in samples])
    return Images(pixels.permute(0, 3, 1, 2).contiguous(), labels)


def normalise(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 or float of 0 to 255 -> float32 by ImageNet's statistics."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() - mean) / std


def augmented_batches(
    images: Images, batch_size: int, crops: Crops, generator: torch.Generator
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Crops, normalised, with labels, for ever; the rest of an epoch is dropped.

    Args:
        images: N images, on the device to be used.
        batch_size: Images of a batch B.
        crops: What is made of a batch.
        generator: Source of all randomness, on that device.

    Yields:
        The crops, each of the whole batch (B, 3, H, W) float32, and labels (B,).
    """
    device = images.pixels.device
    while True:
        order = torch.randperm(len(images), device=device, generator=generator)
        for index in order.split(batch_size)[: len(images) // batch_size]:
            views = crops(images.pixels[index].float(), generator)
            yield [normalise(view) for view in views], images.labels[index]


def one_crop(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    """The paper's only crop."""
    return [crop_and_flip(images, generator)]


def multi_crop(images: Tensor, generator: torch.Generator, local: int) -> list[Tensor]:
    """Two large crops, and some of half the side, all with other colours, as DINO's."""
    views = [crop_and_flip(images, generator, (0.4, 1.0)) for _ in range(2)]
    half = images.shape[-1] // 2
    views += [
        crop_and_flip(images, generator, (0.1, 0.4), size=half) for _ in range(local)
    ]
    return [change_colours(view, generator) for view in views]


def change_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Changes brightness, contrast and saturation of most images, or takes all colour.

    Args:
        images: (B, 3, H, W) float, 0 to 255.
        generator: Source of randomness, on the device of the images.

    Returns:
        (B, 3, H, W). Four of five have each factor in [0.6, 1.4], in saturation [0.8,
        1.2]; one of five is grey.
    """

    def draw() -> Tensor:
        r = torch.rand(len(images), device=images.device, generator=generator)
        return r.view(-1, 1, 1, 1)

    changed = draw() < 0.8
    brightness, contrast, saturation = (
        torch.where(changed, 1 + strength * (2 * draw() - 1), images.new_ones(()))
        for strength in (0.4, 0.4, 0.2)
    )
    images = (images * brightness).clamp(0, 255)
    mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * contrast).clamp(0, 255)
    saturation = torch.where(draw() < 0.2, images.new_zeros(()), saturation)
    light = grey(images)
    return (light + (images - light) * saturation).clamp(0, 255)


def grey(images: Tensor) -> Tensor:
    """Lightness (B, 1, H, W) of RGB images, as ITU-R 601 weighs them."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def crop_and_flip(
    images: Tensor,
    generator: torch.Generator,
    area: tuple[float, float] = (0.67, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    size: int | None = None,
) -> Tensor:
    """Random resized crop and flip of the paper, for a whole batch at once.

    Args:
        images: (B, 3, H, W) float, 0 to 255.
        generator: Source of randomness, on the device of the images.
        area: Least and greatest share of the image that a crop keeps.
        ratio: Least and greatest ratio of width to height.
        size: Rows, and columns, of what is returned; by default those of the images.

    Returns:
        (B, 3, H, W), resampled bicubically.
    """

    def uniform(low: float, high: float) -> Tensor:
        r = torch.rand(len(images), device=images.device, generator=generator)
        return low + (high - low) * r

    share = uniform(*area)
    stretch = uniform(math.log(ratio[0]), math.log(ratio[1])).exp()
    # Half the sides of the crop, where half the image is 1; none leaves the image.
    width = (share * stretch).sqrt().clamp(max=1)
    height = (share / stretch).sqrt().clamp(max=1)
    flip = uniform(-1, 1).sign()
    zero = torch.zeros_like(width)
    theta = torch.stack(
        [
            torch.stack([width * flip, zero, uniform(-1, 1) * (1 - width)], dim=1),
            torch.stack([zero, height, uniform(-1, 1) * (1 - height)], dim=1),
        ],
        dim=1,
    )
    shape = [*images.shape[:2], *([size] * 2 if size else images.shape[2:])]
    grid = F.affine_grid(theta, shape, align_corners=False)
    views = F.grid_sample(
        images, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return views.clamp(0, 255)
