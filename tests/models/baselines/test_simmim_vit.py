"""SimMIM's encoder: a plain ViT, but for the patches that a mask hides."""

from __future__ import annotations

import pytest
import torch
from mmpretrain.models.backbones import VisionTransformer
from tiny import randomise, tiny_backbone
from torch import Tensor

from saim_mm.models import SimMIMViT

#: Rows and columns of patches: 2 x 3 of 4 x 4 pixels.
GRID = (2, 3)


def options() -> dict:
    config = tiny_backbone(out_type="featmap", final_norm=True)
    config.pop("type")
    return config


@pytest.fixture
def encoder() -> SimMIMViT:
    model = SimMIMViT(**options())
    randomise(model, seed=1)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 8, 12)


def test_nothing_hidden_is_the_plain_vit(encoder: SimMIMViT, images: Tensor) -> None:
    plain = VisionTransformer(**options())
    weights = encoder.state_dict()
    weights.pop("mask_token")
    plain.load_state_dict(weights)
    (expected,) = plain(images)
    assert expected.shape == (2, 16, *GRID)
    for mask in (None, torch.zeros(2, *GRID, dtype=torch.long)):
        (found,) = encoder(images, mask)
        torch.testing.assert_close(found, expected)


def test_hidden_pixels_have_no_influence(encoder: SimMIMViT, images: Tensor) -> None:
    mask = torch.zeros(2, *GRID, dtype=torch.long)
    mask[0, 1, 2] = 1
    changed = images.clone()
    changed[0, :, 4:, 8:] += 1
    (before,), (after,) = encoder(images, mask), encoder(changed, mask)
    assert torch.equal(before, after)
    (visible,) = encoder(changed, 1 - mask)
    assert not torch.allclose(visible[0], encoder(images, 1 - mask)[0][0])


def test_the_mask_token_stands_in(encoder: SimMIMViT, images: Tensor) -> None:
    """Hidden everywhere, all images look the same; and the token decides how."""
    mask = torch.ones(2, *GRID, dtype=torch.long)
    (first,) = encoder(images, mask)
    assert torch.equal(first[0], first[1])
    with torch.no_grad():
        encoder.mask_token += 1
    assert not torch.allclose(first, encoder(images, mask)[0])


def test_starts_with_a_fixed_position_and_a_small_token() -> None:
    model = SimMIMViT(**options())
    model.init_weights()
    assert not model.pos_embed.requires_grad
    assert model.pos_embed[:, 1:].std() > 0.1
    assert 0 < model.mask_token.abs().max() < 0.1


def test_other_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="out_type='cls_token'.*'featmap'"):
        SimMIMViT(**{**options(), "out_type": "cls_token"})
