"""An encoder, by a line."""

from __future__ import annotations

from pathlib import Path

import torch
from mmpretrain.apis.model import ModelHub

from ..evaluation.frozen_encoder import FrozenEncoder
from ..utils.command_line import default_device


def load_encoder(
    file: str | Path,
    *,
    config: str | Path | None = None,
    num_heads: int | None = None,
) -> FrozenEncoder:
    """Loads an encoder, completely or not at all, ready to look at images.

    Args:
        file: A pretraining checkpoint or a classifier, of ours, mmpretrain or the
            authors' release; a bare encoder; MAE's release; a ViT of timm; or one of
            Hugging Face, best as its folder.
        config: The config that it was trained with, where the file does not tell.
        num_heads: Number of heads, where nothing else tells; by default width / 64.

    Returns:
        A module in evaluation mode, on the CPU, with ``embed_dims``, ``patch_size``,
        ``transform`` and ``features``.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it holds no encoder, or only in part; a ``ValueError``.
        ValueError: If it is the name of a config, or the config has no ``SAIMViT``.
    """
    if not Path(file).exists() and ModelHub.has(str(file)):
        weights = ModelHub.get(str(file)).weights
        raise ValueError(
            f"{file}: the name of a model, not a file. Download {weights} and give it."
            if weights
            else f"{file}: the name of a config, of which no weights were published. "
            "Pretrain it with tools/train.py and give its checkpoint, or give a file "
            "of the authors' release, MAE, timm or Hugging Face."
        )
    return FrozenEncoder(file, config, num_heads)


def opened(
    encoder: FrozenEncoder | str | Path,
    config: str | Path | None,
    num_heads: int | None,
    device: torch.device | str | None,
) -> FrozenEncoder:
    """The encoder, loaded if it is a file's name, on its device.

    Without a device one that is loaded already stays where it is.

    Raises:
        ValueError: If the device is none, or as for :func:`load_encoder`.
    """
    if not isinstance(encoder, FrozenEncoder):
        encoder = load_encoder(encoder, config=config, num_heads=num_heads)
    elif config is not None or num_heads is not None:
        raise ValueError(
            "config and num_heads say how to load a file, and the encoder is loaded."
        )
    elif device is None:
        return encoder
    try:
        return encoder.to(device or default_device())
    except RuntimeError as error:  # torch's for one that it does not know or have
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}") from None
