#!/usr/bin/env python
"""Converts a pretraining checkpoint of the authors' release to ours."""

from __future__ import annotations

import argparse
import sys

from _converter import Outcome, add_smoothing, make_parser, run, smoothing_of

from saim_mm.parity.certificate import certify_pretraining
from saim_mm.weights import read_state_dict, release_to_saim, write_state_dict


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    release = read_state_dict(args.src)
    smoothing = smoothing_of(args)
    conversion = release_to_saim(release, smoothing, args.decoder_depth)
    ours = conversion.state_dict
    certificate = certify_pretraining(
        conversion, release, ours, smoothing, args.num_heads
    )
    # Kept, so that the way back is exact to the last bit.
    meta = {"gaussian_blur": release.get("gaussian_blur.weight")}
    return Outcome(certificate, lambda: write_state_dict(args.dst, ours, meta=meta))


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_smoothing(parser)
    parser.add_argument(
        "--decoder-depth",
        type=int,
        help="layers that a decoder of shared layers runs through, which the release "
        "does not save; by default all. With fewer it gets layers of its own",
    )
    sys.exit(run(parser, convert))
