"""The one trainer of all experiments: pretraining, and fine-tuning with labels.

A loop of its own and not MMEngine's Runner: at 32 pixels a step takes milliseconds on a
GPU, where reading, transforming and packing the images one by one would be most of the
time. Here the images lie decoded on the device and are cropped there, all at once.
Models, losses and parameter groups are the same as in any other run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from saim_mm.models import SAIMViT
from saim_mm.weights.load_model import build_model

from .experiments import Experiment, Scale, encoder_config, model_config
from .images import Images, augmented_batches

#: Loss of a step: (model, images (B, 3, H, W), labels (B,)) -> scalar.
LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: Points of the loss curve that are kept.
_POINTS = 20


@dataclass(frozen=True)
class Trained:
    """A trained model and how it went.

    Attributes:
        model: The model, on its device.
        losses: Means over equal parts of the training.
        seconds: Of the training; on a CPU those of this process, as others may keep
            it waiting, else by the clock.
        images_seen: Images that went through.
    """

    model: nn.Module
    losses: list[float]
    seconds: float
    images_seen: int


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


def build_classifier(scale: Scale, num_classes: int) -> Classifier:
    """A classifier of random weights."""
    return Classifier(build(encoder_config(scale, out_type="avg_featmap")), num_classes)


def pretrain(
    experiment: Experiment,
    scale: Scale,
    rate: float,
    images: Images,
    generator: torch.Generator,
) -> Trained:
    """Trains what an experiment trains, from random weights.

    Args:
        experiment: Not one of task ``none``.
        scale: Sizes and budget.
        rate: Peak learning rate.
        images: On the device to be used.
        generator: Of the batches and crops, on that device. All else is drawn from
            torch's global streams.
    """
    model: nn.Module
    if experiment.task == "labels":
        model = build_classifier(scale, int(images.labels.max()) + 1)
        loss: LossFunction = label_loss
    else:
        model = build(model_config(experiment, scale))
        simmim = experiment.task == "simmim"
        loss = _simmim_loss if simmim else _selfsup_loss
    recipe = dict(rate=rate, betas=(0.9, 0.95), epochs=scale.pretrain_epochs)
    return fit(model, loss, images, scale, recipe, generator)


def finetune(
    encoder: SAIMViT, scale: Scale, images: Images, generator: torch.Generator
) -> Trained:
    """Trains a classifier that starts from an encoder's weights.

    Final norms start anew, as in fine-tuning on the mean of the patches.
    """
    model = build_classifier(scale, int(images.labels.max()) + 1)
    copy_encoder(encoder, model.backbone)
    recipe = dict(
        rate=scale.finetune_rate,
        betas=(0.9, 0.999),
        epochs=scale.finetune_epochs,
        layer_decay=scale.layer_decay,
    )
    return fit(model, label_loss, images, scale, recipe, generator)


def copy_encoder(source: nn.Module, target: SAIMViT) -> None:
    """Copies all weights that the target has; only final norms may be missing.

    Raises:
        ValueError: If others are missing.
    """
    kept = {k: v for k, v in source.state_dict().items() if k in target.state_dict()}
    missing = set(target.load_state_dict(kept, strict=False).missing_keys)
    if any(not name.startswith(("ln1.", "ln2.")) for name in missing):
        raise ValueError(f"{type(source).__name__} lacks {sorted(missing)}.")


def fit(
    model: nn.Module,
    loss: LossFunction,
    images: Images,
    scale: Scale,
    recipe: dict[str, Any],
    generator: torch.Generator,
) -> Trained:
    """AdamW, linear warm-up, half-cosine to 0; bfloat16 where there is a GPU.

    Args:
        model: With a ``backbone``.
        loss: What is minimised.
        images: On the device to be used.
        scale: Batch size and warm-up.
        recipe: ``rate``, ``betas``, ``epochs`` and ``layer_decay`` (default 1).
        generator: Of the batches and crops.
    """
    device = images.pixels.device
    model = model.to(device).train()
    optimizer = _optimizer(model, recipe)
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = recipe["epochs"] * (len(images) // scale.batch_size)
    losses = torch.zeros(steps, device=device)
    batches = augmented_batches(images, scale.batch_size, recipe["epochs"], generator)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    for step, (views, labels) in enumerate(batches):
        factor = _schedule(step, steps, scale.warmup)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=views.is_cuda):
            value = loss(model, views, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses[step] = value.detach()
    means = [part.mean().item() for part in losses.tensor_split(min(_POINTS, steps))]
    seconds = clock() - start
    return Trained(model.eval(), means, seconds, steps * scale.batch_size)


def label_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with label smoothing 0.1, as in the fine-tuning of the paper."""
    return F.cross_entropy(model(images).float(), labels, label_smoothing=0.1)


def _selfsup_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model.loss(images, None)["loss"]


def _simmim_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """As ``SimMIMMaskGenerator``: 60 % of blocks of 2 x 2 patches, drawn on device."""
    rows, columns = model.backbone.patch_resolution
    blocks = (rows // 2) * (columns // 2)
    noise = torch.rand(len(images), blocks, device=images.device)
    hidden = noise.argsort(dim=1) < math.ceil(0.6 * blocks)
    mask = hidden.view(-1, rows // 2, columns // 2)
    mask = mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).long()
    samples = [DataSample(mask=one) for one in mask]
    return model.loss(images, samples)["loss"]


def _optimizer(model: nn.Module, recipe: dict[str, Any]) -> torch.optim.Optimizer:
    config = dict(
        type="OptimWrapper",
        constructor="SAIMOptimWrapperConstructor",
        optimizer=dict(
            type="AdamW", lr=recipe["rate"], betas=recipe["betas"], weight_decay=0.05
        ),
        paramwise_cfg=dict(layer_decay_rate=recipe.get("layer_decay", 1.0)),
    )
    return build_optim_wrapper(model, config).optimizer


def _schedule(step: int, steps: int, warmup: float) -> float:
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
