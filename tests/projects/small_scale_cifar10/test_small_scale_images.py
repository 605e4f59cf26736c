"""The suite's images: crops, normalisation, batches, splits."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image
from small_scale_folders import write_folder
from torch import Tensor

from projects.small_scale_cifar10.images import (
    Images,
    augmented_batches,
    change_colours,
    crop_and_flip,
    load_split,
    multi_crop,
    normalise,
    one_crop,
)

ROOT = Path(__file__).parents[3]


def ramp(batch: int) -> Tensor:
    """Images (B, 3, 32, 32) whose value is the place: column, row, one."""
    place = (torch.arange(32) + 0.5) / 32 * 200
    column, row = place.expand(32, 32), place[:, None].expand(32, 32)
    return torch.stack([column, row, torch.full((32, 32), 7.0)]).expand(
        batch, -1, -1, -1
    )


def test_crops_keep_area_and_ratio_and_stay_inside() -> None:
    """On a ramp, the inner values of a crop tell its sides and corners."""
    views = crop_and_flip(ramp(500), torch.Generator().manual_seed(0))
    # Slopes are per pixel of the crop; borders are left out (bicubic looks beyond).
    width = (views[:, 0, 16, 20] - views[:, 0, 16, 12]) / 8 * 32 / 200
    height = (views[:, 1, 20, 16] - views[:, 1, 12, 16]) / 8 * 32 / 200
    share, ratio = (width * height).abs(), (width / height).abs()
    # A crop that would be wider than the image is cut to its width.
    assert share.min() > 0.6 and share.max() <= 1 + 1e-4
    assert 0.66 < share.median() < 1
    assert ratio.min() > 0.72 and ratio.max() < 1.38  # torch's bicubic bends a ramp
    assert (height > 0).all()
    assert 0.4 < (width < 0).float().mean() < 0.6  # flipped
    left = views[:, 0, 16, 16] / 200 - width / 2 / 32
    assert (left - width.abs() / 2).min() > -0.01
    assert (left + width.abs() / 2).max() < 1.01
    assert torch.allclose(views[:, 2], torch.tensor(7.0), atol=1e-3)


def test_the_whole_image_is_the_image_or_its_mirror() -> None:
    images = torch.rand(20, 3, 32, 32) * 255
    views = crop_and_flip(
        images, torch.Generator().manual_seed(0), area=(1, 1), ratio=(1, 1)
    )
    same = (views - images).flatten(1).abs().max(dim=1).values
    mirrored = (views - images.flip(3)).flatten(1).abs().max(dim=1).values
    assert torch.minimum(same, mirrored).max() < 0.05
    assert same.min() < 0.05 and mirrored.min() < 0.05


def test_multi_crop_has_two_large_crops_and_local_ones_of_half_the_side() -> None:
    generator = torch.Generator().manual_seed(0)
    crops = multi_crop(ramp(3), generator, local=4)
    sides = [tuple(crop.shape) for crop in crops]
    assert sides == [(3, 3, 32, 32)] * 2 + [(3, 3, 16, 16)] * 4
    assert not torch.equal(crops[0], crops[1])


def test_a_local_crop_shows_a_small_part() -> None:
    """Of a ramp, the spread of the columns tells how wide a crop is."""
    generator = torch.Generator().manual_seed(0)
    crop = crop_and_flip(ramp(400), generator, (0.1, 0.4), size=16)
    width = (crop[:, 0, 8, 10] - crop[:, 0, 8, 6]).abs() / 4 * 16 / 200
    height = (crop[:, 1, 10, 8] - crop[:, 1, 6, 8]) / 4 * 16 / 200
    share = width * height
    assert share.min() > 0.07 and share.max() < 0.43
    assert 0.2 < share.median() < 0.3


def test_colours_change_as_they_should() -> None:
    """On one colour: four of five are changed, one of five is grey."""
    colour = torch.tensor([120.0, 80.0, 40.0]).view(1, 3, 1, 1)
    images = colour.expand(4000, 3, 2, 2)
    changed = change_colours(images, torch.Generator().manual_seed(0))[:, :, 0, 0]
    spread = changed.amax(1) - changed.amin(1)
    assert 0.17 < (spread < 1e-3).float().mean() < 0.23
    same = (changed - images[:, :, 0, 0]).abs().amax(1) < 1e-3
    assert 0.13 < same.float().mean() < 0.19  # unchanged 0.2, of these grey 0.2
    light = changed @ torch.tensor([0.299, 0.587, 0.114])
    before = (images[0, :, 0, 0] @ torch.tensor([0.299, 0.587, 0.114])).item()
    factor = light / before
    # Of one colour neither contrast nor saturation moves the lightness.
    assert 0.59 < factor.min() < 0.62 and 1.38 < factor.max() < 1.41


def test_normalises_as_any_other_run_does() -> None:
    """The configs read BGR and turn it round; here it is RGB from the start."""
    config = Config.fromfile(ROOT / "configs/_base_/datasets/in1k_224.py")
    preprocessor = dict(config.data_preprocessor, type="SelfSupDataPreprocessor")
    rgb = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = MODELS.build(preprocessor)(
        dict(inputs=rgb.flip(1), data_samples=None), True
    )["inputs"]
    torch.testing.assert_close(normalise(rgb), expected)


def test_batches_are_epochs_without_repetition() -> None:
    labels = torch.arange(10)
    images = Images(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), labels)
    generator = torch.Generator().manual_seed(0)
    batches = list(islice(augmented_batches(images, 4, one_crop, generator), 6))
    for epoch in range(3):  # the rest of two images is dropped, each epoch
        seen = torch.cat([found for _, found in batches[2 * epoch : 2 * epoch + 2]])
        assert len(set(seen.tolist())) == 8


def test_parts_are_disjoint_balanced_and_always_the_same(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    split = load_split(root, 32, train=20, held_out=10, test=20)
    again = load_split(root, 32, train=20, held_out=10, test=20)
    seen = set()
    for name, size in (("train", 20), ("held_out", 10), ("test", 20)):
        part, other = getattr(split, name), getattr(again, name)
        assert part.pixels.shape == (size, 3, 32, 32)
        assert part.labels.bincount().tolist() == [size // 2] * 2
        assert torch.equal(part.pixels, other.pixels)
        seen |= {image.numpy().tobytes() for image in part.pixels}
        assert (part.pixels.float().mean((1, 2, 3)) > 100).long().equal(part.labels)
    assert len(seen) == 50


def test_the_choice_of_images_is_the_published_one(tmp_path: Path) -> None:
    """Figures were published with it: of 15 sorted files, these in this order."""
    root = write_folder(tmp_path, classes=1)
    for i, path in enumerate(sorted((root / "train/class0").iterdir())):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(path)
    split = load_split(root, 32, train=10, held_out=5, test=10)
    assert split.train.pixels[:, 0, 0, 0].tolist() == [1, 10, 9, 5, 11, 2, 3, 7, 8, 4]
    assert split.held_out.pixels[:, 0, 0, 0].tolist() == [0, 14, 12, 6, 13]


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold train/CLASS"):
        load_split(tmp_path, 32, 20, 10, 20)
    root = write_folder(tmp_path / "folder")
    with pytest.raises(ValueError, match="15 images and 20 are wanted"):
        load_split(root, 32, 30, 10, 20)
    with pytest.raises(ValueError, match="multiples of the number of classes"):
        load_split(root, 32, 21, 10, 20)
    with pytest.raises(ValueError, match=r"\(32, 32\) pixels and all must have"):
        load_split(root, 16, 20, 10, 20)
