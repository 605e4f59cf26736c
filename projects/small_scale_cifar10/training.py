"""What is trained: a system's pretraining, and fine-tuning with labels."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from saim_mm.models import SAIMViT
from saim_mm.weights.load_model import build_model

from .experiments import Experiment
from .images import Crops, Images, multi_crop, one_crop
from .loop import LossFunction, Recipe, Trained, fit
from .models import judged_encoder_config, model_config
from .operations import step_flops
from .scale import Scale

#: DINO's, of each image.
LOCAL_CROPS = 4


class Classifier(nn.Module):
    """Mean of the patches, norm, linear layer; for labels.

    Args:
        backbone: An encoder with ``out_type='avg_featmap'``.
        num_classes: Number of classes.
    """

    def __init__(self, backbone: SAIMViT, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.embed_dims, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> scores (B, classes)."""
        return self.head(self.backbone(images)[0])


def build(config: dict[str, Any]) -> nn.Module:
    """Builds and initialises a model of the registry."""
    return build_model(Config(dict(model=config)), init_weights=True)


def build_classifier(
    experiment: Experiment, scale: Scale, num_classes: int
) -> Classifier:
    """A classifier of random weights."""
    config = judged_encoder_config(experiment, scale, out_type="avg_featmap")
    return Classifier(build(config), num_classes)


def pretrain(
    experiment: Experiment,
    scale: Scale,
    rate: float,
    budget: float | None,
    images: Images,
    generator: torch.Generator,
) -> Trained:
    """Trains what an experiment trains, from random weights.

    Args:
        experiment: Not one of task ``none``.
        scale: Sizes, and the number of epochs where there is no budget.
        rate: Peak learning rate.
        budget: Floating-point operations; as many steps are made as they suffice for.
        images: On the device to be used.
        generator: Of the batches and crops, on that device. All else is drawn from
            torch's global streams.
    """
    options = experiment.options
    model, loss, crops = task_of(experiment, scale, int(images.labels.max()) + 1)
    recipe = Recipe(
        rate=rate,
        steps=scale.pretrain_epochs * (len(images) // scale.batch_size),
        betas=(0.9, 0.95),
        batch_size=scale.batch_size,
        warmup=options.get("warmup", scale.warmup),
        hooks=options.get("hooks", ()),
    )
    if budget is not None:
        flops = step_flops(model, options.get("local_crops", LOCAL_CROPS))
        steps = max(1, round(budget / (flops * scale.batch_size)))
        recipe = replace(recipe, steps=steps)
    return fit(model, loss, images, recipe, generator, crops)


def task_of(
    experiment: Experiment, scale: Scale, num_classes: int
) -> tuple[nn.Module, LossFunction, Crops]:
    """The model that is pretrained, from random weights, its loss and its crops."""
    if experiment.task == "labels":
        return build_classifier(experiment, scale, num_classes), label_loss, one_crop
    model, options = build(model_config(experiment, scale)), experiment.options
    if experiment.task == "dino":
        crops = partial(multi_crop, local=options.get("local_crops", LOCAL_CROPS))
        return model, _multi_crop_loss, crops
    if experiment.task == "simmim":
        share = options.get("hidden_share", 0.6)
        return model, partial(_simmim_loss, share=share), one_crop
    return model, _selfsup_loss, one_crop


def finetune(
    experiment: Experiment,
    encoder: SAIMViT,
    scale: Scale,
    images: Images,
    generator: torch.Generator,
) -> Trained:
    """Trains a classifier that starts from an encoder's weights.

    Final norms start anew, as in fine-tuning on the mean of the patches.
    """
    model = build_classifier(experiment, scale, int(images.labels.max()) + 1)
    copy_encoder(encoder, model.backbone)
    recipe = Recipe(
        rate=scale.finetune_rate,
        steps=scale.finetune_epochs * (len(images) // scale.batch_size),
        betas=(0.9, 0.999),
        batch_size=scale.batch_size,
        warmup=scale.warmup,
        layer_decay=scale.layer_decay,
    )
    return fit(model, label_loss, images, recipe, generator)


def copy_encoder(source: nn.Module, target: SAIMViT) -> None:
    """Copies all weights that the target has; only final norms may be missing.

    Raises:
        ValueError: If others are missing.
    """
    kept = {k: v for k, v in source.state_dict().items() if k in target.state_dict()}
    missing = set(target.load_state_dict(kept, strict=False).missing_keys)
    if any(not name.startswith(("ln1.", "ln2.")) for name in missing):
        raise ValueError(f"{type(source).__name__} lacks {sorted(missing)}.")


def label_loss(model: nn.Module, crops: list[Tensor], labels: Tensor) -> Tensor:
    """Cross entropy with label smoothing 0.1, as in the fine-tuning of the paper."""
    return F.cross_entropy(model(crops[0]).float(), labels, label_smoothing=0.1)


def _selfsup_loss(model: nn.Module, crops: list[Tensor], labels: Tensor) -> Tensor:
    return model.loss(crops[0], None)["loss"]


def _multi_crop_loss(model: nn.Module, crops: list[Tensor], labels: Tensor) -> Tensor:
    return model.loss(crops)["loss"]


def _simmim_loss(
    model: nn.Module, crops: list[Tensor], labels: Tensor, share: float
) -> Tensor:
    """As ``SimMIMMaskGenerator``: hides a share of blocks of 2 x 2 patches."""
    (images,) = crops
    rows, columns = model.backbone.patch_resolution
    blocks = (rows // 2) * (columns // 2)
    noise = torch.rand(len(images), blocks, device=images.device)
    hidden = noise.argsort(dim=1) < math.ceil(share * blocks)
    mask = hidden.view(-1, rows // 2, columns // 2)
    mask = mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).long()
    samples = [DataSample(mask=one) for one in mask]
    return model.loss(images, samples)["loss"]
