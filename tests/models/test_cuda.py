"""On a GPU: the same numbers as on a CPU, by the fast kernels, without a wait."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from mmpretrain.structures import DataSample
from tiny import relative, tiny_images, tiny_saim

from saim_mm.datasets import SampleIndex
from saim_mm.engine.compile_hook import compile_layers
from saim_mm.models import SAIM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
#: Heads of 64 channels, as those of every recipe.
WIDE = dict(embed_dims=128, num_heads=2, image_size=(28, 24))
OPTIONS = [
    pytest.param(dict(), id="paper"),
    pytest.param(dict(order="raster", depth=0), id="no decoder"),
    pytest.param(dict(tied_decoder=True, depth=2), id="coupled"),
    pytest.param(dict(order="segments", segment_size=(1, 3)), id="segments"),
    pytest.param(dict(channels=1, loss="l1", projector="linear"), id="one channel"),
]


def step(
    model: SAIM, images: torch.Tensor, order: torch.Tensor, dtype: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and all gradients in one vector, on the CPU."""
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        loss = model.loss(images.to(device), order=order)["loss"]
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained)
    return loss.detach().cpu(), torch.cat([g.flatten().cpu() for g in gradients])


@pytest.mark.parametrize("options", OPTIONS)
def test_the_numbers_are_those_of_a_cpu(options: dict[str, Any]) -> None:
    """Without TensorFloat-32, in which CUDA convolves by default."""
    model = tiny_saim(**options)
    images = tiny_images(model, 4)
    order = model.order_sampler.draw(4, images.device)
    expected = step(model, images, order, None)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        actual = step(model.cuda(), images, order, None)
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative(ours, theirs) < 1e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_the_target_is_that_of_a_cpu(channels: int) -> None:
    """Whatever CUDA rounds convolutions to: norm_pix would magnify it."""
    model = tiny_saim(channels=channels)
    images = 1 + 1e-2 * tiny_images(model, 4)
    expected = model.head.target(images)
    target = model.cuda().head.target(images.cuda()).cpu()
    torch.testing.assert_close(target, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", OPTIONS[:3])
def test_flash_attention_takes_every_layer(options: dict[str, Any]) -> None:
    """With no other kernel allowed, forward and backward."""
    attention = pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    model = tiny_saim(**{**WIDE, **options}).cuda()
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    with attention.sdpa_kernel([attention.SDPBackend.FLASH_ATTENTION]):
        loss, gradients = step(model, images, order, torch.bfloat16)
    assert torch.isfinite(loss) and torch.isfinite(gradients).all()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_no_step_waits_for_the_device(share: float) -> None:
    """Orders included, which follow from the samples or from the generator."""
    model = tiny_saim(query_share=share).cuda()
    images = tiny_images(model, 2).cuda()
    samples = [
        DataSample(metainfo=dict(sample_idx=SampleIndex(i, seed=0, epoch=0)))
        for i in range(2)
    ]
    for data_samples in (None, samples):
        model.loss(images, data_samples)["loss"].backward()  # fills caches
        torch.cuda.set_sync_debug_mode("error")
        try:
            model.loss(images, data_samples)["loss"].backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_compiled_layers_learn_the_same() -> None:
    eager = tiny_saim(**WIDE).cuda()
    model = copy.deepcopy(eager)
    compile_layers(model)
    images = tiny_images(model, 4)
    order = model.order_sampler.draw(4, images.device)
    expected = step(eager, images, order, torch.bfloat16)
    actual = step(model, images, order, torch.bfloat16)
    assert actual[0].item() == pytest.approx(expected[0].item(), rel=1e-2)
    assert torch.cosine_similarity(actual[1], expected[1], dim=0) > 0.999


def test_memory_of_a_step_is_linear_in_the_tokens() -> None:
    """Four times the tokens take four times the memory, and not sixteen times."""
    peaks = []
    for side in (64, 128, 256):  # 256, 1024 and 4096 patches
        model = tiny_saim(**{**WIDE, "image_size": (side, side)}).cuda()
        images = tiny_images(model, 1)
        order = model.order_sampler.draw(1, images.device)
        step(model, images, order, torch.bfloat16)  # cuBLAS takes its workspace
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(model, images, order, torch.bfloat16)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del model
    assert peaks[2] - peaks[1] < 4.4 * (peaks[1] - peaks[0])
