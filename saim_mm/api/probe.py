"""How good are frozen features? By a linear classifier, or by any probes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..evaluation.features import Pool
from ..evaluation.frozen_encoder import FrozenEncoder
from ..evaluation.judge import (
    Judgement,
    frozen_features,
    judge_by_linear_probe,
    judge_by_probes,
)
from ..evaluation.linear_probe import ProbeRecipe
from ..evaluation.probes import Probe, named_probes
from .knn import check_picture, draw
from .load_encoder import opened


def probe(
    encoder: FrozenEncoder | str | Path,
    folder: str | Path,
    out: str | Path | None = None,
    *,
    probes: Sequence[str] = (),
    layer: int = -1,
    epochs: int = ProbeRecipe.epochs,
    probe_batch_size: int = ProbeRecipe.batch_size,
    base_lr: float = ProbeRecipe.base_lr,
    val_share: float | None = None,
    pool: Pool = "avg",
    images_per_class: int | None = None,
    val_images_per_class: int | None = None,
    crop_ratio: float = 224 / 256,
    batch_size: int = 128,
    workers: int = 4,
    config: str | Path | None = None,
    num_heads: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Judges an encoder by a linear classifier on its features.

    Without augmentation; the paper's benchmark is
    ``configs/saim/benchmarks/vit-b_linear_90e_in1k.py``.

    Args:
        encoder: From :func:`load_encoder`, or what that loads.
        folder: Has ``train/<class>/`` and ``val/<class>/`` (or ``test``).
        out: A picture, ``.png``, of what was taken for what.
        probes: Names of :data:`saim_mm.evaluation.KNOWN_PROBES`, each with its own
            recipe, instead of the one classifier that ``epochs``, ``probe_batch_size``
            and ``base_lr`` are of; all in one pass over the images. They tell figures,
            and no picture.
        layer: Of named probes that read one layer; negative from the end.
        epochs: Passes over the features.
        probe_batch_size: Features per step.
        base_lr: Learning rate at a batch of 256.
        val_share: As for :func:`knn`, like all that follows.
        pool: ``avg`` or ``cls``.
        images_per_class: At most so many of each class to learn from.
        val_images_per_class: At most so many of each class to judge.
        crop_ratio: Share of the resized image that is seen.
        batch_size: Images per forward.
        workers: Processes that load images.
        config: As for :func:`load_encoder`.
        num_heads: As for :func:`load_encoder`.
        device: By default a GPU if there is one, or where a loaded encoder is.
        progress: Called with how many images are done, and of how many.

    Returns:
        The accuracies and what was taken for what, or the figures of named probes.

    Raises:
        OSError: As for :func:`knn`.
        ValueError: As there, or if an option does not matter.
    """
    check_picture(out)
    recipe = ProbeRecipe(epochs, probe_batch_size, base_lr)
    named = _named(probes, layer, pool, recipe, out)
    encoder = opened(encoder, config, num_heads, device)
    features = frozen_features(
        encoder,
        folder,
        val_share,
        pool=pool,
        images_per_class=images_per_class,
        val_images_per_class=val_images_per_class,
        crop_ratio=crop_ratio,
        batch_size=batch_size,
        workers=workers,
        device=encoder.device,
        progress=progress,
        probes=named,
    )
    if named:
        return judge_by_probes(features, named)
    judgement = judge_by_linear_probe(features, recipe)
    draw(judgement, "linear probe", "accuracy", out)
    return judgement


def _named(
    probes: Sequence[str],
    layer: int,
    pool: Pool,
    recipe: ProbeRecipe,
    out: str | Path | None,
) -> list[Probe]:
    """The named probes; refuses options that would not matter, before any work.

    Raises:
        ValueError: For those, and for probes that are unknown.
    """
    if not probes:
        if layer != -1:
            raise ValueError(
                f"layer={layer} is of named probes; name them, such as linear "
                "(--probe linear), or linear-best, which finds the layer."
            )
        return []
    named = named_probes(probes, pool, layer)
    if recipe != ProbeRecipe() or out is not None:
        raise ValueError(
            f"probes={list(probes)} have recipes of their own and draw nothing; drop "
            "either probes, or out (-o), epochs, probe_batch_size and base_lr."
        )
    return named
