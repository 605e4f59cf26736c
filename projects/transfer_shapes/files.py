"""Writes scenes as the data sets that the task libraries read.

``unlabelled/``: images only; ``classes/{train,val}/<class>/``: one object each;
``scenes/``: several objects, once in COCO's and once in ADE20K's layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as rle

from saim_mm.utils.atomic_file import write_json

from .shapes import CLASSES, Scene, SceneMaker, Style

#: Classes of detection and segmentation: only two, and alike in nothing. In minutes a
#: model learns where objects are; with four classes it saw no difference between them.
SCENE_CLASSES = ("dotted_cross", "striped_disc")
#: One large object, for classification, and some smaller ones.
ONE = Style(count=(1, 1), radius=(24, 32))
FEW = Style(count=(1, 2), radius=(15, 22), classes=SCENE_CLASSES)
#: In a label map 0 is unlabelled, as in ADE20K, and then come these.
SEGMENTS = ("background", *SCENE_CLASSES)
#: Lists, in ``classes/``, which of its training images a seed may see the labels of.
LABELS = "labels_{seed}.txt"
#: Each data set draws from seeds of its own.
_UNLABELLED, _CLASSES, _SCENES = range(3)


@dataclass(frozen=True)
class Sizes:
    """How many images there are.

    Attributes:
        unlabelled: To pretrain on.
        labelled: Of each class, to learn from; every seed draws some of them.
        judged: Of each class, to be judged on.
        scenes: To learn detection and segmentation from.
        judged_scenes: To judge them on.
    """

    unlabelled: int = 6000
    labelled: int = 100
    judged: int = 100
    scenes: int = 320
    judged_scenes: int = 160


def write_data(maker: SceneMaker, folder: Path, sizes: Sizes) -> None:
    """Makes and writes all images and labels; the same ones in every run."""
    (folder / "unlabelled").mkdir(parents=True)
    for i in range(sizes.unlabelled):
        # Of both kinds that the labels are for, mostly of the one that shows more.
        scene = maker.make((_UNLABELLED, i), FEW if i % 4 == 3 else ONE)
        _write_image(folder / "unlabelled" / f"{i:05d}.jpg", scene.image)
    _write_classes(maker, folder / "classes" / "train", 0, sizes.labelled)
    _write_classes(maker, folder / "classes" / "val", 1, sizes.judged)
    _write_scenes(maker, folder / "scenes", "training", 0, sizes.scenes)
    _write_scenes(maker, folder / "scenes", "validation", 1, sizes.judged_scenes)


def choose_labels(folder: Path, seed: int, per_class: int) -> list[int]:
    """Draws the few labels of a seed and writes their list for the data set.

    Returns:
        Indices into all training images, class by class and sorted by name.
    """
    rng = np.random.default_rng(seed)
    chosen, lines, first = [], [], 0
    for label, name in enumerate(CLASSES):
        images = sorted((folder / "classes" / "train" / name).iterdir())
        drawn = sorted(rng.permutation(len(images))[:per_class].tolist())
        chosen += [first + i for i in drawn]
        lines += [f"{name}/{images[i].name} {label}" for i in drawn]
        first += len(images)
    path = folder / "classes" / LABELS.format(seed=seed)
    path.write_text("\n".join(lines) + "\n")
    return chosen


def _write_classes(maker: SceneMaker, folder: Path, split: int, count: int) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            scene = maker.make((_CLASSES, split, label, i), ONE, name)
            _write_image(folder / name / f"{i:05d}.jpg", scene.image)


def _write_scenes(
    maker: SceneMaker, folder: Path, name: str, split: int, count: int
) -> None:
    images, maps = folder / "images" / name, folder / "annotations" / name
    images.mkdir(parents=True)
    maps.mkdir(parents=True)
    scenes = [maker.make((_SCENES, split, i), FEW) for i in range(count)]
    for i, scene in enumerate(scenes):
        _write_image(images / f"{i:05d}.jpg", scene.image)
        _write_image(maps / f"{i:05d}.png", label_map(scene))
    write_json(folder / f"instances_{name}.json", coco_annotations(scenes), end="")


def label_map(scene: Scene) -> np.ndarray:
    """Scene -> (S, S) uint8: 1 for background and 2 for the first class."""
    segments = np.full(scene.image.shape[:2], 1, dtype=np.uint8)
    for name, mask in zip(scene.classes, scene.masks, strict=True):
        segments[mask] = SEGMENTS.index(name) + 1
    return segments


def coco_annotations(scenes: list[Scene]) -> dict[str, list[dict]]:
    """The content of a COCO file; scene i is image i, called ``<i>.jpg``."""
    images, annotations = [], []
    for i, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        images.append(dict(id=i, file_name=f"{i:05d}.jpg", height=height, width=width))
        for name, mask, box in zip(
            scene.classes, scene.masks, scene.boxes(), strict=True
        ):
            code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # COCO's evaluation takes 0 for none
                    image_id=i,
                    category_id=SCENE_CLASSES.index(name) + 1,
                    bbox=box.tolist(),
                    area=int(mask.sum()),
                    segmentation={**code, "counts": code["counts"].decode()},
                    iscrowd=0,
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(SCENE_CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def _write_image(path: Path, image: np.ndarray) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    path.write_bytes(cv2.imencode(path.suffix, image, quality)[1])
