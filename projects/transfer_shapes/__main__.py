"""Shows on a CPU, in a quarter of an hour, what a pretrained encoder is good for.

It makes labelled images (textured shapes over sample photographs; nothing is
downloaded), pretrains a small SAIM on unlabelled ones, and learns four tasks from few
labels, once from that encoder and once from a random one with the same budget: a probe
of frozen features, fine-tuning, detection (Mask R-CNN) and segmentation (UperNet).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import cv2
from mmengine.config import DictAction

from saim_mm.datasets.sample_photos import sample_photos
from saim_mm.engine import ProgressHook
from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.progress_line import ProgressLine
from saim_mm.utils.run_folder import RunFolderError, run_folder
from saim_mm.visualization import save_png

from . import tasks
from .files import Sizes, choose_labels, write_data
from .report import PRETRAINED, RANDOM, Results, Sheet
from .shapes import SceneMaker

#: Shorter side of the photographs, in pixels.
PHOTO_SIZE = 256
#: Labels of each class that a classifier learns from.
LABELS_PER_CLASS = 40
#: What a run leaves in the work dir besides a folder of its own.
RESULTS = ("table.md", "results.json", "predictions.png", "encoder.pth")
#: Everything that Runner and the libraries print.
LOG = "log.txt"
_SIZES = "projects/transfer_shapes/files.py"

T = TypeVar("T")


def parse_args() -> argparse.Namespace:
    """Reads the command line; argparse ends on its own with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m projects.transfer_shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/demo_transfer"),
        help="where the results go (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="of labels, heads, random encoders and orders (default: 0 1 2)",
    )
    for name, default in vars(Sizes()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=default,
            metavar="N",
            help=f"images; see Sizes in {_SIZES} (default: {default})",
        )
    parser.add_argument(
        "--labels-per-class", type=int, default=LABELS_PER_CLASS, metavar="N"
    )
    for name in ("pretrain", *(task.name for task in tasks.FINE_TUNED)):
        parser.add_argument(
            f"--{name}-options",
            nargs="+",
            action=DictAction,
            default={},
            metavar="KEY=VALUE",
            help=f"override settings of the config of {name}",
        )
    args = parser.parse_args()
    for name in (*vars(Sizes()), "labels_per_class"):
        if getattr(args, name) < 1:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option}={getattr(args, name)} must be at least 1.")
    if args.labels_per_class > args.labelled:
        parser.error(
            f"--labels-per-class={args.labels_per_class} must be at most --labelled="
            f"{args.labelled}, the images of a class that they are drawn from."
        )
    return args


def make_data(data: Path, sources: list[Path], args: argparse.Namespace) -> None:
    """Makes the images from photographs."""
    photos = []
    for path in sources:
        photo = cv2.imread(str(path))
        scale = PHOTO_SIZE / min(photo.shape[:2])
        photos.append(
            cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        )
    sizes = Sizes(**{name: getattr(args, name) for name in vars(Sizes())})
    write_data(SceneMaker(photos), data, sizes)


class Stopwatch:
    """Says what is being done, and how long it took.

    Args:
        console: Where to; everything else that is printed goes to a log.
    """

    def __init__(self, console: TextIO) -> None:
        self.line = ProgressLine(console, seconds=30)
        #: Shows the steps of a run.
        self.steps = ProgressHook(self.line)
        #: Name -> seconds that passed, and seconds of CPU time in this process.
        self.seconds: dict[str, list[float]] = {}

    def run(self, name: str, work: Callable[..., T], *args: Any, note: str = "") -> T:
        """Calls ``work(*args)``; times of the same name add up."""
        self.steps.what = f"{name}{note} ... "
        self.line.show(self.steps.what)
        started = time.perf_counter(), time.process_time()
        result = work(*args)
        passed = time.perf_counter() - started[0], time.process_time() - started[1]
        before = self.seconds.get(name, [0.0, 0.0])
        self.seconds[name] = [
            round(a + b, 2) for a, b in zip(before, passed, strict=True)
        ]
        self.line.show(f"{self.steps.what}{passed[0]:.0f} s")
        self.line.close()
        return result


def probe_encoders(
    args: argparse.Namespace,
    data: Path,
    encoders: dict[str, list[Path]],
    results: Results,
) -> None:
    """Probes the frozen features of the encoder of each seed."""
    heads = tasks.num_heads(args.pretrain_options)
    for column, files in encoders.items():
        for i, (seed, encoder) in enumerate(zip(args.seeds, files, strict=True)):
            if i == 0 or encoder != files[i - 1]:  # else they are the same
                train, val = tasks.extract(encoder, data, heads)
            chosen = choose_labels(data, seed, args.labels_per_class)
            found = tasks.probe(train, val, chosen, seed)
            for row, value in zip(tasks.PROBES, found, strict=True):
                results.add(row, column, value)


def fine_tune_encoders(
    args: argparse.Namespace,
    data: Path,
    encoders: dict[str, list[Path]],
    results: Results,
    sheet: Sheet,
    watch: Stopwatch,
) -> None:
    """Trains each task from the encoder of each seed."""
    for task in tasks.FINE_TUNED:
        options = getattr(args, f"{task.name}_options")
        for i, seed in enumerate(args.seeds):
            for column, files in encoders.items():
                folder = data.parent / f"{task.name}_{column.split()[0]}_{seed}"
                runner = watch.run(
                    task.name, tasks.fine_tune, task, files[i], data, folder, seed,
                    options, watch.steps, note=f", {column}, seed {seed}",
                )  # fmt: skip
                for row, value in tasks.judge(task, runner).items():
                    results.add(row, column, value)
                if i == 0 and task is not tasks.CLASSIFY:
                    sheet.add(f"{task.name}, {column}", runner)


def run(
    args: argparse.Namespace, photos: list[Path], run_dir: Path, console: TextIO
) -> Results:
    """Makes the data, pretrains, compares and writes the results."""
    watch, results, sheet = Stopwatch(console), Results(), Sheet()
    data = run_dir / "data"
    watch.run("making images", make_data, data, photos, args)
    pretrained = watch.run(
        "pretraining", tasks.pretrain, data, run_dir, args.pretrain_options,
        watch.steps, note=f" (log in {run_dir / LOG})",
    )  # fmt: skip
    encoders = {
        RANDOM: [
            tasks.random_encoder(run_dir / f"random_{s}", s, args.pretrain_options)
            for s in args.seeds
        ],
        PRETRAINED: [pretrained] * len(args.seeds),
    }
    watch.run("probing", probe_encoders, args, data, encoders, results)
    fine_tune_encoders(args, data, encoders, results, sheet, watch)
    write_results(run_dir, args, results, sheet, watch)
    return results


def write_results(
    run_dir: Path,
    args: argparse.Namespace,
    results: Results,
    sheet: Sheet,
    watch: Stopwatch,
) -> None:
    """Writes table, numbers and picture, and copies all results to the work dir."""
    settings = {k: v for k, v in vars(args).items() if k != "work_dir"}
    content = dict(settings=settings, seconds=watch.seconds, percent=results.rows)
    write_json(run_dir / "results.json", content, indent=2)
    (run_dir / "table.md").write_text(results.table() + "\n")
    save_png(sheet.image(), run_dir / "predictions.png")
    for name in RESULTS:
        shutil.copy2(run_dir / name, args.work_dir / name)


def summary(results: Results, minutes: float, args: argparse.Namespace) -> str:
    """What the user reads at the end."""
    clear = "clearly wins" if results.wins_clearly(tasks.PROBES[0]) else "does NOT win"
    return f"""
{results.table()}

Percent, mean +- standard deviation over seeds {args.seeds}; {minutes:.1f} minutes.
The pretrained encoder {clear} on the linear probe (its worst seed against the best).

  table        {args.work_dir / "table.md"}
  numbers      {args.work_dir / "results.json"}
  predictions  {args.work_dir / "predictions.png"}
  encoder      {args.work_dir / "encoder.pth"}"""


def main() -> int:
    """Returns the exit code: 2 for unusable input, 130 after Ctrl-C."""
    args, started, console = parse_args(), time.perf_counter(), sys.stdout
    try:
        photos = sample_photos()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with run_folder(args.work_dir) as run_dir, tasks.output_to(run_dir / LOG):
            results = run(args, photos, run_dir, console)
    except RunFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; this run leaves nothing behind.", file=sys.stderr)
        return 130
    print(summary(results, (time.perf_counter() - started) / 60, args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
