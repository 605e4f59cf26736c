#!/usr/bin/env python
"""Converts a pretraining checkpoint of ours to the layout of the authors' release."""

from __future__ import annotations

import argparse
import sys

from _converter import Outcome, add_smoothing, make_parser, run, smoothing_of

from saim_mm.parity.certificate import certify_pretraining
from saim_mm.weights import read_checkpoint, saim_to_release, write_state_dict
from saim_mm.weights.files import weights_of


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    content = read_checkpoint(args.src)
    ours = weights_of(content, args.src)
    blur = content.get("meta", {}).get("gaussian_blur")
    smoothing = smoothing_of(args)
    conversion = saim_to_release(ours, smoothing, blur, args.coupled)
    release = conversion.state_dict
    certificate = certify_pretraining(
        conversion, release, ours, smoothing, args.num_heads
    )
    return Outcome(certificate, lambda: write_state_dict(args.dst, release, "model"))


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_smoothing(parser)
    parser.add_argument(
        "--coupled",
        action="store_true",
        help="the decoder has no layers of its own but runs through all of "
        "the encoder's",
    )
    sys.exit(run(parser, convert))
