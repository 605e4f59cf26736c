"""Compares SAIM's forms and its rivals in the small, on CIFAR-10 folders.

  run --data FOLDER --out DIR                trains and judges what is not yet done
  report --out DIR --name FILE               writes FILE.json and FILE.md, of budgets
                                             FILE_1.json, FILE_2.json and so on
  page --record FILE.json --page FILE.md     puts its tables into a page
  chart --record FILE.json --out FILE.png    draws it

Every experiment has the same encoder, data and schedule, and is tuned by as many trials
on images held out. The presets cpu and gpu have the paper's ablations, after equally
many epochs; cpu-equal and gpu-equal have rivals too, after equally many floating-point
operations, at two budgets. ``run`` may be stopped at any time; the same command goes on
where it stopped. Seeds are paired across the experiments.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.command_line import one_line_errors
from saim_mm.utils.environment import environment

from .chart import draw
from .results import Records, read_json
from .scale import PRESETS
from .scheduling import RunContext, plan_runs, run_all, unfinished
from .systems import rows_of
from .table import fill_page, markdown, read_summary, summarise
from .tuning import chosen_now

_PACKAGES = ("torch", "mmengine", "mmcv", "mmpretrain", "saim_mm")
#: Below --out: hardware, versions and command of every invocation.
_ENVIRONMENTS = "circumstances"


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; argparse ends on its own with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m projects.small_scale_cifar10",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and judge what is not yet done")
    run.add_argument("--data", type=Path, required=True, help="with train/ and test/")
    run.add_argument("--preset", choices=PRESETS, default="cpu")
    run.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings than the preset's, such as pretrain_epochs=20",
    )
    run.add_argument("--rows", nargs="+", help="some of the preset's (default: all)")
    run.add_argument(
        "--seeds",
        type=int,
        help="number of seeds for every row (default: 3; 1 for an ablation that no "
        "claim of the paper hangs on)",
    )
    run.add_argument("--jobs", type=int, default=1, help="runs side by side")
    run.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no run after these"
    )
    run.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    report = commands.add_parser("report", help="sum up what is done")
    report.add_argument(
        "--name", type=Path, required=True, help="of the files, without suffix"
    )
    for command in (run, report):
        command.add_argument("--out", type=Path, required=True, help="the records")
    page = commands.add_parser("page", help="put the tables of a record into a page")
    page.add_argument("--record", type=Path, required=True, help="JSON of `report`")
    page.add_argument("--page", type=Path, default=Path("docs/experiments.md"))
    chart = commands.add_parser("chart", help="draw what has several seeds")
    chart.add_argument("--record", type=Path, nargs="+", required=True)
    chart.add_argument("--out", type=Path, required=True, help="PNG")
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    """Does all that is not yet done; returns the number of runs that failed."""
    scale = PRESETS[args.preset].changed(args.set)
    Records(args.out, scale)  # refuses those of another scale
    context = RunContext(args.data, args.device, args.out)
    environments = args.out / _ENVIRONMENTS
    begun = time.strftime("%Y-%m-%d_%H-%M-%S")
    write_json(environments / f"{begun}.json", environment(_PACKAGES), indent=1)
    runs = plan_runs(args.rows or list(rows_of(scale)), args.seeds, scale)
    return run_all(runs, scale, context, args.jobs, args.minutes)


def report(args: argparse.Namespace) -> int:
    """Writes the summary of what is done, by budget, and prints its tables."""
    records = Records.open(args.out)
    notes = sorted((args.out / _ENVIRONMENTS).glob("*.json"))
    begun = [read_json(path) for path in notes]
    scale = records.scale
    runs = chosen_now(records.read(), scale)
    for budget in range(len(scale.budgets) or 1):
        number = f"_{budget + 1}" if scale.budgets else ""
        name = args.name.with_name(args.name.name + number)
        summary = summarise(runs, scale, begun, budget)
        write_json(name.with_suffix(".json"), summary, indent=1)
        text = markdown(runs, scale, budget)
        name.with_suffix(".md").write_text(text)
        print(text)
    plan = plan_runs(list(rows_of(scale)), None, scale)
    missing = [records.name(run) for run in unfinished(plan, records)]
    print(f"{len(missing)} of {len(plan)} runs are missing:", *missing)
    return 0


def page(args: argparse.Namespace) -> int:
    """Puts the tables of a record into a page."""
    fill_page(args.page, args.record)
    return 0


def chart(args: argparse.Namespace) -> int:
    """Draws records."""
    draw([read_summary(record) for record in args.record], args.out)
    return 0


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    args = parse_args(arguments)
    commands = dict(run=run, report=report, page=page, chart=chart)
    return 1 if commands[args.command](args) else 0


if __name__ == "__main__":
    sys.exit(main())
