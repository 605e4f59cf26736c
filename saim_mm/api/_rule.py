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
    """The sizes of an encoder, in pixels, layers and channels; ``None`` is still free.

    ``decoder`` are the layers of its decoder, ``narrow`` whether that is the narrow one
    of the recipe for little data, ``large_patch`` the patch of images of 128 pixels and
    more.
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
    """How a run walks through its images: ``batch`` of them per optimiser step.

    ``at_once`` are computed at once, the rest is accumulated. ``workers`` load images.
    The precision is ``fp32``, ``fp16`` or ``bf16``.
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
    """How images are pretrained on: by the recipe for little data, or by the paper's.

    Sizes are in pixels. ``read`` patches are read, all of them by the paper's recipe;
    the decoder is ``narrow``, which a linear head follows, or not; crops have at least
    ``crop_from`` of an image's area; each image is seen ``epochs`` times, in
    ``updates`` optimiser steps, in ``warm_up`` of which the rate rises to ``lr``. By
    ``layer_decay`` each layer of the encoder learns less than the next.
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

    @property
    def iterations(self) -> int:
        """Those of the whole run."""
        return self.updates * self.steps.accumulation


@dataclass(frozen=True)
class FinetunePlan:
    """How a classifier is trained; the rate rises for ``warm_up`` epochs."""

    images: int
    epochs: int
    warm_up: int
    lr: float
    steps: Steps

    @property
    def iterations(self) -> int:
        """Those of the whole run."""
        return self.images // self.steps.at_once * self.epochs


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

    ``side`` is the images' typical shorter side in pixels. ``epochs``, ``batch_size``
    (images per optimiser step) and ``workers`` are instead of the rule's.
    """
    little = images <= LITTLE
    continued = start == "whole model"
    if little:  # small ones: with few images more steps are worth more
        batch = batch_size or (64 if images >= 64 else 16)
    else:
        batch = batch_size or _between(images // 100, 256, 2048)
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

    The encoder has a patch and an image size; all else is as for
    :func:`plan_pretraining`.
    """
    assert encoder.image_size and encoder.patch_size
    most = _between(images, 1, 1024)  # an epoch has a step at least
    batch = batch_size or min(_between(images // 10, 8, 1024), most)
    ratio = batch / 256
    tokens = (encoder.image_size // encoder.patch_size) ** 2 + 1
    epochs = epochs or 100
    return FinetunePlan(
        images=images,
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
    return min(max(1 << (max(number, 1).bit_length() - 1), least), most)
