#!/usr/bin/env python
"""Times fine-tuning steps of a classifier, beside the same one with mmpretrain's ViT.

Both see the same made-up images of the config's size.
"""

from __future__ import annotations

import torch
from _variants import Change, argument_parser, as_configured, compare
from mmengine.config import Config, ConfigDict
from mmpretrain.structures import DataSample


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


def main() -> None:
    """Compares the variants."""
    parser = argument_parser(__doc__, "config of a classifier with SAIMViT")
    packages = ["torch", "mmengine", "mmcv", "mmpretrain"]
    compare(parser, packages, VARIANTS, made_up_batch, is_classifier)


if __name__ == "__main__":
    main()
