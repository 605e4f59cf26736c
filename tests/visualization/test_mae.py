"""MAE's columns: its own mask, and its predictions in the right place and units."""

from __future__ import annotations

import pytest
import torch
from mmpretrain.models.selfsup import MAE
from mmpretrain.registry import MODELS
from torch import nn

from saim_mm.visualization import reconstruct_with_mae


def tiny_mae(norm_pix: bool) -> MAE:
    return MODELS.build(
        dict(
            type="MAE",
            backbone=dict(
                type="MAEViT",
                arch=dict(
                    embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16
                ),
                img_size=16,
                patch_size=4,
                mask_ratio=0.75,
            ),
            neck=dict(
                type="MAEPretrainDecoder",
                num_patches=16,
                patch_size=4,
                embed_dim=16,
                decoder_embed_dim=16,
                decoder_depth=1,
                decoder_num_heads=2,
            ),
            head=dict(
                type="MAEPretrainHead",
                norm_pix=norm_pix,
                patch_size=4,
                loss=dict(type="PixelReconstructionLoss", criterion="L2"),
            ),
        )
    )


class Fixed(nn.Module):
    """A decoder that predicts what it was told to."""

    def __init__(self, patches: torch.Tensor) -> None:
        super().__init__()
        self.patches = patches

    def forward(self, latent, ids_restore):
        return self.patches


@pytest.mark.parametrize("norm_pix", [True, False])
def test_perfect_prediction_gives_back_the_image(norm_pix: bool) -> None:
    model = tiny_mae(norm_pix).train()
    images = torch.randn(3, 3, 16, 16)
    target = model.head.construct_target(images)
    model.neck = Fixed(target)
    state = torch.get_rng_state()
    found = reconstruct_with_mae(model, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert (found.images - images).abs().max() <= 1e-5
    assert found.hidden.float().mean() == 0.75
    # The mask is one of whole patches, another for each image and for each seed.
    patches = found.hidden.unflatten(2, (4, 4)).unflatten(1, (4, 4)).float()
    assert set(patches.mean(dim=(2, 4)).unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(found.hidden[0], found.hidden[1])
    other = reconstruct_with_mae(model, images, seed=1).hidden
    assert not torch.equal(found.hidden, other)

    model.neck = Fixed(target + 1)
    wrong = reconstruct_with_mae(model, images)
    error = (wrong.images - images).abs().amax(dim=1)
    assert torch.equal(error > 1e-3, wrong.hidden)
