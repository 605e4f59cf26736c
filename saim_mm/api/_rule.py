"""How a run is set up for its images and its machine: the rule of the verbs.

Pure functions. ``docs/pretrain_your_images.md`` has them as a table, with where each
number is from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ._machine import Machine

#: What a run's weights start from.
Start = Literal["random", "whole model", "encoder"]

#: Images up to which there is little data: as many as the recipe was measured with.
LITTLE = 10_000
#: Times the width: the highest rate with little data, at batch 64.
_LITTLE_RATE = 0.256
#: Fewer teach nothing that holds for another image.
LEAST = 8
_GPU_SHARE, _CPU_SHARE = 0.8, 0.5  # of the free memory; the rest is for others
#: Bytes of activations per token, channel and layer in 16 bits (Korthikanti et al.
#: 2022, without the attention matrix, which fused kernels do not store).
_ACTIVATIONS = 34
_STATE = 18  # bytes per weight: itself, gradient, two moments, a copy in 16 bits


@dataclass(frozen=True)
class EncoderSize:
    """The sizes of an encoder; what is ``None``, nothing has fixed yet.

    Attributes:
        width: Channels.
        layers: Layers.
        patch_size: Pixels of the side of a patch.
        image_size: Pixels of the side of an image.
        decoder: Layers of the decoder.
        narrow: Whether it is the narrow one of the recipe for little data.
        large_patch: Patch of images of 128 pixels and more.
    """

    width: int
    layers: int
    patch_size: int | None = None
    image_size: int | None = None
    decoder: int | None = None
    narrow: bool | None = None
    large_patch: int = 16


@dataclass(frozen=True)
class Steps:
    """How a run walks through its images on a machine.

    Attributes:
        batch: Images per optimiser step.
        at_once: Images that are computed at once; the rest is accumulated.
        workers: Processes that load images.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    batch: int
    at_once: int
    workers: int
    precision: str

    @property
    def accumulation(self) -> int:
        """Iterations per optimiser step."""
        return self.batch // self.at_once

    def halved(self) -> Steps:
        """The same step with half of the memory; the images must divide by two."""
        half = self.at_once // 2
        return Steps(self.batch, half, self.workers, self.precision)


@dataclass(frozen=True)
class PretrainPlan:
    """How images are pretrained on.

    Attributes:
        little: Whether by the recipe for little data, not by the paper's.
        image_size: Pixels of the side of a crop.
        patch_size: Pixels of the side of a patch.
        read: Patches that are read; all of them by the paper's recipe.
        decoder: Layers of the decoder.
        narrow: Whether it is a narrow one, which a linear head follows.
        smoothing: Whether targets are smoothed.
        crop_from: Least share of an image's area that a crop has.
        epochs: How often each image is seen.
        updates: Optimiser steps.
        warm_up: Those in which the rate rises.
        lr: Highest rate.
        layer_decay: By what factor each layer of the encoder learns less than the next.
        steps: Batch and machine.
    """

    little: bool
    image_size: int
    patch_size: int
    read: int
    decoder: int
    narrow: bool
    smoothing: bool
    crop_from: float
    epochs: float
    updates: int
    warm_up: int
    lr: float
    layer_decay: float
    steps: Steps


@dataclass(frozen=True)
class FinetunePlan:
    """How a classifier is trained on labelled images.

    Attributes:
        epochs: How often each image is seen.
        warm_up: Epochs in which the rate rises.
        lr: Highest rate.
        steps: Batch and machine.
    """

    epochs: int
    warm_up: int
    lr: float
    steps: Steps


def plan_pretraining(
    images: int,
    side: int,
    encoder: EncoderSize,
    machine: Machine,
    start: Start = "random",
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> PretrainPlan:
    """Chooses recipe, batch, rate, workers and precision of a pretraining.

    Args:
        images: Their number.
        side: Their typical shorter side in pixels.
        encoder: What is to be trained.
        machine: Where.
        start: What its weights start from.
        epochs: How often each image is seen, instead of the rule's number.
        batch_size: Images per optimiser step, instead of the rule's.
        workers: Instead of the rule's.
    """
    little = images <= LITTLE
    continued = start == "whole model"
    batch = batch_size or _pretraining_batch(images, little)
    if epochs is None:
        seen = max(400 * images, 80_000) if little else 300 * images
        seen = seen // 3 if continued else seen
    else:
        seen = epochs * images
    updates = max(1, round(seen / batch))
    lr = _LITTLE_RATE / encoder.width if little else 2e-4 * batch / 256
    image_size, patch_size = _image_and_patch(side, encoder, machine)
    narrow = little if encoder.narrow is None else encoder.narrow
    decoder = encoder.decoder or (1 if narrow else encoder.layers)
    patches = (image_size // patch_size) ** 2
    read = patches // 4 if narrow else patches
    return PretrainPlan(
        little=little,
        image_size=image_size,
        patch_size=patch_size,
        read=read,
        decoder=decoder,
        narrow=narrow,
        smoothing=not (little or narrow),
        crop_from=0.1 if little else 0.67,
        epochs=round(updates * batch / images, 1),
        updates=updates,
        warm_up=round(updates * (0.05 if continued else 0.1)),
        lr=float(f"{lr / 4 if continued else lr:.3g}"),
        layer_decay=0.75 if start == "encoder" else 1.0,
        steps=_steps(
            batch,
            workers,
            (read + 1) * encoder.layers + (patches + 1) * decoder,
            encoder.width,
            encoder.layers + decoder,
            machine,
        ),
    )


def plan_finetuning(
    images: int,
    encoder: EncoderSize,
    machine: Machine,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> FinetunePlan:
    """Chooses batch, rate, workers and precision of a classifier's training.

    Args:
        images: Their number.
        encoder: Of the classifier; with its patch and image size.
        machine: Where.
        epochs: Instead of the rule's number.
        batch_size: Images per optimiser step, instead of the rule's.
        workers: Instead of the rule's.
    """
    assert encoder.image_size and encoder.patch_size
    batch = batch_size or min(
        _between(images // 10, 8, 1024), _power_of_two(max(images, 1))
    )
    ratio = batch / 256
    tokens = (encoder.image_size // encoder.patch_size) ** 2 + 1
    epochs = epochs or 100
    return FinetunePlan(
        epochs=epochs,
        warm_up=max(1, round(epochs / 5)),
        lr=float(f"{5e-4 * (ratio if ratio > 1 else math.sqrt(ratio)):.3g}"),
        steps=_steps(
            batch,
            workers,
            tokens * encoder.layers,
            encoder.width,
            encoder.layers,
            machine,
        ),
    )


def _pretraining_batch(images: int, little: bool) -> int:
    if little:  # small ones: with few images more steps are worth more
        return 64 if images >= 64 else 16
    return _between(images // 100, 256, 2048)


def _image_and_patch(
    side: int, encoder: EncoderSize, machine: Machine
) -> tuple[int, int]:
    """Pixels of images and patches: 64 to 225 patches, few enough for a CPU."""
    if encoder.image_size and encoder.patch_size:
        return encoder.image_size, encoder.patch_size
    largest = 64 if machine.device == "cpu" else 224
    side = min(side, largest)
    patch = 4 if side < 48 else 8 if side < 128 else encoder.large_patch
    return max(side // patch, 4) * patch, patch


def _steps(
    batch: int,
    workers: int | None,
    tokens: int,
    width: int,
    layers: int,
    machine: Machine,
) -> Steps:
    """What of a batch is computed at once, so that it fits into the memory.

    ``tokens`` are those of an image, summed over the layers.
    """
    cuda = machine.device == "cuda"
    precision = ("bf16" if machine.bf16 else "fp16") if cuda else "fp32"
    if workers is None:  # on a CPU training wants the cores itself
        workers = min(8 if cuda else 1, machine.cores - 1)
    free = (_GPU_SHARE if cuda else _CPU_SHARE) * machine.memory
    free -= _STATE * 12 * width**2 * layers
    image = _ACTIVATIONS * tokens * width * (1 if cuda else 2)
    at_once = batch
    while at_once * image > free and at_once % 2 == 0:
        at_once //= 2
    return Steps(batch, at_once, workers, precision)


def _between(number: int, least: int, most: int) -> int:
    """The power of two at or below a number, within two others."""
    return min(max(_power_of_two(max(number, 1)), least), most)


def _power_of_two(number: int) -> int:
    return 1 << (number.bit_length() - 1)
