"""The decoder of a release's checkpoint: layers of its own, or the encoder's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .files import CheckpointError
from .keymap import count_layers


def own_decoder_layers(state: Mapping[str, Tensor], asked: int | None) -> int:
    """How many layers our decoder has of its own; 0 if it is coupled to the encoder.

    Where known, ``asked`` are the layers that a decoder of shared ones runs through.

    Raises:
        CheckpointError: If ``asked`` does not fit the checkpoint, or it is not given
            and sharing would be lost.
    """
    depth, saved = count_layers(state, "blocks."), count_layers(state, "query_blocks.")
    if not shares_weights(state):
        if asked not in (None, saved):
            raise CheckpointError(
                f"decoder_depth={asked}, but the checkpoint's decoder has {saved} "
                "layers, all of its own; the option (--decoder-depth) is for one that "
                "shares the encoder's layers."
            )
        return max(saved, 1)
    if saved < depth and asked is None:
        raise CheckpointError(
            f"The checkpoint's {saved} query_blocks are the first of its {depth} "
            "blocks: a decoder of shared layers that runs through the first ones. A "
            "coupled decoder of ours runs through every k-th, so it would become one "
            f"with layers of its own; give decoder_depth={saved} (--decoder-depth "
            f"{saved}) if that is what you want."
        )
    allowed = [n for n in range(1, saved + 1) if saved in (n, depth) and not depth % n]
    if asked is None or asked == depth:
        return 0
    if asked not in allowed:
        raise CheckpointError(
            f"decoder_depth={asked}: a decoder that shares {saved} of {depth} layers "
            f"can run through one of {allowed} of them (--decoder-depth)."
        )
    return asked


def shares_weights(state: Mapping[str, Tensor]) -> bool:
    """Whether each query layer of the release is the encoder layer of that number.

    The release saves shared weights under both names.
    """
    saved = count_layers(state, "query_blocks.")
    blocks = {
        f"query_{key}": tensor
        for key, tensor in state.items()
        if key.startswith("blocks.") and int(key.split(".")[1]) < saved
    }
    query = {key for key in state if key.startswith("query_blocks.")}
    same_keys = bool(query) and query == set(blocks)
    return same_keys and all(torch.equal(state[k], t) for k, t in blocks.items())
