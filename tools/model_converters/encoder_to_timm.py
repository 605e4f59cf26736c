#!/usr/bin/env python
"""Converts a bare encoder to timm's names (vit_*), or back with --reverse.

An encoder without final norm fits timm.create_model(..., final_norm=False).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from saim_mm.parity.convert_files import (
    add_arguments,
    check_passed,
    convert_encoder_to_timm,
)
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--reverse", action="store_true", help="timm to bare encoder")
    args = parser.parse_args(argv)
    certificate = convert_encoder_to_timm(**vars(args))
    print(certificate)
    check_passed(certificate, args.dst)
    print(f"written: {args.dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
