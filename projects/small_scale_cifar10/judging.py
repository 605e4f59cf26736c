"""From an experiment, a seed and a learning rate to figures."""

from __future__ import annotations

import time
from typing import Any

import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import nn

from saim_mm.evaluation import (
    FeatureExtractor,
    Features,
    ProbeRecipe,
    knn_accuracy,
    linear_probe,
)
from saim_mm.models import SAIMViT

from .experiments import Experiment, Scale, encoder_config
from .images import MEAN, STD, DataSplit, Images, normalise
from .training import Trained, build, copy_encoder, finetune, pretrain

#: Images of a forward pass that needs no gradients.
_CHUNK = 1000


def judge(
    experiment: Experiment,
    scale: Scale,
    seed: int,
    rate: float | None,
    data: DataSplit,
    tuning: bool,
) -> dict[str, Any]:
    """Trains what an experiment trains and judges its encoder.

    Args:
        experiment: What is trained.
        scale: Sizes and budget.
        seed: Of the weights, batches, crops and orders.
        rate: Peak learning rate of pretraining; ``None`` where there is none.
        data: On the device to be used.
        tuning: Judge frozen features on the images that are held out, and nothing on
            the test images.

    Returns:
        ``knn``, ``linear`` and, unless tuning, ``finetune``: accuracies in percent;
        ``losses``, ``images_seen``, ``train_seconds`` of pretraining and ``seconds``
        of everything.
    """
    start = time.perf_counter()
    device = data.train.pixels.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    encoder, trained = _encoder(experiment, scale, rate, data.train, generator)
    judged = data.held_out if tuning else data.test
    bank = frozen_features(encoder, data.train)
    queries = frozen_features(encoder, judged)
    figures: dict[str, Any] = dict(
        knn=knn_accuracy(queries, bank),
        linear=linear_probe(bank, queries, ProbeRecipe(seed=seed)).accuracy,
    )
    if not tuning:
        classifier = finetune(encoder, scale, data.train, generator).model
        figures["finetune"] = accuracy(classifier, data.test)
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
    images: Images,
    generator: torch.Generator,
) -> tuple[SAIMViT, Trained | None]:
    """The trained encoder, with the final norm that was pretrained, if one was."""
    trained = None
    if rate is not None:
        trained = pretrain(experiment, scale, rate, images, generator)
    final_norm = trained is not None and trained.model.backbone.final_norm
    encoder = build(encoder_config(scale, out_type="raw", final_norm=final_norm))
    if trained is not None:
        copy_encoder(trained.model.backbone, encoder)
    encoder.eval()  # on a line of its own: a backbone's eval() returns None
    return encoder.to(images.pixels.device), trained


def frozen_features(encoder: SAIMViT, images: Images) -> Features:
    """Means of the patches, after the final norm if there is one, on the device."""
    preprocessor = SelfSupDataPreprocessor(mean=MEAN, std=STD)
    extractor = FeatureExtractor(
        encoder,
        preprocessor.to(images.pixels.device),
        final_norm=encoder.final_norm,
        mixed_precision=False,
    )
    return extractor.extract_tensors(images.pixels, images.labels)


@torch.no_grad()
def accuracy(classifier: nn.Module, images: Images) -> float:
    """Accuracy in percent, without augmentation."""
    chunks = images.pixels.split(_CHUNK)
    found = torch.cat([classifier(normalise(c)).argmax(dim=1) for c in chunks])
    return 100 * (found == images.labels).float().mean().item()
