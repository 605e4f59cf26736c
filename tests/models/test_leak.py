"""No prediction ever sees its own patch: gradients that are exactly zero.

What may depend on what is written here from the definition, by grid coordinates; no
mask of the package is used. A gradient counts as zero only if every pixel's is 0.0,
and a dependence must show in every pixel of the patch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from tiny import predict, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.engine.compile_hook import compile_layers, why_not
from saim_mm.models import SAIM
from saim_mm.models.layers import transformer_layers
from saim_mm.models.saim_head import patchify

NUM_ORDERS = 1000
FEW_ORDERS = 100  # where the kind has few of them
GRID = (2, 4)  # 8 patches have 40,320 orders
PATCH = (2, 2)

MODELS: dict[str, dict[str, Any]] = {
    "stochastic": dict(),
    "stochastic-partial": dict(depth=2),
    "stochastic-one": dict(depth=1),
    "stochastic-coupled": dict(tied_decoder=True),
    "stochastic-coupled-partial": dict(tied_decoder=True, depth=2),
    "stochastic-transformer": dict(projector="transformer"),
    "raster": dict(order="raster"),
    "raster-none": dict(order="raster", depth=0),
    "raster-none-transformer": dict(order="raster", depth=0, projector="transformer"),
    "raster-coupled": dict(order="raster", tied_decoder=True),
    "segments-squares": dict(order="segments", segment_size=(2, 2)),
    "segments-rows": dict(order="segments", segment_size=(1, 4), depth=2),
    "segments-columns": dict(order="segments", segment_size=(2, 1), tied_decoder=True),
    "segments-transformer": dict(
        order="segments", segment_size=(1, 2), projector="transformer"
    ),
}


def _build(options: dict[str, Any]) -> SAIM:
    size = (GRID[0] * PATCH[0], GRID[1] * PATCH[1])
    return tiny_saim(
        image_size=size, patch_size=PATCH, **{"num_layers": 4, "depth": 4, **options}
    )


def _num_orders(name: str) -> int:
    return NUM_ORDERS if name.startswith("stochastic") else FEW_ORDERS


def _segment_of(patch: Tensor, segment_size: tuple[int, int]) -> Tensor:
    """Which rectangle of the grid a patch lies in, by its raster index."""
    row, column = patch // GRID[1], patch % GRID[1]
    return row // segment_size[0] * GRID[1] + column // segment_size[1]


def _dependence(
    rows: Callable[[Tensor], Tensor], images: Tensor, order: Tensor
) -> tuple[Tensor, Tensor]:
    """Which row depends on which patch.

    Args:
        rows: Images (B, C, H, W) -> sorted rows (B, T, D).
        images: (B, C, H, W).
        order: (B, N).

    Returns:
        Two boolean tensors (B, T, N), patches sorted: whether any pixel of the patch
        has a gradient that is not zero, and whether every pixel has.
    """
    images = images.clone().requires_grad_()
    out = rows(images)
    weight = torch.randn_like(out)
    some, every = [], []
    for t in range(out.shape[1]):
        (grad,) = torch.autograd.grad(
            out[:, t], images, weight[:, t], retain_graph=True
        )
        pixels = patchify(grad, PATCH)
        index = order[..., None].expand_as(pixels)
        pixels = pixels.gather(1, index) != 0
        some.append(pixels.any(-1))
        every.append(pixels.all(-1))
    return torch.stack(some, 1), torch.stack(every, 1)


def _first_of_segment(order: Tensor, name: str) -> Tensor:
    """The first step (B, N) of the segment that each step belongs to."""
    segment = _segment_of(order, MODELS[name].get("segment_size", (1, 1)))
    return (segment[:, :, None] == segment[:, None, :]).int().argmax(-1)


def _earlier(order: Tensor, name: str) -> Tensor:
    """What the predictions may depend on: (B, prediction, patch)."""
    first = _first_of_segment(order, name)
    return first[:, :, None] > first[:, None, :]


@pytest.mark.parametrize("name", MODELS)
def test_predictions_see_earlier_patches_only(name: str) -> None:
    """Prediction t depends on every patch of earlier steps and on no other."""
    model = _build(MODELS[name])
    images = tiny_images(model, _num_orders(name))
    order = model.order_sampler.draw(len(images), images.device)

    some, every = _dependence(lambda x: predict(model, x, order), images, order)

    assert torch.equal(some, _earlier(order, name))
    assert torch.equal(every, some)


#: Ways of computing the same, by other kernels or of fewer queries.
FAST = {
    "bfloat16": ["stochastic", "raster-none", "segments-squares"],
    "subset": ["stochastic", "stochastic-coupled", "segments-squares"],
    "checkpointed": ["stochastic", "stochastic-coupled"],
}


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way in FAST for name in FAST[way]]
)
def test_predictions_of_fast_paths_see_earlier_patches_only(
    way: str, name: str
) -> None:
    model = _build(MODELS[name])
    images = tiny_images(model, FEW_ORDERS)
    order = model.order_sampler.draw(len(images), images.device)
    steps = torch.tensor([0, 2, 3, 7]) if way == "subset" else None
    if way == "checkpointed":
        # torch's own: MMEngine's is of the older kind, which autograd.grad refuses.
        for layer in transformer_layers(model):
            layer.forward = partial(
                torch.utils.checkpoint.checkpoint, layer.forward, use_reentrant=False
            )

    def rows(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "bfloat16"):
            return model.predict_asked(x, model.order_sampler.plan_of(order, steps))

    some, _ = _dependence(rows, images, order)
    earlier = _earlier(order, name)
    assert torch.equal(some, earlier if steps is None else earlier[:, steps])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stochastic", "raster-none"])
def test_predictions_of_compiled_layers_see_earlier_patches_only(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = why_not(torch.device("cpu"))
    if reason is not None:
        pytest.skip(f"torch cannot compile here: {reason}")
    # Each row's gradient is taken from the same graph.
    monkeypatch.setattr(torch._functorch.config, "donated_buffer", False, raising=False)
    model = _build(MODELS[name])
    compile_layers(model)
    images = tiny_images(model, FEW_ORDERS)
    order = model.order_sampler.draw(len(images), images.device)

    some, every = _dependence(lambda x: predict(model, x, order), images, order)

    assert torch.equal(some, _earlier(order, name))
    assert torch.equal(every, some)


@pytest.mark.parametrize("name", ["stochastic", "raster", "segments-squares"])
def test_content_sees_patches_so_far(name: str) -> None:
    """Of every layer: cls sees no patch, token t its own step's and earlier ones."""
    model = _build(MODELS[name])
    images = tiny_images(model, _num_orders(name))
    order = model.order_sampler.draw(len(images), images.device)
    first = _first_of_segment(order, name)
    so_far = first[:, :, None] >= first[:, None, :]
    none = torch.zeros(len(images), 1, order.shape[1], dtype=torch.bool)

    for layer in range(model.backbone.num_layers):

        def rows(x: Tensor, layer: int = layer) -> Tensor:
            return model.backbone(x, model.order_sampler.plan_of(order)).states[layer]

        some, every = _dependence(rows, images, order)
        assert torch.equal(some, torch.cat([none, so_far], dim=1))
        assert torch.equal(every, some)


def test_cls_reads_itself_only() -> None:
    """Other patches, even of another order, leave the class rows bit for bit alike."""
    model = _build({})
    a, b = tiny_images(model, 64, seed=1), tiny_images(model, 64, seed=2)
    with torch.no_grad():
        states_a = model.backbone(a, model.plan(a)).states
        states_b = model.backbone(b, model.plan(b)).states
        for x, y in zip(states_a, states_b, strict=True):
            assert torch.equal(x[:, 0], y[:, 0])
            assert not torch.equal(x[:, 1:], y[:, 1:])


def test_a_thousand_orders_are_a_thousand_orders() -> None:
    """The orders above differ, so that the proofs are about more than a few."""
    order = _build({}).order_sampler.draw(NUM_ORDERS, torch.device("cpu"))
    assert len(order.unique(dim=0)) > 0.95 * NUM_ORDERS


@pytest.mark.parametrize("name", ["stochastic", "segments-rows"])
def test_loss_reads_the_same_predictions(name: str) -> None:
    """The loss is that of the predictions proved above, patch by patch."""
    model = _build(MODELS[name])
    images = tiny_images(model, 16)
    order = model.order_sampler.draw(16, images.device)
    target = model.head.target(images)
    target = target.gather(1, order[..., None].expand_as(target))
    expected = (predict(model, images, order) - target).square().mean()
    assert model.loss(images, order=order)["loss"].item() == pytest.approx(
        expected.item(), rel=1e-6
    )
