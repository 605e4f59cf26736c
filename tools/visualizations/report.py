#!/usr/bin/env python
"""Writes a one-page HTML report of a run: curves, pictures, probes, config, machine.

Pictures that a PictureHook logged are shown. With --images FOLDER the run's newest
checkpoint is loaded, by the config in the work dir, and its predictions are drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from saim_mm.api import report
from saim_mm.utils.command_line import default_device, one_line_errors
from saim_mm.visualization.from_files import add_out


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_out(parser, "report.html")
    parser.add_argument("work_dir", type=Path, help="work dir of a run")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="draw predictions of these, too"
    )
    parser.add_argument("--number", type=int, default=6, help="images shown")
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    parser.add_argument("--device", default=default_device())
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture and prints where it is; returns the exit status."""
    print(report(**vars(parse_args(argv))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
