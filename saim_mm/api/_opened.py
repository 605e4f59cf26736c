"""What all that uses an encoder does first."""

from __future__ import annotations

from pathlib import Path

import torch

from ..evaluation.frozen_encoder import FrozenEncoder
from ..utils.command_line import default_device
from .load_encoder import load_encoder


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
    loaded = isinstance(encoder, FrozenEncoder)
    if not isinstance(encoder, FrozenEncoder):
        encoder = load_encoder(encoder, config=config, num_heads=num_heads)
    elif config is not None or num_heads is not None:
        raise ValueError(
            "config and num_heads say how to load a file, and the encoder is loaded."
        )
    if device is None and loaded:
        return encoder
    try:
        return encoder.to(device or default_device())
    except RuntimeError as error:  # torch's for one that it does not know or have
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}") from None
