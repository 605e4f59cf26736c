"""The one loop of all training: pretraining, and fine-tuning with labels.

A loop of its own and not MMEngine's Runner: at 32 pixels a step takes milliseconds on a
GPU, where reading, transforming and packing the images one by one would be most of the
time. Here the images lie decoded on the device and are cropped there, all at once.
Models, losses, hooks and parameter groups are the same as in any other run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from .images import Crops, Images, augmented_batches, one_crop

#: Loss of a step: (model, crops of B images, labels (B,)) -> scalar.
LossFunction = Callable[[nn.Module, list[Tensor], Tensor], Tensor]
#: Points of the loss curve that are kept.
_POINTS = 20


@dataclass(frozen=True)
class Recipe:
    """How something is trained.

    Attributes:
        rate: Peak learning rate.
        steps: Number of steps.
        betas: AdamW's.
        batch_size: Images per step.
        warmup: Share of the steps with a rising rate.
        layer_decay: Layer-wise rate decay.
        hooks: Configs of hooks of MMEngine that stand at each step.
    """

    rate: float
    steps: int
    betas: tuple[float, float]
    batch_size: int
    warmup: float
    layer_decay: float = 1.0
    hooks: Sequence[dict[str, Any]] = ()


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


def fit(
    model: nn.Module,
    loss: LossFunction,
    images: Images,
    recipe: Recipe,
    generator: torch.Generator,
    crops: Crops = one_crop,
) -> Trained:
    """AdamW, linear warm-up, half-cosine to 0; bfloat16 where there is a GPU.

    Args:
        model: With a ``backbone``.
        loss: What is minimised.
        images: On the device to be used.
        recipe: How.
        generator: Of the batches and crops.
        crops: What a step reads of its images.
    """
    device, steps = images.pixels.device, recipe.steps
    model = model.to(device).train()
    wrapper = _optim_wrapper(model, recipe)
    optimizer = wrapper.optimizer
    peaks = [group["lr"] for group in optimizer.param_groups]
    losses = torch.zeros(steps, device=device)
    hooks: list[Hook] = [HOOKS.build(config) for config in recipe.hooks]
    runner = _runner(model, wrapper, steps, len(images) // recipe.batch_size)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    _call(hooks, "before_train", runner)
    batches = augmented_batches(images, recipe.batch_size, crops, generator)
    for step, (views, labels) in enumerate(islice(batches, steps)):
        runner.iter = step
        _call(hooks, "before_train_iter", runner, step)
        factor = schedule(step, steps, recipe.warmup)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            value = loss(model, views, labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses[step] = value.detach()
        _call(hooks, "after_train_iter", runner, step)
    _call(hooks, "after_train", runner)
    means = [part.mean().item() for part in losses.tensor_split(min(_POINTS, steps))]
    seconds = clock() - start
    return Trained(model.eval(), means, seconds, steps * recipe.batch_size)


def _runner(
    model: nn.Module, wrapper: OptimWrapper, steps: int, steps_per_epoch: int
) -> SimpleNamespace:
    """As much of MMEngine's Runner as hooks that stand at a step read."""
    return SimpleNamespace(
        model=model,
        optim_wrapper=wrapper,
        iter=0,
        max_iters=steps,
        train_dataloader=range(steps_per_epoch),
    )


def _call(hooks: Sequence[Hook], event: str, *arguments: Any) -> None:
    for hook in hooks:
        getattr(hook, event)(*arguments)


def _optim_wrapper(model: nn.Module, recipe: Recipe) -> OptimWrapper:
    config = dict(
        type="OptimWrapper",
        constructor="SAIMOptimWrapperConstructor",
        optimizer=dict(
            type="AdamW", lr=recipe.rate, betas=recipe.betas, weight_decay=0.05
        ),
        paramwise_cfg=dict(layer_decay_rate=recipe.layer_decay),
    )
    return build_optim_wrapper(model, config)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the peak rate at a step: a linear rise, then half a cosine to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
