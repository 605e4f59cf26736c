#!/usr/bin/env python
"""Measures mean and deviation of the channels of images, for the data_preprocessor.

    channel_statistics.py FOLDER --channels 13

prints the lines that a config needs. TIFF and .npy count as images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from saim_mm.datasets.channel_preprocessor import channel_statistics
from saim_mm.utils.command_line import one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the statistics; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="images, nested or flat")
    parser.add_argument("--channels", type=int, required=True, help="of an image")
    parser.add_argument(
        "--number",
        type=int,
        default=1000,
        help="at most so many images, evenly spread (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    found = channel_statistics(args.folder, args.channels, args.number)
    print(
        "data_preprocessor = dict(\n"
        '    type="ChannelDataPreprocessor",\n'
        f"    mean={_list(found.mean)},\n"
        f"    std={_list(found.std)},\n"
        ")\n"
        f"# of {found.images} images; from {_list(found.low)}\n"
        f"# to {_list(found.high)}"
    )
    for path, reason in found.broken.items():
        print(f"# broken: {path!r}: {reason}")
    return 0


def _list(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


if __name__ == "__main__":
    sys.exit(main())
