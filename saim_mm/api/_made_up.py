"""Images of noise and their labels, of the kind that a model is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

#: Scopes of the models that images can be made up for.
SCOPES = ("mmdet", "mmseg", "mmpretrain")
_OBJECTS = 4


def made_up_batch(
    cfg: Config, size: tuple[int, int], number: int = 2
) -> dict[str, Any]:
    """Images of noise and samples, as the loader of such a model gives them.

    The config has ``model`` and a ``default_scope`` of :data:`SCOPES`; ``size`` is rows
    and columns. Returns ``inputs`` and ``data_samples``, for the data preprocessor.
    """
    rng = np.random.default_rng(0)
    classes = min(_values(cfg.model, "num_classes"), default=2)
    make = dict(
        mmdet=_detection_sample,
        mmseg=_segmentation_sample,
        mmpretrain=_classification_sample,
    )[cfg.default_scope]
    channels = next(_values(cfg.model.backbone, "in_channels"), 3)
    samples = [make(rng, size, classes) for _ in range(number)]
    if cfg.default_scope == "mmdet" and "mask" not in str(cfg.model):
        for sample in samples:  # RTMDet fails on masks that it does not read
            del sample.gt_instances.masks, sample.ignored_instances.masks
    images = rng.integers(0, 256, (number, channels, *size), dtype=np.uint8)
    inputs = torch.from_numpy(images)
    stacked = cfg.default_scope == "mmpretrain"  # a list there is one of views
    return dict(inputs=inputs if stacked else list(inputs), data_samples=samples)


def _values(config: Any, name: str) -> Iterator[int]:
    """All whole numbers above 0 that stand under a name anywhere in a config."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name and isinstance(value, int) and value > 0:
                yield value
            else:
                yield from _values(value, name)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _values(value, name)


def _meta(size: tuple[int, int]) -> dict[str, Any]:
    return dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=size,
        batch_input_shape=size,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=(0, size[0], 0, size[1]),
    )


def _detection_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    """Boxes, masks, a map of classes, and proposals for those that read them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    rows, columns = size
    corners = rng.uniform(0, 0.5, (_OBJECTS, 2)) * (columns, rows)
    sides = rng.uniform(0.25, 0.5, (_OBJECTS, 2)) * (columns, rows)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    masks = np.zeros((_OBJECTS, rows, columns), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    found = torch.from_numpy(boxes).float()
    things = InstanceData(
        bboxes=found,
        labels=torch.from_numpy(rng.integers(0, classes, _OBJECTS)),
        masks=BitmapMasks(masks, rows, columns),
    )
    labels = torch.from_numpy(rng.integers(0, classes, (1, rows, columns)))
    return DetDataSample(
        metainfo=_meta(size),
        gt_instances=things,
        ignored_instances=InstanceData(
            bboxes=found[:0],
            labels=things.labels[:0],
            masks=BitmapMasks(masks[:0], rows, columns),
        ),
        proposals=InstanceData(bboxes=found + 1, scores=torch.ones(_OBJECTS)),
        gt_sem_seg=PixelData(sem_seg=labels),
    )


def _segmentation_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    from mmseg.structures import SegDataSample

    labels = torch.from_numpy(rng.integers(0, classes, (1, *size)))
    edges = torch.from_numpy(rng.integers(0, 2, (1, *size)))
    depth = torch.from_numpy(rng.uniform(1, 2, (1, *size))).float()
    return SegDataSample(
        metainfo=_meta(size),
        gt_sem_seg=PixelData(data=labels),
        gt_edge_map=PixelData(data=edges),
        gt_depth_map=PixelData(data=depth),
    )


def _classification_sample(
    rng: np.random.Generator, size: tuple[int, int], classes: int
) -> Any:
    from mmpretrain.structures import DataSample

    sample = DataSample(metainfo=_meta(size))
    return sample.set_gt_label(int(rng.integers(0, classes)))
