"""Times fine-tuning steps of a classifier, beside the same one with mmpretrain's ViT.

Both see the same made-up images of the config's size.
"""

from __future__ import annotations

from functools import partial

import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.structures import DataSample

from . import variants
from .variants import Change, as_configured, describe

__all__ = ["describe", "measure", "parse_args"]


def mmpretrain_vit(model: ConfigDict) -> None:
    """Mmpretrain's own backbone."""
    model.backbone.type = "VisionTransformer"


VARIANTS: dict[str, Change] = {
    "mmpretrain's VisionTransformer": mmpretrain_vit,
    "as configured": as_configured,
}


def is_classifier(model: ConfigDict) -> bool:
    """With a backbone that mmpretrain's can stand in for."""
    return model.type == "ImageClassifier" and model.backbone.type == "SAIMViT"


def made_up_batch(cfg: Config, batch_size: int) -> dict[str, list]:
    """Images of noise with labels, as the training pipeline would pack them."""
    generator = torch.Generator().manual_seed(0)
    size = cfg.model.backbone.img_size
    shape = (3, size, size)
    classes = cfg.model.head.num_classes
    return dict(
        inputs=[
            torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            for _ in range(batch_size)
        ],
        data_samples=[
            DataSample().set_gt_label(i % classes) for i in range(batch_size)
        ],
    )


parse_args = partial(
    variants.parse_args,
    name="classifier",
    about=__doc__,
    config="config of a classifier with SAIMViT",
    fits=is_classifier,
)
measure = partial(
    variants.measure,
    variants=VARIANTS,
    make_batch=made_up_batch,
    packages=("torch", "mmengine", "mmcv", "mmpretrain"),
)
