"""The weights that a pretraining goes on from, looked at before anything is begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..evaluation.encoders import build_encoder
from ..models import SAIMViT
from ..weights import CheckpointError, read_state_dict
from ..weights.keymap import count_layers, has_narrow_decoder
from ._rule import EncoderSize


class StartWeights(NamedTuple):
    """Weights of SAIM: their file, the encoder in it, and the sizes, which are kept.

    Without ``size.decoder`` the decoder is to be a new one.
    """

    path: Path
    encoder: SAIMViT
    size: EncoderSize


def read_start(path: Path, with_decoder: bool | None) -> StartWeights:
    """Weights to go on from: a checkpoint of SAIM pretraining, or an encoder of it.

    The decoder is taken, too, if it is there; ``with_decoder`` insists, or does not.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is none of SAIM, or lacks the decoder that is wanted.
    """
    state = read_state_dict(path)
    heads = [key for key in state if key.startswith("head.")]
    if heads and not any(key.startswith("neck.") for key in state):
        raise CheckpointError(
            f"{path}: is a classifier ({heads[0]}), whose encoder learnt labels; give "
            "the checkpoint or the encoder of a SAIM pretraining."
        )
    encoder = build_encoder(path).backbone
    size = size_to_keep(encoder, path)
    decoder = count_layers(state, "neck.layers.")
    if with_decoder and not decoder:
        raise CheckpointError(
            f"{path}: holds no decoder; leave with_decoder out and a new one learns, "
            "or give the checkpoint of the run (iter_N.pth or epoch_N.pth)."
        )
    if decoder and with_decoder is not False:
        size = replace(size, decoder=decoder, narrow=has_narrow_decoder(state))
    return StartWeights(path, encoder, size)


def size_to_keep(vit: SAIMViT, path: Path) -> EncoderSize:
    """The sizes of an encoder of a file.

    Raises:
        CheckpointError: If its images or patches are not square.
    """
    (rows, columns), patch = vit.img_size, vit.patch_embed.projection.kernel_size
    if rows != columns or patch[0] != patch[1]:
        raise CheckpointError(
            f"{path}: images of {rows} x {columns} and patches of {patch} pixels; this "
            "goes on with square ones only. Write a config for it."
        )
    return EncoderSize(vit.embed_dims, vit.num_layers, patch[0], rows)
