"""Graphs with their certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from ..datasets.channel_preprocessor import are_colours
from ..evaluation.frozen_encoder import FrozenEncoder
from ..parity.export_certificate import ExportCertificate, certify_export, other_sizes
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
from ._export_images import IMAGES, export_images


def graph_facts(
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
    shape = "rows of patches, columns)" if pool == "map" else ""
    width = encoder.embed_dims
    return dict(
        input=f"images: float32 ({batch}, {channels}, {size}), {values}",
        normalisation="included: give images as they are",
        output=f"features: float32 ({batch}, {width}, {shape}"
        if shape
        else f"features: float32 ({batch}, {width}), pool {pool}",
    )


@torch.no_grad()
def export_graph(
    encoder: FrozenEncoder,
    out: Path,
    kind: Literal["pt2", "onnx"],
    dynamic_batch: bool,
    dynamic_size: bool,
    pool: GraphPool,
    images: str | Path | None,
    opset: int,
    facts: dict[str, str],
) -> ExportCertificate:
    """Writes the file, if what it holds gives what the encoder gives.

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
    pairs, described = export_images(encoder, images, sizes)
    facts = {**facts, "made_by": f"saim_mm {__version__}"}
    if kind == "onnx":
        content = write_onnx(graph, dynamic_batch, facts, opset)
        runner, name = run_onnx(content), "onnxruntime"
    else:
        content = write_torch(graph, dynamic_batch, facts)
        runner, name = run_torch(content), "torch"
    found = certify_export(
        lambda batch: encoder.features(batch, pool),
        runner,
        pairs,
        tuple(range(1, IMAGES + 1)) if dynamic_batch else (1,),
        described,
        name,
    )
    if not found.passed:
        raise ValueError(f"nothing written to {out}\n{found}")
    write_atomically(out, lambda file: file.write(content))
    return found
