"""Any-order completion: some patches are kept, SAIM predicts the others.

A masked autoencoder learns one ratio of hidden patches. SAIM learns to predict a patch
from every subset of the others, so any part of an image can be kept, and what was
predicted can be read again for what comes next.

Shapes: B images, C channels, N patches of p x p pixels, K of them kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..models import SAIM, OrderSampler, SAIMHead
from ..models.plan import sort_tokens
from ..models.saim_head import patch_statistics, patchify, unpatchify
from ..utils.model_state import evaluation_mode
from .reconstruction import grid_of, target_statistics

#: Where mean and deviation of a hidden patch come from if the targets are normalised;
#: see :func:`hidden_statistics`.
Statistics = Literal["kept", "true"]


class Completion(NamedTuple):
    """An image between two steps of its completion.

    Attributes:
        images: (B, C, H, W), float32, in the units of the images. Kept patches are as
            they were; those that are not known yet are zero.
        known: (B, H, W), bool: which pixels were kept or have been predicted.
    """

    images: Tensor
    known: Tensor


@torch.no_grad()
def complete(
    model: SAIM,
    images: Tensor,
    kept: Tensor,
    patches_per_step: int | None = None,
    statistics: Statistics = "kept",
    generator: torch.Generator | None = None,
) -> Iterator[Completion]:
    """Predicts the patches that are not kept, and yields the image after each step.

    Args:
        model: The model; it is used in evaluation mode and left as it was.
        images: As the model reads them (B, C, H, W). Of the patches that are not kept
            it reads nothing, save their statistics if asked to.
        kept: (rows, columns) of the patch grid, bool.
        patches_per_step: How many patches are predicted at a time, each from those
            known before the step. 1 is autoregressive; by default all at once.
        statistics: As for :func:`hidden_statistics`.
        generator: Draws the order of the hidden patches, one for each image, on the
            device of the images. By default one with seed 0.

    Yields:
        The image before the first step, and after every step.

    Raises:
        ValueError: If all patches are kept, or the model was not trained to predict
            these patches from those; the message says what can be kept.
    """
    generator = generator or torch.Generator(images.device).manual_seed(0)
    family, patch_size = model.order_sampler, model.head.patch_size
    grid = grid_of(images, model.head)
    kept = kept.flatten().to(images.device)
    order = kept_first(family, kept, len(images), generator)
    step_size = _check_step(model, int((~kept).sum()), patches_per_step)
    mean, std = hidden_statistics(images, kept, model.head, statistics)
    ranks = order.argsort(dim=1)
    # Zero where hidden, so that nothing can read what it should not.
    patches = patchify(images.float(), patch_size) * kept[:, None]

    known = int(kept.sum())
    while True:
        current = unpatchify(patches, patch_size, grid)
        yield Completion(current.clone(), pixels_of(ranks < known, patch_size, grid))
        if known >= family.num_patches:
            return
        asked = order[:, known : known + step_size]
        with evaluation_mode(model):
            predicted = predict_next(model, current, order, known, asked.shape[1])
        predicted = predicted * sort_tokens(std, asked) + sort_tokens(mean, asked)
        index = asked.unsqueeze(-1).expand_as(predicted)
        patches = patches.scatter(1, index, predicted)
        known += step_size


@torch.no_grad()
def predict_next(
    model: SAIM, images: Tensor, order: Tensor, known: int, count: int
) -> Tensor:
    """Predicts the patches of the next steps, each from the known ones alone.

    Of ``images`` (B, C, H, W) the first ``known`` patches of the order (B, N) are read
    by the model, which is in evaluation mode; of segments, whole ones.

    Returns:
        The next ``count`` patches (B, count, p*p*C), float32, sorted, in the units of
        the target; of one segment those of ``SAIM.predict_patches``.
    """
    # Queries of known patches matter only where queries read each other.
    first = 0 if len(model.head.projector.layers) else known
    assert model.neck.depth or count == 1  # without decoder, the next patch alone
    plan = model.order_sampler.plan_of(
        order, query_ranks=range(first, known + count), read=known
    )
    return model.predict_asked(images, plan)[:, known - first :].float()


def kept_first(
    family: OrderSampler, kept: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Draws orders (B, N) of a family that begin with the patches kept (N,), bool.

    Raises:
        ValueError: If no order of the family begins with them, or none is hidden.
    """
    if bool(kept.all()):
        raise ValueError("All patches are kept, so there is nothing to predict.")
    order = family.draw(batch_size, kept.device, generator)
    late = (~kept).long()[order]
    if family.kind == "raster" and bool((late[0].diff() < 0).any()):
        raise ValueError(
            "The model was trained in raster order, in which a patch follows all above "
            "it and to its left; keep the first rows, such as the box 0,0,1,0.5."
        )
    if family.kind == "segments":
        of_segments = kept[family.patches_of_segment]
        if bool((of_segments.any(1) != of_segments.all(1)).any()):
            raise ValueError(
                "The model was trained to predict segments of "
                f"{family.segment_length} patches as a whole; keep whole segments."
            )
    return order.gather(1, late.argsort(dim=1, stable=True))


def _check_step(model: SAIM, hidden: int, patches_per_step: int | None) -> int:
    """The step's size; all that is hidden if it is not given."""
    step_size = hidden if patches_per_step is None else patches_per_step
    if step_size < 1:
        raise ValueError(f"patches_per_step={patches_per_step} must be at least 1.")
    if step_size % model.order_sampler.segment_length:
        raise ValueError(
            f"patches_per_step={patches_per_step} breaks up segments of "
            f"{model.order_sampler.segment_length} patches; give a multiple."
        )
    if model.neck.depth == 0 and step_size > 1:
        raise ValueError(
            "The model has no decoder, so it predicts the next patch only; set "
            "patches_per_step=1."
        )
    return step_size


@torch.no_grad()
def hidden_statistics(
    images: Tensor, kept: Tensor, head: SAIMHead, source: Statistics
) -> tuple[Tensor, Tensor]:
    """Mean and deviation by which predictions are turned back into pixels.

    With ``norm_pix`` a model predicts how a patch differs from its own mean, in units
    of its own deviation, and says nothing about these two. For a hidden patch they must
    come from elsewhere:

    * ``kept``: from the kept patches alone, the nearer the more (weights one over the
      squared distance). Nothing of a hidden patch is read, and brightness and contrast
      of what is filled in are a guess.
    * ``true``: from the hidden patches themselves. The picture shows how well their
      structure is predicted; their brightness and contrast are given away.

    Without ``norm_pix`` the model predicts pixels, and neither is used.

    Args:
        images: (B, C, H, W).
        kept: (N,), bool.
        head: The head that makes the predictions.
        source: Where the statistics come from.

    Returns:
        Mean and deviation (B, N, 1) each, in raster order.

    Raises:
        ValueError: If the source is unknown, or no patch is kept to guess from.
    """
    if source not in get_args(Statistics):
        raise ValueError(
            f"statistics={source!r} is unknown; choose one of {get_args(Statistics)}."
        )
    if source == "true" or not head.norm_pix:
        return target_statistics(images, head)
    if not bool(kept.any()):
        raise ValueError(
            "No patch is kept whose brightness and contrast could be used for the "
            "hidden ones; keep some, or set statistics='true'."
        )
    known = _smoothed_within(images.float(), kept, head)
    mean, std = patch_statistics(patchify(known, head.patch_size))
    weights = _nearness(kept, grid_of(images, head)).to(mean)
    return weights @ mean, weights @ std


def _smoothed_within(images: Tensor, kept: Tensor, head: SAIMHead) -> Tensor:
    """The smoothed image as far as kept pixels tell; the Gaussian skips the others."""
    mask = pixels_of(kept[None], head.patch_size, grid_of(images, head))[
        :, None
    ].float()
    everywhere = head.blur(torch.ones_like(mask))
    weight = head.blur(mask).clamp(min=1e-6)
    return head.blur(images * mask) * everywhere / weight


def _nearness(kept: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights (N, N) with which patches of a row ask kept ones; rows sum to one."""
    rows, columns = (torch.arange(n, device=kept.device) for n in grid)
    place = torch.cartesian_prod(rows, columns).float()
    squared = (place[:, None] - place[None, :]).square().sum(dim=2)
    weights = kept.float() / squared.clamp(min=1e-6)  # a kept patch asks itself
    return weights / weights.sum(dim=1, keepdim=True)


def pixels_of(
    patches: Tensor, patch_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Which patches (B, N) -> which pixels (B, H, W), bool."""
    rows, columns = patch_size
    whole = patches.unflatten(1, grid).repeat_interleave(rows, 1)
    return whole.repeat_interleave(columns, 2)
