"""The COCO recipes, shrunk, and made-up images for them; skips without mmdet."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

pytest.importorskip("mmdet")
pytest.importorskip("mmcv.ops")

from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

REPO = Path(__file__).parents[2]
CONFIGS = REPO / "configs/coco"
LI2021 = CONFIGS / "mask-rcnn_saim-vit-b_100e_coco.py"
NO_REL_POS = CONFIGS / "mask-rcnn_saim-vit-b_no-rel-pos_100e_coco.py"
VITDET = CONFIGS / "vitdet_saim-vit-b_100e_coco.py"
ALL = [LI2021, NO_REL_POS, VITDET]

TINY_VIT = dict(embed_dims=32, num_layers=12, num_heads=4, feedforward_channels=64)
#: Sizes only. 128 px: 8 x 8 patches, which windows of 3 do not divide.
SHRINK: dict[str, Any] = {
    "model.data_preprocessor.pad_size_divisor": 128,
    "model.backbone.arch": dict(_delete_=True, **TINY_VIT),
    "model.backbone.img_size": 128,
    "model.backbone.window_size": 3,
    "model.backbone.init_cfg": None,
    "model.rpn_head.in_channels": 16,
    "model.rpn_head.feat_channels": 16,
    "model.roi_head.bbox_roi_extractor.out_channels": 16,
    "model.roi_head.bbox_head.in_channels": 16,
    "model.roi_head.bbox_head.conv_out_channels": 16,
    "model.roi_head.bbox_head.fc_out_channels": 32,
    "model.roi_head.mask_roi_extractor.out_channels": 16,
    "model.roi_head.mask_head.in_channels": 16,
    "model.roi_head.mask_head.conv_out_channels": 16,
    "model.train_cfg.rcnn.sampler.num": 64,
    "model.train_cfg.rpn_proposal.max_per_img": 100,
}
SHRINK_NECK: dict[str, dict[str, Any]] = {
    "li2021": {
        "model.neck.0.embed_dims": 32,
        "model.neck.1.in_channels": [32] * 4,
        "model.neck.1.out_channels": 16,
    },
    "vitdet": {"model.neck.embed_dims": 32, "model.neck.out_channels": 16},
}


def config_id(path: Path) -> str:
    return path.stem


def load(path: Path, *, shrunk: bool = True, **options: Any) -> Config:
    """A config; ``options`` are further overrides, with __ for a dot."""
    cfg = Config.fromfile(path)
    if shrunk:
        cfg.merge_from_dict(SHRINK)
        cfg.merge_from_dict(SHRINK_NECK["vitdet" if path == VITDET else "li2021"])
    cfg.merge_from_dict({k.replace("__", "."): v for k, v in options.items()})
    return cfg


def build(cfg: Config) -> nn.Module:
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    return model


def batch(instances: tuple[int, ...] = (3, 2), size: int = 128) -> dict[str, list]:
    """Images of noise with so many boxes each, and their masks."""
    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for index, count in enumerate(instances):
        corner = torch.from_numpy(rng.uniform(0, size / 2, (count, 2))).float()
        extent = torch.from_numpy(rng.uniform(16, size / 2, (count, 2))).float()
        masks = np.zeros((count, size, size), dtype=np.uint8)
        for mask, (x, y), (w, h) in zip(masks, corner, extent, strict=True):
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.cat([corner, corner + extent], dim=1),
                labels=torch.from_numpy(rng.integers(0, 80, count)),
                masks=BitmapMasks(masks, size, size),
            ),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        )
        shape = (size, size)
        sample.set_metainfo(
            dict(img_id=index, img_shape=shape, ori_shape=shape, scale_factor=(1, 1))
        )
        samples.append(sample)
        pixels = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
        inputs.append(torch.from_numpy(pixels))
    return dict(inputs=inputs, data_samples=samples)


def loss_of(model: nn.Module, data: dict[str, list]) -> Tensor:
    model.train()
    data = model.data_preprocessor(copy.deepcopy(data), training=True)
    losses = model(**data, mode="loss")
    total, _ = model.parse_losses(losses)
    return total
