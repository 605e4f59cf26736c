#!/usr/bin/env python
"""Converts a bare encoder to timm's names (vit_*), or back with --reverse.

An encoder without final norm fits timm.create_model(..., final_norm=False).
"""

from __future__ import annotations

import argparse
import sys

from _converter import Outcome, make_parser, run

from saim_mm.parity.certificate import certify_timm
from saim_mm.weights import (
    encoder_to_timm,
    read_state_dict,
    timm_to_encoder,
    write_state_dict,
)


def convert(args: argparse.Namespace) -> Outcome:
    """Converts and certifies; writes nothing yet."""
    source = read_state_dict(args.src)
    conversion = (timm_to_encoder if args.reverse else encoder_to_timm)(source)
    result = conversion.state_dict
    encoder, timm = (result, source) if args.reverse else (source, result)
    certificate = certify_timm(conversion, encoder, timm, args.num_heads)
    key = "state_dict" if args.reverse else None
    return Outcome(certificate, lambda: write_state_dict(args.dst, result, key))


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--reverse", action="store_true", help="timm to bare encoder")
    sys.exit(run(parser, convert))
