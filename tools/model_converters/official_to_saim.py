#!/usr/bin/env python
"""Converts a pretraining checkpoint of the authors' release to ours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    add_smoothing,
    check_passed,
    convert_release_to_saim,
    smoothing_of,
)
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    add_smoothing(parser)
    parser.add_argument(
        "--decoder-depth",
        type=int,
        help="layers that a decoder of shared layers runs through, which the release "
        "does not save; by default all. With fewer it gets layers of its own",
    )
    args = parser.parse_args(argv)
    certificate = convert_release_to_saim(
        args.src, args.dst, smoothing_of(args), args.decoder_depth, args.num_heads
    )
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
