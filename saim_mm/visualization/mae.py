"""What mmpretrain's MAE makes of an image: the rival's columns of Figure 3."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmpretrain.models.selfsup import MAE
from torch import Tensor

from ..models.saim_head import patch_statistics, patchify, unpatchify
from ..utils.model_state import evaluation_mode
from .completion import pixels_of


class MAEReconstruction(NamedTuple):
    """Masked images and what MAE fills in.

    Attributes:
        hidden: (B, H, W), bool, ``True`` where a pixel was masked.
        images: (B, C, H, W), float32, in their units; visible patches as they are.
    """

    hidden: Tensor
    images: Tensor


@torch.no_grad()
def reconstruct_with_mae(
    model: MAE, images: Tensor, seed: int = 0
) -> MAEReconstruction:
    """Masks images at random, at the model's own ratio, and has MAE fill them in.

    With ``norm_pix`` the mean and deviation of a hidden patch are its own, as in
    :func:`~saim_mm.visualization.denormalise`, so both methods get the same help.

    Args:
        model: mmpretrain's ``MAE``; used in evaluation mode and left as it was.
        images: As the model reads them, after its data preprocessor (B, C, H, W).
        seed: Of the mask; torch's generators are left as they were.
    """
    side = model.head.patch_size
    devices = [images.device] if images.is_cuda else []
    with evaluation_mode(model), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        latent, mask, ids_restore = model.backbone(images)
        patches = model.neck(latent, ids_restore).float()
    original = patchify(images.float(), (side, side))
    if model.head.norm_pix:
        mean, std = patch_statistics(original)
        patches = patches * std + mean
    hidden = mask.bool()
    patches = torch.where(hidden.unsqueeze(-1), patches, original)
    grid = (images.shape[2] // side, images.shape[3] // side)
    return MAEReconstruction(
        hidden=pixels_of(hidden, (side, side), grid),
        images=unpatchify(patches, (side, side), grid),
    )
