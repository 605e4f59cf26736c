"""The features of a folder of images, in a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..datasets import TooManyBrokenImages
from ..evaluation.embedding import embed_images, find_images
from ..evaluation.embedding_file import check_output, write_embedding
from ..evaluation.embedding_parts import Parts
from ..evaluation.features import Pool
from ..evaluation.frozen_encoder import FrozenEncoder
from .load_encoder import opened


@dataclass(frozen=True)
class Embedding:
    """What was written.

    Attributes:
        path: The file.
        rows: Number of rows, which is that of the images that load.
        channels: Number of channels D.
        broken: Name of an image that is left out -> why it does not load.
    """

    path: Path
    rows: int
    channels: int
    broken: dict[str, str]


def embed(
    encoder: FrozenEncoder | str | Path,
    folder: str | Path,
    out: str | Path,
    *,
    pool: Pool = "avg",
    layer: int = -1,
    crop_ratio: float = 224 / 256,
    max_broken_share: float = 1e-3,
    batch_size: int = 128,
    workers: int = 4,
    config: str | Path | None = None,
    num_heads: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedding:
    """Writes the features of all images below a folder, sorted by name.

    A run that was killed goes on where it was, if it is started again with the same
    encoder, settings and images; see :class:`saim_mm.evaluation.embedding_parts.Parts`.

    Args:
        encoder: From :func:`load_encoder`, or what that loads.
        folder: Images, flat or nested; or a pack, shards of WebDataset, or a Hugging
            Face dataset on disk, whose names are ``SHARD.tar#PLACE/NAME`` and
            ``ROW/COLUMN``, in their order.
        out: The file: ``.npz`` with ``features`` (N, D) float32, ``names`` (N,),
            relative to the folder, ``sizes`` (N, 2), rows and columns of the images as
            they lie there, and ``about``, JSON of what the features are of; or
            ``.parquet`` with the columns ``name``, ``rows``, ``columns``, ``features``
            and ``about`` among its metadata.
        pool: ``avg``, the mean of the patches, or ``cls``, the class token.
        layer: Index of the block whose output is pooled; negative from the end.
        max_broken_share: Share of the images, in [0, 1], that may be broken before the
            run ends. Unless it is 0, one is always allowed.
        crop_ratio: Share of the resized image that is seen; 1 for all of a square.
        batch_size: Images per forward.
        workers: Processes that load images.
        config: As for :func:`load_encoder`.
        num_heads: As for :func:`load_encoder`.
        device: By default a GPU if there is one, or where a loaded encoder is.
        progress: Called with how many images are done, and of how many.

    Raises:
        OSError: If a file or folder is missing or cannot be written, or ``out`` exists.
        ImportError: If a library for ``.parquet`` is missing.
        CheckpointError: If the encoder's file is not wholly one; a ``ValueError``.
        ValueError: If an option is out of range, there is no image, too many are
            broken, or ``out`` was begun with another encoder, settings or images.
    """
    out, folder = Path(out), Path(folder).expanduser()
    check_output(out)
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batch_size={batch_size} must be at least 1 and workers={workers} at "
            "least 0."
        )
    if not folder.is_dir():
        file = " It is a file: give the folder that it lies in."
        raise FileNotFoundError(
            f"{folder}: there is no such folder.{file if folder.exists() else ''}"
        )
    encoder = opened(encoder, config, num_heads, device)
    extractor = encoder.extractor(pool, layer)
    view = (encoder.image_size, crop_ratio, max_broken_share, encoder.loaded_channels)
    images = find_images(str(folder), *view)
    start = len(images.img_prefix.rstrip("/")) + 1
    paths = (images.get_data_info(n)["img_path"] for n in range(len(images)))
    # Those in tar files and of rows begin with the name of a backend.
    names = [(path.partition("://")[2] or path)[start:] for path in paths]
    about = dict(
        **encoder.identity(),
        pool=pool,
        layer=layer % len(encoder.backbone.layers),
        crop_ratio=crop_ratio,
        images=len(names),
        names_sha256=hashlib.sha256(os.fsencode("\n".join(names))).hexdigest(),
    )
    with Parts(out, about) as parts:
        number_broken = sum(len(part.broken) for part in parts)
        for rows in embed_images(extractor, images, parts.stop, batch_size, workers):
            number_broken += len(rows.broken)
            if rows.broken:  # the rule of training: past the share, and with a reason
                last, why = list(rows.broken.items())[-1]
                try:
                    images.check_broken_share(
                        number_broken, last=f"{names[last]!r}: {why}"
                    )
                except TooManyBrokenImages as error:
                    raise ValueError(str(error)) from None
            parts.add(rows)
            if progress is not None:
                progress(rows.stop, len(names))
        parts.write()
        broken = {names[n]: why for part in parts for n, why in part.broken.items()}
        done = Embedding(out, len(names) - len(broken), encoder.embed_dims, broken)
        if not done.rows:
            raise ValueError(f"None of the {len(names)} images loads: {broken}.")
        told = dict(encoder=encoder.source, folder=str(folder), **about)
        told.update(rows=done.rows, channels=done.channels, broken=broken)
        write_embedding(out, parts, names, told)
        parts.remove()
        return done
