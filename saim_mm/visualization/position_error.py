"""How well a patch is predicted, by how many patches the model has seen before it.

Shapes: B images, N patches.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..models import SAIM, OrderSampler
from ..models.plan import sort_tokens
from ..utils.model_state import evaluation_mode
from .figure import Picture, new_figure, plain_axes, render


@torch.no_grad()
def patch_errors(
    prediction: Tensor, images: Tensor, order: Tensor, model: SAIM
) -> Tensor:
    """The error of each patch, in the units of the training loss.

    Args:
        prediction: Of ``SAIM.predict_patches`` (B, N, p*p*C), in raster order.
        images: What was predicted (B, C, H, W).
        order: In which it was (B, N).
        model: By which it was.

    Returns:
        (B, N), sorted by the order; its mean is the training loss.
    """
    error = prediction.float() - model.head.target(images)
    error = error.abs() if model.head.loss_kind == "l1" else error.square()
    return sort_tokens(error.mean(dim=2, keepdim=True), order)[..., 0]


@torch.no_grad()
def position_errors(
    model: SAIM,
    batches: Iterable[Tensor],
    generator: torch.Generator,
    orders: int = 1,
) -> Tensor:
    """The errors of all patches of many images, each in orders of its own.

    Args:
        model: The model; it is used in evaluation mode and left as it was.
        batches: Images as the model reads them, (B, C, H, W) each, on its device.
        generator: Draws the orders, on that device.
        orders: How many orders of each image; the errors are their mean.

    Returns:
        (images, N), sorted, on the CPU.
    """
    errors = []
    with evaluation_mode(model):
        for images in batches:
            total = torch.zeros(len(images), model.order_sampler.num_patches)
            for _ in range(orders):
                order = model.order_sampler.draw(len(images), images.device, generator)
                prediction = model.predict_patches(images, order)
                total += patch_errors(prediction, images, order, model).cpu()
            errors.append(total / orders)
    return torch.cat(errors)


def draw_position_error(
    errors: Tensor, family: OrderSampler, loss: str, orders: int = 1
) -> Picture:
    """Error against the number of visible patches, with a 95 % interval of the mean.

    ``errors`` (images, N) are those of :func:`position_errors`, in ``orders`` orders
    of the ``family`` for each image; ``loss`` is that of training, ``l1`` or ``l2``.
    """
    # Patches of a segment are predicted from the same ones.
    counts = np.arange(0, family.num_patches, family.segment_length)
    values = errors.numpy().astype(float)
    # They are no independent samples; images are.
    per_image = values.reshape(len(values), len(counts), -1).mean(axis=2)
    mean = per_image.mean(axis=0)
    figure = new_figure(6.5, 3)
    axes = figure.subplots()
    if len(errors) > 1:
        half = 1.96 * per_image.std(axis=0, ddof=1) / len(errors) ** 0.5
        axes.fill_between(counts, mean - half, mean + half, alpha=0.2, lw=0)
    axes.plot(counts, mean, lw=1.5, marker="." if len(counts) < 30 else "")
    axes.axhline(mean.mean(), color="0.5", lw=0.8, ls="--")
    axes.set_ylim(bottom=0)
    error = f"{loss.upper()} error of the next patch"
    axes.set(xlabel="visible patches", ylabel=error)
    sample = "1 image" if len(errors) == 1 else f"{len(errors)} images"
    sample += "" if orders == 1 else f", {orders} orders each"
    band = ", band: 95 % interval of the mean" if len(errors) > 1 else ""
    axes.set_title(f"{sample}; dashed: mean over all steps{band}", fontsize=9)
    plain_axes(axes)
    return render(figure)
