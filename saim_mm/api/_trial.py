"""One training step of a config on a made-up batch."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData

#: Scopes of the models that images can be made up for.
SCOPES = ("mmdet", "mmseg", "mmpretrain")
#: Things in each made-up image.
_OBJECTS = 4
_BATCH_SIZE = 2


@dataclass(frozen=True)
class Trial:
    """What one training step took.

    Attributes:
        loss: Sum of the losses.
        parameters: Number of parameters that learn.
        unreached: Names of those that got no gradient.
        memory: Most bytes held: by tensors on a GPU, by the whole process without
            one (0 on Windows).
        seconds: From preprocessing to the optimiser's step.
        device: Where.
    """

    loss: float
    parameters: int
    unreached: tuple[str, ...]
    memory: int
    seconds: float
    device: str


def train_one_step(
    cfg: Config, size: tuple[int, int], device: str, init_weights: bool = True
) -> Trial:
    """Builds model and optimiser of a config and trains them on two made-up images.

    Batch augmentations, and the padding of segmentation to the crop, are left out, so
    that the images keep their size.

    Args:
        cfg: With ``model``, ``optim_wrapper`` and a ``default_scope`` of
            :data:`SCOPES`, which must be the process's own. Not changed.
        size: Rows and columns of the images.
        device: Where to train.
        init_weights: Whether to initialise the model as its config says.

    Raises:
        ValueError: If the loss is not finite.
    """
    options = _small(cfg, size)
    model = revert_sync_batchnorm(MODELS.build(options))
    if init_weights:
        model.init_weights()
    model = model.to(device).train()
    wrapper_cfg = copy.deepcopy(cfg.optim_wrapper)
    if device == "cpu":
        wrapper_cfg.type = "OptimWrapper"
        for name in ("loss_scale", "dtype"):
            wrapper_cfg.pop(name, None)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    batch = _batch(cfg, size)
    _start_counting()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    loss = _backward(model, wrapper, batch)
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unreached = tuple(name for name, p in learnt.items() if p.grad is None)
    wrapper.step()
    return Trial(
        loss=loss,
        parameters=sum(p.numel() for p in learnt.values()),
        unreached=unreached,
        memory=_peak_memory(device),
        seconds=time.perf_counter() - start,
        device=device,
    )


def _small(cfg: Config, size: tuple[int, int]) -> ConfigDict:
    options = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor"):
        options.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    preprocessor = options.get("data_preprocessor") or ConfigDict()
    for name in ("batch_augments", "size_divisor"):
        preprocessor.pop(name, None)
    if "size" in preprocessor:
        preprocessor.size = size
    return options


def _backward(model: BaseModel, wrapper: Any, batch: dict[str, Any]) -> float:
    """The loss, after the gradients were computed."""
    with wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        losses = model(**data, mode="loss")
    loss, _ = model.parse_losses(losses)
    if not torch.isfinite(loss):
        raise ValueError(f"the loss is {loss.item()}.")
    wrapper.backward(wrapper.scale_loss(loss))
    return float(loss.item())


def _start_counting() -> None:
    """What some losses ask for, which a run counts."""
    hub = MessageHub.get_current_instance()
    for name in ("iter", "epoch"):
        if hub.get_info(name) is None:
            hub.update_info(name, 0)


def _peak_memory(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows does not tell
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def _batch(cfg: Config, size: tuple[int, int]) -> dict[str, Any]:
    """Images of noise and samples, as the loader of such a model gives them."""
    rng = np.random.default_rng(0)
    classes = min(_values(cfg.model, "num_classes"), default=2)
    make = dict(
        mmdet=_detection_sample,
        mmseg=_segmentation_sample,
        mmpretrain=_classification_sample,
    )[cfg.default_scope]
    channels = next(_values(cfg.model.backbone, "in_channels"), 3)
    images = rng.integers(0, 256, (_BATCH_SIZE, channels, *size), dtype=np.uint8)
    return dict(
        inputs=list(torch.from_numpy(images)),
        data_samples=[make(rng, size, classes) for _ in images],
    )


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
