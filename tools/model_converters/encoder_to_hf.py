#!/usr/bin/env python
"""Converts a bare encoder to a folder for ViTModel.from_pretrained, or back.

The encoder needs a final norm (saim_to_encoder.py --final-norm), which ViTModel always
applies. With --reverse, SRC is such a folder and DST a bare encoder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from _converter import Outcome, make_parser, run

from saim_mm.parity.certificate import certify_hf
from saim_mm.weights import (
    StateDict,
    encoder_to_hf,
    hf_to_encoder,
    read_state_dict,
    write_state_dict,
)
from saim_mm.weights.arch import Arch, infer_arch
from saim_mm.weights.files import write_atomically

WEIGHTS = "model.safetensors"


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    if args.reverse:
        conversion = hf_to_encoder(read_state_dict(args.src / WEIGHTS))
        encoder = conversion.state_dict
        certificate = certify_hf(conversion, encoder, args.src)
        return Outcome(certificate, lambda: write_state_dict(args.dst, encoder))
    encoder = read_state_dict(args.src)
    conversion = encoder_to_hf(encoder)
    arch = infer_arch(encoder, num_heads=args.num_heads)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), conversion.state_dict, arch)
        certificate = certify_hf(conversion, encoder, folder)
    return Outcome(
        certificate, lambda: write_folder(args.dst, conversion.state_dict, arch)
    )


def write_folder(folder: Path, state: StateDict, arch: Arch) -> None:
    """Writes weights and config.json, so that from_pretrained needs nothing else."""
    config = dict(
        model_type="vit",
        architectures=["ViTModel"],
        hidden_size=arch.embed_dims,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_heads,
        intermediate_size=arch.feedforward_channels,
        hidden_act="gelu",
        layer_norm_eps=1e-6,  # transformers' own default is 1e-12
        image_size=_side(arch.img_size),
        patch_size=_side(arch.patch_size),
        num_channels=arch.in_channels,
        qkv_bias=True,
    )
    text = json.dumps(config, indent=2) + "\n"
    write_state_dict(folder / WEIGHTS, state)
    write_atomically(folder / "config.json", lambda file: file.write(text.encode()))


def _side(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--reverse", action="store_true", help="Hugging Face folder to bare encoder"
    )
    sys.exit(run(parser, convert))
