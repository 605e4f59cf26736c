"""Mixed precision: bounded against float32, and a target that stays exact.

bfloat16 keeps 8 bits, so one rounding costs up to 2**-9, about 0.2 %. Bounds: the loss
within 1 %, the gradient of every parameter within 10 % of its norm, and all gradients
together at a cosine of 0.999. Over 20 models and batches the worst were 0.35 %, 9 %
(L1, where a rounding turns the sign of an error) and 0.9998.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import relative, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM, SAIMHead

MODELS: dict[str, dict[str, Any]] = {
    "stochastic": dict(),
    "coupled": dict(depth=2, tied_decoder=True, loss="l1"),
    "raster": dict(order="raster", depth=0, projector="linear"),
    "segments": dict(order="segments", segment_size=(1, 3), projector="transformer"),
}


def _step(
    model: SAIM, images: Tensor, order: Tensor, dtype: torch.dtype | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients, under autocast unless the type is ``None``."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        loss = model.loss(images, order=order)["loss"]
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    return loss.detach(), dict(zip(trained, gradients, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_close_to_float32(name: str) -> None:
    model = tiny_saim(embed_dims=32, **MODELS[name])
    images = tiny_images(model, 16)
    order = model.order_sampler.draw(16, images.device)
    loss, gradients = _step(model, images, order, None)
    loss16, gradients16 = _step(model, images, order, torch.bfloat16)

    assert loss16.dtype == torch.float32
    assert loss16 != loss  # autocast did something
    assert loss16.item() == pytest.approx(loss.item(), rel=1e-2)
    for key, gradient in gradients.items():
        assert gradients16[key].dtype == torch.float32
        assert relative(gradients16[key], gradient) < 0.1, key
    a, b = (
        torch.cat([g.flatten() for g in x.values()]) for x in (gradients, gradients16)
    )
    assert torch.cosine_similarity(a, b, dim=0) > 0.999


@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        pytest.param(
            torch.float16,
            marks=pytest.mark.skipif(
                not hasattr(torch.amp, "GradScaler"),
                reason="torch before 2.3 has no float16 autocast on a CPU",
            ),
        ),
    ],
)
def test_target_is_float32_under_autocast(dtype: torch.dtype) -> None:
    """Bit for bit the target without autocast, for which half precision is too coarse.

    Nearly flat patches are what norm_pix magnifies.
    """
    head = tiny_saim().head
    images = 1 + 1e-3 * torch.randn(4, 3, 8, 12)
    expected = head.target(images)
    with torch.autocast("cpu", dtype=dtype):
        target = head.target(images)
    assert target.dtype == torch.float32
    assert torch.equal(target, expected)


def test_target_leaves_the_images_alone() -> None:
    """Also where patches as wide as the image need not be copied to be cut."""
    head = SAIMHead(patch_size=(2, 6), in_channels=1, smoothing=None)
    images = torch.randn(2, 1, 4, 6)
    before = images.clone()
    head.target(images)
    assert torch.equal(images, before)


def test_target_has_no_gradient() -> None:
    """Not even to the images, so that nothing is kept for a backward pass."""
    images = torch.randn(2, 3, 8, 12, requires_grad=True)
    assert not tiny_saim().head.target(images).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_loss_is_float32_for_any_weights(dtype: torch.dtype) -> None:
    """Also where no autocast is, and the model itself is of another type."""
    model = tiny_saim().to(dtype)
    images = tiny_images(model, 2).to(dtype)
    assert model.loss(images)["loss"].dtype == torch.float32
