"""SAIM against the slow reference that is written from the paper's equations.

Every value of every option meets every value of every other: the options that shape
the two streams (order, decoder, projector) in full product, those that shape the target
(loss, norm, smoothing, grid and channels) in full product, and as many
combinations of the two groups as it takes for all pairs to meet.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from tiny import predict, relative, step_of, tiny_images, tiny_saim

from saim_mm.models.plan import unsort_tokens
from saim_mm.parity.reference import reference_loss, reference_predictions

NUM_LAYERS = 4

ORDERS: dict[str, dict[str, Any]] = {
    "stochastic": dict(order="stochastic"),
    "raster": dict(order="raster"),
    # The two sizes tile every grid below; the columns do not follow in raster order.
    "rows": dict(order="segments", segment_size=(1, 3)),
    "columns": dict(order="segments", segment_size=(3, 1)),
}
DECODERS: dict[str, dict[str, Any]] = {
    **{f"own{d}": dict(depth=d) for d in (4, 2, 1)},
    **{f"coupled{d}": dict(depth=d, tied_decoder=True) for d in (4, 2, 1)},
    "none": dict(depth=0),
}
PROJECTORS = ("linear", "mlp", "transformer")
LOSSES = tuple(itertools.product(("l1", "l2"), (True, False)))
SMOOTHINGS: dict[str, dict[str, Any] | None] = {
    "9": dict(kernel_size=9, sigma=1.0),
    "3": dict(kernel_size=3, sigma=0.6),
    "off": None,
}
GRIDS: dict[str, dict[str, Any]] = {
    "3x3": dict(image_size=(9, 9), patch_size=(3, 3)),
    "3x6": dict(image_size=(6, 12), patch_size=(2, 2)),
    "6x3-tall": dict(image_size=(24, 6), patch_size=(4, 2)),
    "3x3-wide": dict(image_size=(6, 15), patch_size=(2, 5)),
}
CHANNELS = (1, 3, 5)

Case = tuple[Any, ...]
STREAMS: list[Case] = [
    case
    for case in itertools.product(ORDERS, DECODERS, PROJECTORS)
    if case[1] != "none" or case[0] == "raster"  # nothing else can be built
]
TARGETS: list[Case] = list(itertools.product(LOSSES, SMOOTHINGS, GRIDS, CHANNELS))


def _pairs(case: Case) -> set[Case]:
    return set(itertools.combinations(enumerate(case), 2))


def _cases() -> list[Case]:
    """Both products once, in a fixed shuffle; then what pairs are still missing."""
    everything = [a + b for a, b in itertools.product(STREAMS, TARGETS)]
    shuffle = random.Random(0).shuffle
    for cases in (STREAMS, TARGETS, everything):
        shuffle(cases)
    cases = [a + b for a, b in zip(itertools.cycle(STREAMS), TARGETS, strict=False)]
    seen = set().union(*map(_pairs, cases))
    for case in everything:
        if not _pairs(case) <= seen:
            cases.append(case)
            seen |= _pairs(case)
    return cases


CASES = _cases()


def _options(case: Case) -> dict[str, Any]:
    order, decoder, projector, (loss, norm_pix), smoothing, grid, channels = case
    return dict(
        num_layers=NUM_LAYERS,
        embed_dims=16,
        projector=projector,
        loss=loss,
        norm_pix=norm_pix,
        smoothing=SMOOTHINGS[smoothing],
        channels=channels,
        **ORDERS[order],
        **DECODERS[decoder],
        **GRIDS[grid],
    )


def _case_id(case: Case) -> str:
    order, decoder, projector, (loss, norm_pix), smoothing, grid, channels = case
    norm = "norm" if norm_pix else "raw"
    parts = [order, decoder, projector, loss, norm, smoothing, grid, channels]
    return "-".join(map(str, parts))


@pytest.mark.parametrize("case", CASES, ids=_case_id)
def test_loss_and_every_gradient(case: Case) -> None:
    """Loss, predictions and all gradients agree to 1e-5 in float32."""
    model = tiny_saim(**_options(case))
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    step = step_of(model, order)
    parameters = dict(model.named_parameters())
    trained = {k: p for k, p in parameters.items() if p.requires_grad}
    assert set(parameters) - set(trained) == {"backbone.pos_embed"}

    loss = model.loss(images, order=order)["loss"]
    expected_loss = reference_loss(model, images, step)
    gradients = torch.autograd.grad(loss, list(trained.values()))
    expected = torch.autograd.grad(expected_loss, list(trained.values()))

    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, a, b in zip(trained, gradients, expected, strict=True):
        assert b.abs().max() > 0, name
        assert relative(a, b) < 1e-5, name
    with torch.no_grad():
        predictions = reference_predictions(model, images, step)
    assert relative(model.predict_patches(images, order), predictions) < 1e-5


@pytest.mark.parametrize("case", STREAMS, ids="-".join)
def test_predictions_in_double_precision(case: Case) -> None:
    """Predictions and their gradients agree to 1e-12 in float64.

    Through a random projection of the predictions, because the loss itself is float32
    by contract.
    """
    order_kind, decoder, projector = case
    model = tiny_saim(
        image_size=(24, 6),
        patch_size=(4, 2),
        num_layers=NUM_LAYERS,
        embed_dims=16,
        projector=projector,
        **ORDERS[order_kind],
        **DECODERS[decoder],
    ).double()
    images = tiny_images(model, 2).double().requires_grad_()
    order = model.order_sampler.draw(2, images.device)
    inputs = [p for p in model.parameters() if p.requires_grad] + [images]

    actual = unsort_tokens(predict(model, images, order), order)
    expected = reference_predictions(model, images, step_of(model, order))
    assert relative(actual, expected) < 1e-12
    weight = torch.randn_like(expected)
    gradients = torch.autograd.grad((weight * actual).sum(), inputs)
    references = torch.autograd.grad((weight * expected).sum(), inputs)
    for a, b in zip(gradients, references, strict=True):
        assert relative(a, b) < 1e-12
