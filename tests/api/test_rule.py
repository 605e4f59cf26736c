"""The rule by which the verbs set up a run, as a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saim_mm.api._machine import Machine, this_machine
from saim_mm.api._pretrain_config import MODELS, pretrain_blocks, size_of
from saim_mm.api._rule import (
    LITTLE,
    EncoderSize,
    Steps,
    plan_finetuning,
    plan_pretraining,
)

GIB = 2**30
CPU = Machine("cpu", 16 * GIB, 2)
GPU = Machine("cuda", 24 * GIB, 16, bf16=True)
OLD_GPU = Machine("cuda", 8 * GIB, 4)
BIG_GPU = Machine("cuda", 80 * GIB, 64, bf16=True)


@pytest.mark.parametrize(
    # images, side -> image, patch, patches read, decoder, smoothed, batch, rate,
    # updates, warm-up
    ("model", "machine", "images", "side", "expected"),
    [
        # The demo's photographs.
        ("vit-nano", CPU, 11, 400, (64, 8, 16, 1, False, 16, 2e-3, 5000, 500)),
        # CIFAR-10's images in patches of 4.
        ("vit-tiny", GPU, 10_000, 32, (32, 4, 16, 1, False, 64, 1.33e-3, 62500, 6250)),
        ("vit-s", GPU, 2_000, 500, (224, 16, 49, 1, False, 64, 6.67e-4, 12500, 1250)),
        ("vit-s", GPU, 2_000, 96, (96, 8, 36, 1, False, 64, 6.67e-4, 12500, 1250)),
        ("vit-s", GPU, 10_001, 500, (224, 16, 196, 12, True, 256, 2e-4, 11720, 1172)),
        ("vit-b", GPU, 100_000, 500, (224, 16, 196, 12, True, 512, 4e-4, 58594, 5859)),
        # The paper: Table 6.
        (
            "vit-b",
            BIG_GPU,
            1_281_167,
            400,
            (224, 16, 196, 12, True, 2048, 1.6e-3, 187671, 18767),
        ),
        (
            "vit-h",
            BIG_GPU,
            1_281_167,
            400,
            (224, 14, 256, 32, True, 2048, 1.6e-3, 187671, 18767),
        ),
    ],
)
def test_table(
    model: str, machine: Machine, images: int, side: int, expected: tuple
) -> None:
    plan = plan_pretraining(images, side, size_of(model), machine)
    assert expected == (
        plan.image_size,
        plan.patch_size,
        plan.read,
        plan.decoder,
        plan.smoothing,
        plan.steps.batch,
        plan.lr,
        plan.updates,
        plan.warm_up,
    )
    assert plan.crop_from == (0.67 if plan.smoothing else 0.1)
    assert plan.little == (images <= LITTLE) == plan.narrow == (not plan.smoothing)
    assert plan.layer_decay == 1


@pytest.mark.parametrize(
    ("machine", "precision", "workers"),
    [
        (CPU, "fp32", 1),
        (replace(CPU, cores=1), "fp32", 0),
        (replace(CPU, cores=64), "fp32", 1),
        (GPU, "bf16", 8),
        (OLD_GPU, "fp16", 3),
    ],
)
def test_machine(machine: Machine, precision: str, workers: int) -> None:
    plan = plan_pretraining(500, 100, size_of("vit-s"), machine)
    assert (plan.steps.precision, plan.steps.workers) == (precision, workers)


def test_what_does_not_fit_is_accumulated() -> None:
    """Less memory never changes what is learnt, only how much at once."""
    plans = [
        plan_pretraining(10**6, 300, size_of("vit-b"), replace(GPU, memory=m * GIB))
        for m in (80, 24, 12, 8)
    ]
    at_once = [plan.steps.at_once for plan in plans]
    assert at_once == sorted(at_once, reverse=True) and len(set(at_once)) == 4
    for plan in plans:
        steps = plan.steps
        assert steps.at_once * steps.accumulation == steps.batch == 2048
        assert replace(plan, steps=plans[0].steps) == plans[0]


def test_a_tight_memory_leaves_one_image() -> None:
    plan = plan_pretraining(100, 300, size_of("vit-h"), replace(OLD_GPU, memory=GIB))
    assert (plan.steps.at_once, plan.steps.accumulation) == (1, 64)


@pytest.mark.parametrize(("images_that_fit", "at_once"), [(63, 32), (65, 64)])
def test_memory_counts_what_is_read_and_what_is_asked(
    images_that_fit: int, at_once: int
) -> None:
    """49 patches and a class token through 12 layers, 197 tokens through one."""
    image = 34 * 384 * (50 * 12 + 197)
    weights = 18 * 12 * 384**2 * 13
    memory = int((images_that_fit * image + weights) / 0.8)
    machine = replace(GPU, memory=memory)
    plan = plan_pretraining(2_000, 500, size_of("vit-s"), machine)
    assert (plan.steps.batch, plan.steps.at_once) == (64, at_once)


@pytest.mark.parametrize(
    ("model", "width", "heads"),
    [("vit-tiny", 128, 2), ("vit-s", 256, 4), ("vit-b", 512, 8), ("vit-h", 880, 11)],
)
def test_a_narrow_decoder_has_two_thirds_of_the_heads(
    model: str, width: int, heads: int
) -> None:
    plan = plan_pretraining(2_000, 500, size_of(model), GPU)
    blocks = pretrain_blocks(plan, MODELS[model], Path("photos"), None, 0, 1)
    neck = dict(depth=1, width=width, decoder_heads=heads)
    assert blocks["model"]["neck"] == neck and "head" not in blocks["model"]


def test_what_is_given_wins() -> None:
    plan = plan_pretraining(
        500, 64, size_of("vit-s"), CPU, epochs=3, batch_size=24, workers=5
    )
    assert plan.steps.batch == 24 and plan.steps.workers == 5
    assert plan.updates == round(3 * 500 / 24)
    assert plan.epochs == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("images", [8, 500, LITTLE, LITTLE + 1, 10**6])
def test_going_on_from_weights(images: int, narrow: bool) -> None:
    """A quarter of the rate and a third of the length; a new decoder learns fully.

    What is read, and the kind of the decoder, stay as the weights have learnt it.
    """
    sizes = dict(patch_size=16, image_size=192)
    size = EncoderSize(384, 12, **sizes, decoder=4, narrow=narrow)
    new = plan_pretraining(images, 500, size, GPU)
    whole = plan_pretraining(images, 500, size, GPU, "whole model")
    assert (whole.image_size, whole.patch_size, whole.decoder) == (192, 16, 4)
    assert (whole.narrow, whole.read) == (narrow, 36 if narrow else 144)
    assert whole.smoothing == (images > LITTLE and not narrow)
    assert whole.lr == pytest.approx(new.lr / 4, rel=0.01)
    assert whole.updates == pytest.approx(new.updates / 3, abs=1)
    assert whole.warm_up == pytest.approx(whole.updates / 20, abs=1)
    assert whole.layer_decay == 1
    bare = replace(size, decoder=None, narrow=None)
    encoder = plan_pretraining(images, 500, bare, GPU, "encoder")
    assert (encoder.lr, encoder.updates) == (new.lr, new.updates)
    assert encoder.layer_decay == 0.75
    assert encoder.decoder == (1 if images <= LITTLE else 12)
    assert encoder.narrow == (images <= LITTLE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("side", [5, 28, 47, 48, 100, 127, 128, 200, 4000])
def test_patches_cut_images_evenly(model: str, side: int) -> None:
    for machine in (CPU, GPU):
        plan = plan_pretraining(500, side, size_of(model), machine)
        rows, rest = divmod(plan.image_size, plan.patch_size)
        assert not rest and 4 <= rows <= 16 and plan.read == rows**2 // 4
        assert plan.image_size <= max(side, 16)


@pytest.mark.parametrize(
    ("images", "batch", "lr"),
    [
        (5, 4, 6.25e-5),
        (24, 8, 8.84e-5),
        (1_000, 64, 2.5e-4),
        (5_000, 256, 5e-4),
        (1_281_167, 1024, 2e-3),  # Table 7
    ],
)
def test_finetuning(images: int, batch: int, lr: float) -> None:
    size = replace(size_of("vit-b"), patch_size=16, image_size=224)
    plan = plan_finetuning(images, size, BIG_GPU)
    assert (plan.steps.batch, plan.lr) == (batch, lr)
    assert (plan.epochs, plan.warm_up) == (100, 20)
    assert plan_finetuning(images, size, GPU, epochs=2).warm_up == 1


def test_half_of_a_step_is_the_same_step() -> None:
    steps = Steps(64, 64, 1, "bf16").halved().halved()
    assert (steps.at_once, steps.accumulation, steps.batch) == (16, 4, 64)


def test_unknown_models_and_devices() -> None:
    with pytest.raises(ValueError, match="model='vit-x': there are vit-nano, vit-tiny"):
        size_of("vit-x")
    with pytest.raises(ValueError, match="device='tpu': give 'cpu', 'cuda'"):
        this_machine("tpu")
    with pytest.raises(ValueError, match="has 0 CUDA devices"):
        this_machine("cuda:1")
    here = this_machine()
    assert here.device == "cpu" and here.cores >= 1 and here.memory > 2**20
