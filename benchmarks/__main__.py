"""Measures, prints and records: ``python -m benchmarks NAME ...``.

  pretrain       steps of a SAIM pretraining: where the time goes, and of what peak
  loader         how images are loaded and cropped, beside others' ways
  data-parallel  several processes that pretrain together
  classifier     steps of fine-tuning, beside mmpretrain's ViT
  detector       steps of a detector, beside variants
  start-up       what importing the package takes
  exported       an encoder beside its exported graphs

Each tells its options with --help.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import MMLogger

from saim_mm.utils.atomic_file import write_json

NAMES = (
    *("pretrain", "loader", "data-parallel", "classifier", "detector"),
    *("start-up", "exported"),
)


def main(arguments: Sequence[str]) -> int:
    """Runs a benchmark; returns the exit code."""
    if not arguments or arguments[0] not in NAMES:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    name, *rest = arguments
    # Only this one: others may need packages that are not installed.
    benchmark = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    MMLogger.get_current_instance().setLevel("WARNING")  # a line per parameter
    args = benchmark.parse_args(rest)
    record = benchmark.measure(args)
    if int(os.environ.get("RANK", 0)):
        return 0  # the first process tells for all
    print(benchmark.describe(record))
    if args.out:
        write_json(Path(args.out), record, indent=2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
