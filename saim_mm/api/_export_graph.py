"""Graphs with their certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.models.utils import SelfSupDataPreprocessor
from torch import Tensor

from ..datasets import ChannelDataPreprocessor
from ..datasets.channel_preprocessor import are_colours
from ..datasets.image_files import list_images, suffixes_of
from ..datasets.sample_photos import sample_photos
from ..evaluation.frozen_encoder import FrozenEncoder
from ..evaluation.image_transform import ImageTransform
from ..parity.export_certificate import (
    ExportCertificate,
    Size,
    certify_export,
    other_sizes,
)
from ..parity.export_graph import (
    EncoderGraph,
    GraphPool,
    run_onnx,
    run_torch,
    write_onnx,
    write_torch,
)
from ..utils.atomic_file import write_atomically
from ..version import __version__

#: Images that are compared.
_IMAGES = 3


def _facts(
    encoder: FrozenEncoder, pool: GraphPool, dynamic_batch: bool, dynamic_size: bool
) -> dict[str, str]:
    """What a user of the file must know, for its metadata and the model card."""
    channels = encoder.backbone.patch_embed.projection.in_channels
    rows, columns = encoder.image_size
    high, wide = encoder.patch_size
    batch = "B" if dynamic_batch else "1"
    size = f"{rows}, {columns}"
    if dynamic_size:
        size = f"{high} h, {wide} w), h and w at least 2, best ({rows}, {columns}"
    colours = are_colours(channels, encoder.preprocessor)
    values = "RGB in [0, 1]" if colours else "values as stored in training"
    vector = f"float32 ({batch}, {encoder.embed_dims}"
    shape = ", rows of patches, columns)" if pool == "map" else f"), pool {pool}"
    return dict(
        input=f"images: float32 ({batch}, {channels}, {size}), {values}",
        normalisation="included: give images as they are",
        output=f"features: {vector}{shape}",
    )


@torch.no_grad()
def export_graph(
    encoder: FrozenEncoder,
    out: Path,
    kind: str,
    dynamic_batch: bool,
    dynamic_size: bool,
    pool: GraphPool,
    images: str | Path | None,
    opset: int,
) -> tuple[dict[str, str], ExportCertificate]:
    """Writes the file, if what it holds gives what the encoder gives.

    Also returns what a user must know, for the model card.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the encoder cannot be exported, or the certificate fails.
    """
    encoder.extractor("cls" if pool == "cls" else "avg")  # refuses what has no token
    graph = EncoderGraph(encoder.backbone, encoder.preprocessor, pool, dynamic_size)
    graph.eval()
    sizes = [encoder.image_size]
    if dynamic_size:
        sizes = other_sizes(encoder.image_size, encoder.patch_size)
    pairs, described = _export_images(encoder, images, sizes)
    facts = _facts(encoder, pool, dynamic_batch, dynamic_size)
    told = {**facts, "made_by": f"saim_mm {__version__}"}
    if kind == "onnx":
        content = write_onnx(graph, dynamic_batch, told, opset)
        runner, name = run_onnx(content), "onnxruntime"
    else:
        content = write_torch(graph, dynamic_batch, told)
        runner, name = run_torch(content), "torch"
    found = certify_export(
        lambda batch: encoder.features(batch, pool),
        runner,
        pairs,
        tuple(range(1, _IMAGES + 1)) if dynamic_batch else (1,),
        described,
        name,
    )
    if not found.passed:
        raise ValueError(f"nothing written to {out}\n{found}")
    write_atomically(out, lambda file: file.write(content))
    return facts, found


def _export_images(
    encoder: FrozenEncoder, folder: str | Path | None, sizes: list[Size]
) -> tuple[dict[Size, tuple[Tensor, Tensor]], str]:
    """Images in several sizes: what the file wants and what the encoder does.

    Both are (B, C, H, W). By default they are sample photographs of scikit-image and
    scikit-learn or, without these or with other channels than colours, noise. The text
    says which images these are.

    Raises:
        OSError: If the folder cannot be read.
        ValueError: If it holds no image, or one that does not load.
    """
    channels = encoder.backbone.patch_embed.projection.in_channels
    colours = are_colours(channels, encoder.preprocessor)
    if not colours and folder is None:
        noise = {size: _noise(encoder, channels, size) for size in sizes}
        return noise, f"{_IMAGES} of noise, as the encoder has {channels} channels"
    images, described = _find(folder, suffixes_of(encoder.loaded_channels))
    plain = SelfSupDataPreprocessor(mean=None, std=None, to_rgb=True)
    if not colours:
        plain = ChannelDataPreprocessor([0] * channels, [1] * channels)
    pairs = {}
    for size in sizes:
        given = ImageTransform(size, plain, crop_ratio=1)(images).float()
        normalised = ImageTransform(size, encoder.preprocessor, crop_ratio=1)(images)
        pairs[size] = (given / 255 if colours else given, normalised)
    return pairs, described


def _find(
    folder: str | Path | None, suffixes: tuple[str, ...]
) -> tuple[list[Any], str]:
    """Some images and a description of them."""
    if folder is not None:
        names, _ = list_images(str(folder), suffixes)
        if not names:
            raise ValueError(f"images={folder}: the folder holds no image.")
        chosen = _spread([str(Path(folder) / name) for name in names])
        return chosen, f"{len(set(chosen))} of the {len(names)} in the given folder"
    try:
        photos = _spread([str(photo) for photo in sample_photos()])
        return photos, f"{_IMAGES} sample photographs of scikit-image and scikit-learn"
    except FileNotFoundError:
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (_IMAGES, 256, 256, 3), dtype=np.uint8)
        return list(noise), f"{_IMAGES} of noise, as scikit-image is not installed"


def _spread(paths: list[str]) -> list[str]:
    """So many, evenly spread; some twice, if there are fewer."""
    places = np.linspace(0, len(paths) - 1, _IMAGES).round().astype(int)
    return [paths[place] for place in places.tolist()]


def _noise(encoder: FrozenEncoder, channels: int, size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normalised = torch.randn(_IMAGES, channels, *size, generator=generator)
    mean, std = (
        getattr(encoder.preprocessor, name, torch.tensor(float(name == "std"))).cpu()
        for name in ("mean", "std")
    )
    return normalised * std + mean, normalised
