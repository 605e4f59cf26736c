"""Times training steps of a detector, and measures their memory, beside variants.

All see the same made-up images of the config's size.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from mmengine.config import Config, ConfigDict

from . import variants
from .variants import Change, as_configured, describe

__all__ = ["describe", "measure", "parse_args"]

#: Options of ``SAIMViT`` that a plain ViT does not have.
_DENSE_OPTIONS = ("window_size", "global_attn_indexes", "use_rel_pos_bias")
_INSTANCES = 10


def without_bias(model: ConfigDict) -> None:
    """Windows, but no relative position bias."""
    model.backbone.use_rel_pos_bias = False


def as_vitdet(model: ConfigDict) -> None:
    """Windows, a pyramid from the last layer alone, and LayerNorm in the heads."""
    norm = dict(type="mmpretrain.LN2d", eps=1e-6)
    rescaling, fpn = model.neck
    model.neck = dict(
        type="SimpleFeaturePyramid",
        embed_dims=rescaling.embed_dims,
        out_channels=fpn.out_channels,
        norm_cfg=norm,
    )
    model.backbone.update(use_rel_pos_bias=False, out_indices=[-1])
    model.roi_head.bbox_head.norm_cfg = model.roi_head.mask_head.norm_cfg = norm


def plain(model: ConfigDict) -> None:
    """The ViT of mmpretrain: every layer attends globally."""
    model.backbone.type = "mmpretrain.VisionTransformer"
    for option in _DENSE_OPTIONS:
        model.backbone.pop(option, None)


VARIANTS: dict[str, Change] = {
    "as configured": as_configured,
    "without relative position bias": without_bias,
    "as in ViTDet": as_vitdet,
    "plain global ViT": plain,
}


def is_detector(model: ConfigDict) -> bool:
    """With the two necks that :func:`as_vitdet` replaces."""
    neck = model.get("neck")
    two = ["FourLayerPyramid", "FPN"]
    return isinstance(neck, list) and [part.type for part in neck] == two


def made_up_batch(cfg: Config, batch_size: int) -> dict[str, list]:
    """Images of noise with boxes, as the training pipeline would pack them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    size = cfg.model.data_preprocessor.pad_size_divisor
    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(batch_size):
        corners = rng.uniform(0, size / 2, (_INSTANCES, 2))
        extents = rng.uniform(size / 32, size / 2, (_INSTANCES, 2))
        masks = np.zeros((_INSTANCES, size, size), dtype=np.uint8)
        for mask, (x, y), (w, h) in zip(masks, corners, extents, strict=True):
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
        boxes = np.concatenate([corners, corners + extents], axis=1)
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.from_numpy(boxes).float(),
                labels=torch.zeros(_INSTANCES, dtype=torch.long),
                masks=BitmapMasks(masks, size, size),
            ),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        )
        sample.set_metainfo(dict(img_shape=(size, size), ori_shape=(size, size)))
        samples.append(sample)
        pixels = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
        inputs.append(torch.from_numpy(pixels))
    return dict(inputs=inputs, data_samples=samples)


parse_args = partial(
    variants.parse_args,
    name="detector",
    about=__doc__,
    config="config of a detector with SAIMViT, FourLayerPyramid and FPN",
    fits=is_detector,
)
measure = partial(
    variants.measure,
    variants=VARIANTS,
    make_batch=made_up_batch,
    packages=("torch", "mmengine", "mmcv", "mmdet", "mmpretrain"),
)
