#!/usr/bin/env python
"""Converts a pretraining checkpoint of ours to the layout of the authors' release."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    add_smoothing,
    check_passed,
    convert_saim_to_release,
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
        "--coupled",
        action="store_true",
        help="the decoder has no layers of its own but runs through all of "
        "the encoder's",
    )
    args = parser.parse_args(argv)
    certificate = convert_saim_to_release(
        args.src, args.dst, smoothing_of(args), args.coupled, args.num_heads
    )
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
