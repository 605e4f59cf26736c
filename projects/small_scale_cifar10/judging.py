"""From an experiment, a seed and a learning rate to figures."""

from __future__ import annotations

import time
from typing import Any

import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import nn

from saim_mm.evaluation import FeatureExtractor, Probe, build_probes, run_probes
from saim_mm.evaluation.probes import views_of
from saim_mm.models import SAIMViT

from .experiments import Experiment
from .images import MEAN, STD, DataSplit, Images, normalise
from .loop import Trained
from .models import judged_encoder_config
from .scale import Scale
from .training import build, copy_encoder, finetune, pretrain

#: Images of a forward pass that needs no gradients; more leave a CPU's cache.
_CHUNK = 100


def judge(
    experiment: Experiment,
    scale: Scale,
    seed: int,
    rate: float | None,
    budget: float | None,
    data: DataSplit,
    tuning: bool,
) -> dict[str, Any]:
    """Trains what an experiment trains and judges its encoder.

    Args:
        experiment: What is trained.
        scale: Sizes, and epochs where there is no budget.
        seed: Of the weights, batches, crops and orders.
        rate: Peak learning rate of pretraining; ``None`` where there is none.
        budget: Floating-point operations of pretraining, or ``None``.
        data: On the device to be used.
        tuning: Judge frozen features on the images that are held out, by kNN and linear
            probe alone, and nothing on the test images.

    Returns:
        ``knn``, ``linear`` and, unless tuning, ``linear_best`` (with the layer that was
        chosen, and what it was chosen by), ``attentive`` and ``finetune``: accuracies
        in percent; ``losses``, ``images_seen``, ``train_seconds`` of pretraining and
        ``seconds`` of everything.
    """
    start = time.perf_counter()
    device = data.train.pixels.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    encoder, trained = _encoder(experiment, scale, rate, budget, data.train, generator)
    figures: dict[str, Any] = {}
    if not tuning:  # before the probes, which may draw from torch's global stream
        tuned = finetune(experiment, encoder, scale, data.train, generator)
        figures["finetune"] = accuracy(tuned.model, data.test)
    judged = data.held_out if tuning else data.test
    probes = _probes(experiment, scale, seed, tuning)
    figures.update(frozen_figures(encoder, probes, data.train, judged))
    if trained is not None:
        figures.update(
            losses=[round(loss, 5) for loss in trained.losses],
            images_seen=trained.images_seen,
            train_seconds=round(trained.seconds, 1),
        )
    return {**figures, "seconds": round(time.perf_counter() - start, 1)}


def _encoder(
    experiment: Experiment,
    scale: Scale,
    rate: float | None,
    budget: float | None,
    images: Images,
    generator: torch.Generator,
) -> tuple[SAIMViT, Trained | None]:
    """The trained encoder, with the final norm that was pretrained, if one was."""
    trained = None
    if rate is not None:
        trained = pretrain(experiment, scale, rate, budget, images, generator)
    final_norm = trained is not None and trained.model.backbone.final_norm
    encoder = build(judged_encoder_config(experiment, scale, final_norm=final_norm))
    if trained is not None:
        copy_encoder(trained.model.backbone, encoder)
    encoder.eval()  # on a line of its own: a backbone's eval() returns None
    return encoder.to(images.pixels.device), trained


def _probes(
    experiment: Experiment, scale: Scale, seed: int, tuning: bool
) -> list[Probe]:
    pool, recipe = experiment.options.get("pool", "avg"), dict(seed=seed)
    linear = dict(type="LinearProbe", pool=pool, recipe=recipe)
    probes = [dict(type="KNNProbe", pool=pool), linear]
    if not tuning:
        # AIM's reads the upper layers, of ViT-B half of them.
        blocks = max(1, scale.depth // 2)
        probes += [
            dict(linear, layer="best"),
            dict(type="AttentiveProbe", blocks=blocks, recipe=recipe),
        ]
    return build_probes(probes)


def frozen_figures(
    encoder: SAIMViT, probes: list[Probe], train: Images, judged: Images
) -> dict[str, float]:
    """What probes find, after the final norm if there is one, by their short names."""
    preprocessor = SelfSupDataPreprocessor(mean=MEAN, std=STD)
    extractor = FeatureExtractor(
        encoder,
        preprocessor.to(train.pixels.device),
        final_norm=encoder.final_norm,
        mixed_precision=False,
    )
    views = views_of(probes, extractor.num_layers)
    learnt, asked = (
        extractor.view_tensors(images.pixels, images.labels, views, _CHUNK)
        for images in (train, judged)
    )
    found = run_probes(probes, learnt, asked, extractor.num_layers)
    kinds = ("accuracy/", "_cls")
    return {_without(name, kinds): figure for name, figure in found.items()}


def _without(name: str, parts: tuple[str, ...]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Images) -> float:
    """Accuracy in percent, without augmentation."""
    chunks = images.pixels.split(_CHUNK)
    found = torch.cat([classifier(normalise(c)).argmax(dim=1) for c in chunks])
    return 100 * (found == images.labels).float().mean().item()
