"""Predictions beside originals, as in Figure 3 of the paper.

Shapes: B images, C channels, N patches of p x p pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from ..datasets import ChannelDataPreprocessor
from ..models import SAIM, OrderSampler, SAIMHead
from ..models.saim_head import patch_statistics, patchify, unpatchify
from ..utils.model_state import evaluation_mode
from .figure import CELL, Picture, new_figure, render, show

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
    patches = prediction.float()
    rows, columns = head.patch_size
    if head.norm_pix:
        target = patchify(smoothed(images, head), (rows, columns))
        mean, std = patch_statistics(target)
        patches = patches * std + mean
    grid = (images.shape[2] // rows, images.shape[3] // columns)
    return unpatchify(patches, (rows, columns), grid)


@torch.no_grad()
def smoothed(images: Tensor, head: SAIMHead) -> Tensor:
    """What a perfect prediction looks like: (B, C, H, W) -> (B, C, H, W), float32."""
    return head.blur(images.float())


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
        return _false_colours(images[:, list(preprocessor.shown)])
    if getattr(preprocessor, "_enable_normalize", False):
        images = images * preprocessor.std + preprocessor.mean
    channels = images.shape[1]
    if channels == 3 and not getattr(preprocessor, "_channel_conversion", False):
        images = images.flip(1)
    images = images[:, :3] if channels >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    pixels = images.round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def _false_colours(images: Tensor) -> np.ndarray:
    """Normalised channels (B, 1 or 3, H, W), from -2 to 2, as (B, H, W, 3) uint8."""
    pixels = ((images + 2) * (255 / 4)).round().clamp(0, 255).to(torch.uint8)
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
    original = original_title(model.data_preprocessor)
    pictures = {
        original: images,
        **_target(images, model.head),
        "SAIM's prediction": denormalise(prediction, images, model.head),
    }
    shown = {t: to_rgb(i, model.data_preprocessor) for t, i in pictures.items()}
    shown = {original: shown.pop(original), **(baselines or {}), **shown}
    steps = step_maps(
        order, model.order_sampler, tuple(model.backbone.patch_resolution)
    )
    note = "Each patch is predicted from the patches of earlier steps alone."
    if model.head.norm_pix:
        note += (
            "\nIts brightness and contrast are the target's: "
            "the model predicts what is left."
        )
    read = max(scope.read for scope in model.order_sampler.scopes)
    if read < order.shape[1]:
        note += f"\nIn training it read no more than {read} patches; here it reads all."
    return render(_draw_sheet(shown, steps, note))


def _target(images: Tensor, head: SAIMHead) -> dict[str, Tensor]:
    if isinstance(head.blur, nn.Identity):
        return {}
    return {"smoothed original\n(the target)": smoothed(images, head)}


def _draw_sheet(
    pictures: dict[str, np.ndarray], steps: np.ndarray, note: str
) -> Figure:
    """Lays out columns of pictures (B, H, W, 3) and one of step maps, with a legend."""
    num_rows, height, width = next(iter(pictures.values())).shape[:3]
    cell_height = CELL * height / width
    num_columns = len(pictures) + 1
    # Above: titles of two lines; beside: the legend; below: a note of two lines.
    figure = new_figure(
        num_columns * (CELL + 0.06) + 0.65, num_rows * (cell_height + 0.06) + 0.95
    )
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    for column, (title, images) in zip(axes.T, pictures.items(), strict=False):
        column[0].set_title(title, fontsize=9)
        for cell, image in zip(column, images, strict=True):
            show(cell, image)
    last_step = int(steps.max())
    axes[0, -1].set_title("predicted at step", fontsize=9)
    for cell, step in zip(axes[:, -1], steps, strict=True):
        extent = (0, width, height, 0)  # a map as large as the pictures
        shown = show(
            cell, step, extent=extent, cmap=STEP_COLOURS, vmin=1, vmax=last_step
        )
    _add_legend(figure, axes[:, -1], shown, last_step)
    figure.supxlabel(note, fontsize=8, color="0.35")
    return figure


def _add_legend(
    figure: Figure, cells: np.ndarray, steps: ScalarMappable, last_step: int
) -> None:
    """A colour bar no longer than a few rows: a very long one is hard to read."""
    bar = figure.colorbar(steps, ax=list(cells), fraction=0.08, aspect=30, pad=0.03)
    inner = MaxNLocator(nbins=5, integer=True).tick_values(1, last_step)
    # Both ends are named, and what lies too close to them is left out.
    margin = max(1, last_step // 10)
    inner = [t for t in inner if 1 + margin < t < last_step - margin]
    bar.set_ticks([1, *inner, last_step])
    bar.ax.invert_yaxis()  # time runs downwards, as reading does
    bar.ax.tick_params(labelsize=8)
    bar.ax.spines["outline"].set_visible(False)
