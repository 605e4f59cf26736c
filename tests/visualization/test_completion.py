"""Completion reads what it may and nothing else, and gives back pixels rightly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmpretrain.models import SelfSupDataPreprocessor
from PIL import Image
from tiny import predict, tiny_images, tiny_saim
from torch import Tensor

from saim_mm.models import SAIM
from saim_mm.models.plan import sort_tokens
from saim_mm.models.saim_head import patchify
from saim_mm.visualization import (
    animation,
    complete,
    completion,
    completion_frames,
    completion_sheet,
    hidden_statistics,
    keep_box,
    keep_drawn,
    keep_share,
    save_gif,
)
from saim_mm.visualization.completion import predict_next

SEGMENTS = dict(order="segments", segment_size=(2, 1))
MODELS: list[dict[str, Any]] = [
    dict(),
    dict(depth=2, tied_decoder=True),
    dict(projector="transformer"),
    dict(order="raster"),
    dict(order="raster", depth=0),
    dict(order="raster", depth=0, projector="transformer"),
    SEGMENTS,
    dict(**SEGMENTS, projector="transformer"),
]
KEPT = torch.tensor([[True, False, True], [False, False, False]])  # of 2 x 3 patches


def last(*args: Any, **options: Any) -> completion.Completion:
    return list(complete(*args, **options))[-1]


@pytest.mark.parametrize("options", MODELS)
def test_the_next_step_is_predicted_as_in_training(options: dict[str, Any]) -> None:
    model = tiny_saim(**options).eval()
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    expected = predict(model, images, order)
    length = model.order_sampler.segment_length
    for known in range(0, 6, length):
        found = predict_next(model, images, order, known, length)
        assert torch.allclose(found, expected[:, known : known + length], atol=1e-5)


@pytest.mark.parametrize("options", [MODELS[0], MODELS[2], MODELS[6], MODELS[7]])
def test_patches_of_one_step_know_nothing_of_each_other(
    options: dict[str, Any],
) -> None:
    """All at once, or each segment as if it were the only one."""
    model = tiny_saim(**options).eval()
    images = tiny_images(model, 2)
    order = model.order_sampler.draw(2, images.device)
    length = model.order_sampler.segment_length
    together = predict_next(model, images, order, 2, 4)
    for first in range(2, 6, length):
        rest = [t for t in range(2, 6) if not first <= t < first + length]
        other = order[:, [0, 1, *range(first, first + length), *rest]]
        alone = predict_next(model, images, other, 2, length)
        index = slice(first - 2, first - 2 + length)
        assert torch.allclose(together[:, index], alone, atol=1e-5)


@pytest.mark.parametrize("patches_per_step", [None, 1, 3])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_nothing_of_a_hidden_patch_is_read(
    patches_per_step: int | None, norm_pix: bool
) -> None:
    model = tiny_saim(norm_pix=norm_pix)
    images = tiny_images(model, 2)
    hidden = ~KEPT.repeat_interleave(4, 0).repeat_interleave(4, 1)
    changed = torch.where(hidden, 100 * torch.randn_like(images), images)
    assert not torch.equal(changed, images)
    found = last(model, images, KEPT, patches_per_step)
    assert torch.equal(found.images, last(model, changed, KEPT, patches_per_step)[0])
    assert torch.equal(found.images[:, :, ~hidden], images[:, :, ~hidden])


def test_what_was_predicted_is_read_again() -> None:
    model = tiny_saim()
    images = tiny_images(model, 2)
    at_once = last(model, images, KEPT).images
    one_by_one = last(model, images, KEPT, 1).images
    assert not torch.allclose(at_once, one_by_one, atol=1e-2)


def predict_perfectly(
    model: SAIM, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = model.head.target(images)
    monkeypatch.setattr(
        completion,
        "predict_next",
        lambda m, i, order, known, n: sort_tokens(target, order[:, known : known + n]),
    )


@pytest.mark.parametrize("patches_per_step", [None, 1, 2])
@pytest.mark.parametrize("norm_pix", [True, False])
def test_perfect_prediction_gives_back_the_smoothed_image(
    patches_per_step: int | None, norm_pix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_saim(norm_pix=norm_pix)
    images = tiny_images(model, 3)
    predict_perfectly(model, images, monkeypatch)
    found = last(model, images, KEPT, patches_per_step, "true").images
    hidden = ~KEPT.repeat_interleave(4, 0).repeat_interleave(4, 1)
    smoothed = model.head.blur(images)
    assert (found - smoothed)[:, :, hidden].abs().max() <= 1e-5


def test_guessed_statistics_are_right_where_all_patches_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_saim(smoothing=None)
    images = torch.randn(2, 3, 4, 4).tile(1, 1, 2, 3)
    predict_perfectly(model, images, monkeypatch)
    found = last(model, images, KEPT, 1, "kept").images
    assert (found - images).abs().max() <= 1e-5


def test_guessed_statistics_come_from_the_nearest() -> None:
    """Left column bright, right column dark, the middle between the two."""
    model = tiny_saim(smoothing=None)
    images = torch.zeros(1, 3, 8, 12)
    images[..., :4], images[..., 8:] = 5.0, -3.0
    kept = torch.tensor([True, False, False, False, False, True])  # top left, low right
    mean, _ = hidden_statistics(images, kept, model.head, "kept")
    # Weights of (0, 1): 1 to the left; 1 / 2 to the lower right.
    assert mean[0, 1].item() == pytest.approx((5.0 - 3.0 / 2) / 1.5, abs=1e-5)
    assert mean[0, 0].item() == pytest.approx(5.0, abs=1e-4)


def test_smoothing_of_kept_pixels_is_the_models_where_all_are_kept() -> None:
    model = tiny_saim()
    images = tiny_images(model, 2)
    kept = torch.ones(6, dtype=torch.bool)
    found = completion._smoothed_within(images, kept, model.head)
    assert torch.allclose(found, model.head.blur(images), atol=1e-6)


def test_every_step_shows_more() -> None:
    model = tiny_saim().train()
    steps = list(complete(model, tiny_images(model, 2), KEPT, 3))
    shares = [step.known.float().mean().item() for step in steps]
    assert shares == pytest.approx([2 / 6, 5 / 6, 1])
    first = steps[0]
    assert (first.images.permute(0, 2, 3, 1)[~first.known] == 0).all()
    assert model.training


@pytest.mark.parametrize(
    ("options", "kept", "arguments", "message"),
    [
        (dict(), torch.ones(2, 3).bool(), {}, "nothing to predict"),
        (dict(), torch.zeros(2, 3).bool(), {}, "No patch is kept"),
        (dict(), KEPT, dict(statistics="mine"), "statistics='mine'"),
        (dict(), KEPT, dict(patches_per_step=0), "patches_per_step=0"),
        (dict(order="raster"), KEPT, {}, "keep the first rows"),
        (SEGMENTS, KEPT, {}, "keep whole segments"),
        (SEGMENTS, keep_box((2, 3), (0, 0, 0.3, 1)), dict(patches_per_step=1), "break"),
        (dict(order="raster", depth=0), keep_box((2, 3), (0, 0, 1, 0.5)), {}, "=1"),
    ],
)
def test_what_cannot_be_completed(
    options: dict, kept: Tensor, arguments: dict, message: str
) -> None:
    model = tiny_saim(**options)
    with pytest.raises(ValueError, match=message):
        list(complete(model, tiny_images(model, 1), kept, **arguments))


@pytest.mark.parametrize("options", [dict(order="raster", depth=0), SEGMENTS])
def test_other_orders_complete_what_they_can(options: dict[str, Any]) -> None:
    model = tiny_saim(**options)
    images = tiny_images(model, 1)
    box = (0, 0, 1, 0.5) if options["order"] == "raster" else (0, 0, 0.3, 1)
    kept = keep_box((2, 3), box)
    found = last(model, images, kept, model.order_sampler.segment_length)
    assert found.known.all()
    assert found.images.isfinite().all()


def test_kept_patches(tmp_path) -> None:
    assert keep_box((2, 4), (0, 0.5, 0.5, 1)).tolist() == [[False] * 4, [True] * 2 + [False] * 2]  # noqa: E501  # fmt: skip
    share = keep_share((4, 5), 0.25, seed=3)
    assert share.sum() == 5
    assert torch.equal(share, keep_share((4, 5), 0.25, seed=3))
    assert not torch.equal(share, keep_share((4, 5), 0.25, seed=4))
    drawing = np.zeros((40, 60), np.uint8)
    drawing[20:, :20] = 255  # lower left of 2 x 3
    Image.fromarray(drawing).save(tmp_path / "mask.png")
    kept = keep_drawn((2, 3), tmp_path / "mask.png")
    assert kept.tolist() == [[False] * 3, [True, False, False]]
    with pytest.raises(ValueError, match="upper half"):
        keep_box((2, 2), (0.5, 0, 0.5, 1))
    with pytest.raises(ValueError, match="share=1"):
        keep_share((2, 2), 1)


def test_sheet_and_animation_show_the_way(tmp_path) -> None:
    model = tiny_saim(smoothing=None)
    images = torch.zeros(2, 3, 8, 12)
    images[:, 2] = 255  # red; BGR
    steps = list(complete(model, images, KEPT, 1))
    frames = completion_frames(steps, SelfSupDataPreprocessor())
    assert len(frames) == 5
    red, grey = (frames[0] == c for c in ((255, 0, 0), (128, 128, 128)))
    assert red.all(-1).sum() == 2 * 2 * 16  # two images, two patches
    assert grey.all(-1).sum() == 2 * 4 * 16

    originals = np.broadcast_to(np.array([255, 0, 0], np.uint8), frames[0].shape)
    sheet = completion_sheet(originals, frames, [2, 3, 4, 5, 6], "note", columns=3)
    assert sheet.shape[2] == 3
    assert sheet.shape[1] == pytest.approx(4 * 1.66 * 160, abs=2)

    path = tmp_path / "new" / "way.gif"
    save_gif(animation(originals, frames), path, seconds=0.1, rest=1)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 100
        assert gif.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
        gif.seek(4)
        assert gif.info["duration"] == 1000
        assert gif.info["loop"] == 0


def test_patches_lie_where_they_belong() -> None:
    """A frame at the start is the image, patch by patch."""
    model = tiny_saim()
    images = tiny_images(model, 2)
    first = next(iter(complete(model, images, KEPT)))
    ours, theirs = (patchify(i, (4, 4)) for i in (first.images, images))
    kept = KEPT.flatten()
    assert torch.equal(ours[:, kept], theirs[:, kept])
