"""The weights that a pretraining goes on from, looked at before anything is begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.encoders import build_encoder
from ..models import SAIMViT
from ..weights import CheckpointError, read_state_dict
from ..weights.keymap import count_layers, has_narrow_decoder
from ._rule import EncoderSize


@dataclass(frozen=True)
class StartWeights:
    """Weights of SAIM.

    Attributes:
        path: The file.
        encoder: The encoder in it.
        decoder: Layers of its decoder; 0 if the decoder is to be a new one.
        narrow: Whether that is a narrow one; of no meaning for a new one.
    """

    path: Path
    encoder: SAIMViT
    decoder: int
    narrow: bool

    @property
    def size(self) -> EncoderSize:
        """The sizes, which the run has to keep."""
        (patch, _), (side, _) = self._patch(), self.encoder.img_size
        return EncoderSize(
            self.encoder.embed_dims,
            self.encoder.num_layers,
            patch,
            side,
            self.decoder or None,
            self.narrow if self.decoder else None,
        )

    def _patch(self) -> tuple[int, int]:
        return self.encoder.patch_embed.projection.kernel_size


def read_start(path: str | Path, with_decoder: bool | None) -> StartWeights:
    """Reads weights to go on from.

    Args:
        path: A checkpoint of SAIM pretraining, or an encoder of it.
        with_decoder: Whether the decoder is taken, too; by default if it is there.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is none of SAIM, or lacks the decoder that is wanted.
    """
    path = Path(path).expanduser().absolute()
    state = read_state_dict(path)
    heads = [key for key in state if key.startswith("head.")]
    if heads and not any(key.startswith("neck.") for key in state):
        raise CheckpointError(
            f"{path}: is a classifier ({heads[0]}), whose encoder learnt labels; give "
            "the checkpoint or the encoder of a SAIM pretraining."
        )
    encoder = build_encoder(path).backbone
    rows, columns = encoder.img_size
    patch = encoder.patch_embed.projection.kernel_size
    if rows != columns or patch[0] != patch[1]:
        raise CheckpointError(
            f"{path}: images of {rows} x {columns} and patches of {patch} pixels; this "
            "goes on with square ones only. Write a config for it."
        )
    decoder = count_layers(state, "neck.layers.")
    if with_decoder and not decoder:
        raise CheckpointError(
            f"{path}: holds no decoder; leave with_decoder out and a new one learns, "
            "or give the checkpoint of the run (iter_N.pth or epoch_N.pth)."
        )
    decoder = 0 if with_decoder is False else decoder
    return StartWeights(path, encoder, decoder, has_narrow_decoder(state))
