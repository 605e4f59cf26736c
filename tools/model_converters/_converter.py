"""What the converters share: arguments, errors in one line, the certificate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from saim_mm.parity.certificate import Certificate


class Outcome(NamedTuple):
    """A conversion that was certified but not written yet."""

    certificate: Certificate
    write: Callable[[], None]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments that every converter has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("src", type=Path, help="what to convert")
    parser.add_argument("dst", type=Path, help="where the result is written")
    parser.add_argument(
        "--num-heads", type=int, help="attention heads; by default width / 64"
    )
    return parser


def add_smoothing(parser: argparse.ArgumentParser) -> None:
    """Arguments for the blur of the target, which the release keeps as a weight."""
    parser.add_argument(
        "--kernel-size", type=int, default=9, help="taps of the target's blur"
    )
    parser.add_argument(
        "--sigma", type=float, default=1.0, help="its deviation, in pixels"
    )
    parser.add_argument(
        "--no-smoothing", action="store_true", help="the target is not blurred"
    )


def smoothing_of(args: argparse.Namespace) -> tuple[int, float] | None:
    """Kernel size and sigma that the arguments ask for."""
    return None if args.no_smoothing else (args.kernel_size, args.sigma)


def run(
    parser: argparse.ArgumentParser, convert: Callable[[argparse.Namespace], Outcome]
) -> int:
    """Converts, prints the certificate and writes the result if it passed.

    Returns:
        Exit status: 0 if the result was written, else 1.
    """
    args = parser.parse_args()
    try:
        certificate, write = convert(args)
        print(certificate)
        if not certificate.passed:
            print(f"error: nothing written to {args.dst}", file=sys.stderr)
            return 1
        write()
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"written: {args.dst}")
    return 0
