#!/usr/bin/env python
"""Converts a bare encoder to a folder for ViTModel.from_pretrained, or back.

The encoder needs a final norm (saim_to_encoder.py --final-norm), which ViTModel always
applies. With --reverse, SRC is such a folder and DST a bare encoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    check_passed,
    convert_encoder_to_hf,
    convert_hf_to_encoder,
)
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument(
        "--reverse", action="store_true", help="Hugging Face folder to bare encoder"
    )
    args = parser.parse_args(argv)
    if args.reverse:
        certificate = convert_hf_to_encoder(args.src, args.dst)
    else:
        certificate = convert_encoder_to_hf(args.src, args.dst, args.num_heads)
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
