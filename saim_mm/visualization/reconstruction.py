"""Predictions beside originals, as in Figure 3 of the paper.

Shapes: B images, C channels, N patches of p x p pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from ..datasets import ChannelDataPreprocessor
from ..models import SAIM, OrderSampler, SAIMHead
from ..models.saim_head import patch_statistics, patchify, unpatchify
from ..utils.model_state import evaluation_mode
from .figure import Picture, image_sheet, render

STEP_COLOURS = "viridis"  # ordered in lightness too: readable in print


@torch.no_grad()
def denormalise(prediction: Tensor, images: Tensor, head: SAIMHead) -> Tensor:
    """From the units of the target to images; the inverse of ``SAIMHead.target``.

    With ``norm_pix`` a prediction says how a patch differs from its own mean, in units
    of its own deviation. Both are read off the smoothed image, so that a perfect
    prediction gives back the smoothed image; the picture shows the structure that was
    predicted, not brightness and contrast.

    Args:
        prediction: Patches (B, N, p*p*C) in raster order, as ``SAIM.predict_patches``
            returns them.
        images: The images they were predicted for, as the model reads them (after the
            data preprocessor), (B, C, H, W).
        head: The head that made the prediction.

    Returns:
        (B, C, H, W), float32, in the units of ``images``.
    """
    mean, std = target_statistics(images, head)
    patches = prediction.float() * std + mean
    return unpatchify(patches, head.patch_size, grid_of(images, head))


def target_statistics(images: Tensor, head: SAIMHead) -> tuple[Tensor, Tensor]:
    """What a prediction is times and plus, to be a patch: (B, N, 1) each."""
    patches = patchify(head.blur(images.float()), head.patch_size)
    mean, std = patch_statistics(patches)
    if head.norm_pix:
        return mean, std
    return torch.zeros_like(mean), torch.ones_like(std)


def grid_of(images: Tensor, head: SAIMHead) -> tuple[int, int]:
    """Rows and columns of patches in images (B, C, H, W)."""
    rows, columns = head.patch_size
    return images.shape[2] // rows, images.shape[3] // columns


@torch.no_grad()
def to_rgb(images: Tensor, preprocessor: BaseDataPreprocessor) -> np.ndarray:
    """Undoes the data preprocessor, for the eye.

    Args:
        images: Images as the model reads them (B, C, H, W). One or two channels give a
            grey picture of the first, more than three a picture of the first three.
        preprocessor: What normalised them. One that does not swap the channels leaves
            three of them as mm's loaders give them, BGR. A
            :class:`ChannelDataPreprocessor` says itself which channels it shows.

    Returns:
        (B, H, W, 3), uint8, RGB.
    """
    images = images.float()
    if isinstance(preprocessor, ChannelDataPreprocessor):
        # False colours: from two deviations below the mean to two above it.
        images = (images[:, list(preprocessor.shown)] + 2) * (255 / 4)
    else:
        if getattr(preprocessor, "_enable_normalize", False):
            images = images * preprocessor.std + preprocessor.mean
        converted = getattr(preprocessor, "_channel_conversion", False)
        if images.shape[1] == 3 and not converted:
            images = images.flip(1)
    count = 3 if images.shape[1] >= 3 else 1
    pixels = images[:, :count].round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).cpu().numpy()


def original_title(preprocessor: BaseDataPreprocessor) -> str:
    """The title of originals in a picture, which says what their colours are not."""
    if not isinstance(preprocessor, ChannelDataPreprocessor):
        return "original"
    shown = ", ".join(map(str, preprocessor.shown))
    if len(preprocessor.shown) == 1:
        return f"original\n(channel {shown} in grey)"
    return f"original (false colours:\nchannels {shown})"


def step_maps(order: Tensor, family: OrderSampler, grid: tuple[int, int]) -> np.ndarray:
    """The step at which each patch is predicted, counted from 1.

    Returns:
        Of the orders (B, N) of a family, whose segments share a step: (B, rows,
        columns) of the grid, int64.
    """
    steps = order.argsort(dim=1) // family.segment_length + 1
    return steps.unflatten(1, grid).cpu().numpy()


@torch.no_grad()
def reconstruction_sheet(
    model: SAIM,
    images: Tensor,
    order: Tensor | None = None,
    baselines: Mapping[str, np.ndarray] | None = None,
) -> Picture:
    """A row per image: original, prediction, and the step of each patch.

    Where the target is smoothed, it stands beside the original.

    Args:
        model: The model; it is used in evaluation mode and left as it was.
        images: Images as the model reads them, after its data preprocessor
            (B, C, H, W), on the device of the model.
        order: Patch order (B, N); by default drawn.
        baselines: Further columns by title, (B, H, W, 3) uint8 RGB each, such as the
            mask and the reconstruction of an MAE. They come after the original.
    """
    if order is None:
        order = model.order_sampler.draw(len(images), images.device)
    with evaluation_mode(model):
        prediction = model.predict_patches(images, order)
    head, given = model.head, model.data_preprocessor
    columns = {original_title(given): to_rgb(images, given), **(baselines or {})}
    if not isinstance(head.blur, nn.Identity):
        target = head.blur(images.float())
        columns["smoothed original\n(the target)"] = to_rgb(target, given)
    predicted = denormalise(prediction, images, head)
    columns["SAIM's prediction"] = to_rgb(predicted, given)
    steps = step_maps(
        order, model.order_sampler, tuple(model.backbone.patch_resolution)
    )
    columns["predicted at step"] = steps
    note = "Each patch is predicted from the patches of earlier steps alone."
    if head.norm_pix:
        note += (
            "\nIts brightness and contrast are the target's: "
            "the model predicts what is left."
        )
    read = max(scope.read for scope in model.order_sampler.scopes)
    if read < order.shape[1]:
        note += f"\nIn training it read no more than {read} patches; here it reads all."
    figure, cells = image_sheet(
        columns,
        note,
        beside=0.65,  # for the colour bar
        cmap=STEP_COLOURS,
        vmin=1,
        vmax=steps.max(),
    )
    _add_legend(figure, cells[:, -1], int(steps.max()))
    return render(figure)


def _add_legend(figure: Figure, cells: np.ndarray, last_step: int) -> None:
    """A colour bar no longer than a few rows: a very long one is hard to read."""
    shown = cells[-1].images[0]
    bar = figure.colorbar(shown, ax=list(cells), fraction=0.08, aspect=30, pad=0.03)
    inner = MaxNLocator(nbins=5, integer=True).tick_values(1, last_step)
    # Both ends are named, and what lies too close to them is left out.
    margin = max(1, last_step // 10)
    inner = [t for t in inner if 1 + margin < t < last_step - margin]
    bar.set_ticks([1, *inner, last_step])
    bar.ax.invert_yaxis()  # time runs downwards, as reading does
    bar.ax.tick_params(labelsize=8)
    bar.ax.spines["outline"].set_visible(False)
