#!/usr/bin/env python
"""Rebuilds a training step that FiniteGuardHook did not make, and looks where it broke.

Exit code 0: the step came out as it was recorded; 1: it did not, or there is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

import saim_mm  # noqa: F401  (registers the models)
from saim_mm import launch
from saim_mm.reliability.replay import read_record, replay
from saim_mm.utils.command_line import one_line_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config of the run, as in its work dir")
    parser.add_argument("record", type=Path, help="work dir/not_finite/iter_*.json")
    launch.add_cfg_options(parser)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Replays a record; returns the exit code."""
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    record = read_record(args.record)
    later = record["weights_after_iteration"] - record["iterations"][-1]
    if later:
        print(f"The weights are those of {later} iterations later.")
    iterations, gradients = replay(cfg, record, args.record.parent)
    for one in iterations:
        losses = f"loss {one.loss!r}, recorded {one.recorded!r}"
        print(f"iteration {one.iteration + 1}: {losses}")
        if one.not_finite:
            print(f"  first output that is not finite: {one.not_finite[0]}")
        for sample in one.samples:
            print(f"  {sample}")
    print(f"gradients that are not finite: {len(gradients)}")
    for name in gradients[:10]:
        print(f"  {name}")
    as_recorded = all(one.as_recorded for one in iterations)
    print("The step is as it was recorded." if as_recorded else "Another loss.")
    return int(not as_recorded)


if __name__ == "__main__":
    sys.exit(main())
