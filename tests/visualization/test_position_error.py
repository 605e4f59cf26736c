"""The error by position is the training loss, told apart by steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from tiny import tiny_images, tiny_saim

from saim_mm.visualization import draw_position_error, patch_errors, position_errors


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_the_mean_is_the_training_loss(loss: str) -> None:
    model = tiny_saim(loss=loss).eval()
    images = tiny_images(model, 3)
    order = model.order_sampler.draw(3, images.device)
    prediction = model.predict_patches(images, order)
    errors = patch_errors(prediction, images, order, model)
    assert errors.shape == (3, 6)
    expected = model.loss(images, order=order)["loss"]
    assert torch.allclose(errors.mean(), expected, atol=1e-6)


def test_errors_are_sorted_by_step() -> None:
    """Only the patch of step 2 is predicted wrongly."""
    model = tiny_saim()
    images = tiny_images(model, 1)
    order = torch.tensor([[3, 0, 5, 1, 4, 2]])
    prediction = model.head.target(images)
    prediction[0, 5] += 2
    errors = patch_errors(prediction, images, order, model)
    assert errors[0].tolist() == pytest.approx([0, 0, 4, 0, 0, 0], abs=1e-5)


def test_all_images_count_and_the_model_stays_as_it_was() -> None:
    model = tiny_saim(drop_path_rate=0.5).train()
    model.backbone.layers[0].eval()  # frozen
    batches = [tiny_images(model, 3), tiny_images(model, 2, seed=1)]
    state = torch.get_rng_state()
    first, again = (
        position_errors(model, batches, torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert first.shape == (5, 6)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.backbone.layers[0].training


def test_several_orders_are_averaged() -> None:
    model, generator = tiny_saim(), torch.Generator().manual_seed(1)
    batches = [tiny_images(model, 3)]
    single = [position_errors(model, batches, generator) for _ in range(4)]
    mean = position_errors(model, batches, generator.manual_seed(1), orders=4)
    assert torch.allclose(mean, torch.stack(single).mean(0), atol=1e-6)


def test_patches_of_a_segment_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, **o: drawn.append((x.tolist(), y.tolist()))
        or plot(self, x, y, **o)
    )  # fmt: skip
    errors = torch.tensor([[1.0, 3, 5, 7, 9, 9], [1, 1, 1, 1, 1, 1]])
    segments = tiny_saim(order="segments", segment_size=(2, 1)).order_sampler
    draw_position_error(errors, segments, "l2")
    draw_position_error(errors, tiny_saim().order_sampler, "l2")
    of_segments, of_patches = drawn
    assert of_segments == ([0, 2, 4], [1.5, 3.5, 5])
    assert of_patches == ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 5])


@pytest.mark.parametrize("images", [1, 4])
def test_draws_one_image_and_many(images: int) -> None:
    family = tiny_saim(order="segments", segment_size=(2, 1)).order_sampler
    picture = draw_position_error(torch.rand(images, 6), family, "l2")
    assert picture.dtype == np.uint8
    assert picture.shape == (480, 1040, 3)
