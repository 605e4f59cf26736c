"""Times an encoder beside its exported graphs, on the CPU, one image at a time.

All run in turn in one process, so that they meet the same load of the machine; each
has its median, and the median of its ratios to the encoder of the same turn. The
weights are fresh, and the certificates are those of sample photographs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saim_mm.api import export, load_encoder
from saim_mm.models import SAIMViT
from saim_mm.utils.environment import environment
from saim_mm.weights import install_safe_loader, write_state_dict

from .clock import shown_steps

_ENCODER = "the encoder"
#: What is exported, by the name of the file.
_GRAPHS = {
    "fixed.pt2": {},
    "any-size.pt2": dict(dynamic_size=True),
    "fixed.onnx": {},
    "any-size.onnx": dict(dynamic_size=True),
}


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("benchmarks exported", description=__doc__)
    add = parser.add_argument
    add("--arch", default="deit-small", help="of mmpretrain's ViT (default: ViT-S)")
    add("--size", type=int, default=224, help="pixels a side, in patches of 16")
    add("--turns", type=int, default=30)
    add("--threads", type=int, default=1)
    add("--out", type=Path, metavar="JSON", help="write the figures")
    args = parser.parse_args(arguments)
    if args.turns < 1:
        parser.error("--turns must be at least 1")
    return args


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes, differences and times of all."""
    described = environment(("torch", "onnx", "onnxruntime", "mmpretrain"))
    torch.set_num_threads(args.threads)
    install_safe_loader()  # like every script that initialises a model by itself
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "encoder.pth"
        model = SAIMViT(args.arch, args.size, final_norm=False, out_type="raw")
        model.init_weights()
        write_state_dict(source, model.state_dict())
        encoder = load_encoder(source)
        runs: dict[str, Callable[[Tensor], Any]] = {_ENCODER: encoder.features}
        found: dict[str, dict[str, Any]] = {_ENCODER: _about(source)}
        for name, options in _GRAPHS.items():
            done = export(source, Path(folder) / name, **options)
            largest = max(done.certificate.differences.values())
            found[name] = {**_about(done.path), "largest_difference": largest}
            runs[name] = _runner(done.path, args.threads)
        times = _time(runs, torch.rand(1, 3, args.size, args.size), args.turns)
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, times[_ENCODER], strict=True)]
        found[name]["milliseconds"] = [round(1000 * s, 2) for s in seconds]
        found[name]["median_ms"] = round(1000 * statistics.median(seconds), 2)
        found[name]["median_ratio"] = round(statistics.median(ratios), 3)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    return {**described, **settings, "files": found}


def describe(record: dict[str, Any]) -> str:
    """A line for each."""
    return "\n".join(
        f"{name:14} {entry['megabytes']:7.1f} MB  {entry['median_ms']:8.1f} ms  "
        f"{entry['median_ratio']:.2f} of the encoder"
        for name, entry in record["files"].items()
    )


def _about(path: Path) -> dict[str, Any]:
    return {"megabytes": round(path.stat().st_size / 1e6, 2)}


def _runner(path: Path, threads: int) -> Callable[[Tensor], Any]:
    """Runs a file as a user would, with so many threads."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(None, {"images": images.numpy()})


def _time(
    runs: dict[str, Callable[[Tensor], Any]], images: Tensor, turns: int
) -> dict[str, list[float]]:
    """Seconds of each in each turn; a first turn, which warms up, does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in shown_steps(turns + 1, "turn"):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - start)
    return {name: seconds[1:] for name, seconds in times.items()}
