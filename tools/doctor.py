#!/usr/bin/env python
"""Examines the installation, the machine and, if one is given, a config's data.

Exit code 0: nothing is wrong, or only what a warning says; 1: something is.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Literal

ROOT = Path(__file__).parents[1]
GIB = 2**30
#: A ViT-B pretraining checkpoint with its optimiser is 2 GiB; three are kept, and one
#: is being written.
DISK_GIB = 10
#: Workers hand over batches through it; a container often has 64 MiB.
SHARED_MEMORY_GIB = 1
#: Import name -> names of its distributions, the OneDL line first.
LINES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}
SCOPES = ("mmengine", "mmpretrain", "mmdet", "mmseg")


@dataclass(frozen=True)
class Finding:
    """What one look found.

    Attributes:
        state: ``ok``, ``warning`` or ``error``.
        text: What was found.
        remedy: Command or advice that mends it.
    """

    state: Literal["ok", "warning", "error"]
    text: str
    remedy: str = ""


Findings = Iterator[Finding]


def load_stack_check() -> ModuleType:
    """The package's own list of what it needs, without the package: it may not load."""
    path = ROOT / "saim_mm" / "_stack.py"
    spec = importlib.util.spec_from_file_location("_saim_mm_stack", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def installed(distribution: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def numbers(text: str | None) -> tuple[int, ...]:
    """(2, 11, 0) of '2.11.0+cu130', and nothing of None."""
    plain = (text or "").split("+")[0].split(".")
    return tuple(int(part) for part in plain[:3] if part.isdigit())


def look_at_python() -> Findings:
    """The interpreter."""
    text = f"Python {platform.python_version()} on {platform.platform()}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield Finding("ok", text)
    else:
        yield Finding(
            "warning", text, "Python 3.10, 3.11 and 3.12 were tested; use one of them"
        )


def look_at_stack() -> Findings:
    """Torch and the OpenMMLab packages that saim_mm cannot do without."""
    stack = load_stack_check()
    for part in stack.STACK:
        try:
            stack.check_stack((part,))
        except ImportError as error:
            text, _, remedy = str(error).partition("\nTo mend it, run:\n")
            yield Finding("error", text, remedy.strip())
        else:
            found = sys.modules[part.module].__version__
            yield Finding("ok", f"{part.module} {found}")


def look_at_combinations() -> Findings:
    """Versions that are good alone and bad together."""
    for module, names in LINES.items():
        both = [name for name in names if installed(name)]
        if len(both) > 1:
            yield Finding(
                "error",
                f"{' and '.join(both)} are both installed and overwrite each other's "
                f"files; both are imported as {module}",
                f"pip uninstall -y {' '.join(both)}, then install one of them",
            )
    torch, vision = numbers(installed("torch")), numbers(installed("torchvision"))
    # torchvision 0.(n + 15) belongs to torch 2.n.
    if torch[:1] == (2,) and vision and vision[1] != torch[1] + 15:
        yield Finding(
            "error",
            f"torchvision {installed('torchvision')} does not belong to torch "
            f"{installed('torch')}",
            f"pip install 'torchvision==0.{torch[1] + 15}.*'",
        )
    if numbers(installed("transformers")) >= (5,):
        yield Finding(
            "error",
            f"mmpretrain does not import with transformers {installed('transformers')}",
            "pip install 'transformers<5'",
        )
    for name in ("mmdet", "mmsegmentation"):
        if installed(name) and numbers(installed("mmcv")) >= (2, 2):
            yield Finding(
                "error",
                f"{name} {installed(name)} refuses mmcv {installed('mmcv')}",
                "pip install 'mmcv>=2.1,<2.2', or the OneDL line: see README.md",
            )
    if torch and torch < (2, 3) and numbers(installed("numpy")) >= (2,):
        yield Finding(
            "error",
            f"torch {installed('torch')} was built for numpy 1, and numpy "
            f"{installed('numpy')} is installed",
            "pip install 'numpy<2' 'opencv-python-headless<4.12'",
        )


def look_at_extras() -> Findings:
    """What pretraining can do without."""
    try:
        importlib.import_module("mmcv.ops")
        yield Finding("ok", "mmcv has its compiled ops")
    except Exception as error:
        yield Finding(
            "warning",
            f"mmcv without compiled ops ({error}): pretraining and classification "
            "work, detection and segmentation do not",
            "make setup-test",
        )
    for module, use in (("mmdet", "detection"), ("mmseg", "segmentation")):
        if importlib.util.find_spec(module) is None:
            yield Finding(
                "warning", f"{module} is missing: no {use}", "make setup-test"
            )
            continue
        try:
            found = importlib.import_module(module).__version__
            yield Finding("ok", f"{module} {found}")
        except Exception as error:
            yield Finding("error", f"{module} does not import: {error}")
    if importlib.util.find_spec("simplejpeg") is None:
        yield Finding(
            "warning",
            "simplejpeg is missing: JPEGs load more slowly",
            "pip install simplejpeg",
        )


def look_at_devices() -> Findings:
    """GPUs, and whether torch can use them."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield Finding(
            "warning",
            f"no GPU that torch can use (torch was built for CUDA {built})"
            if built
            else "no GPU: this torch was built for CPUs only",
            "nvidia-smi shows whether there is a driver, and which CUDA it can do",
        )
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        text = f"GPU {index}: {name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        yield Finding("ok", text)
    if not torch.cuda.is_bf16_supported():
        yield Finding("warning", "the GPU has no bfloat16; AMP trains in float16")


def look_at_registry() -> Findings:
    """Whether configs of each OpenMMLab project find the plug-in's parts."""
    from mmengine.registry import MODELS, DefaultScope

    import saim_mm  # noqa: F401  (registers them)

    for scope in SCOPES:
        if importlib.util.find_spec(scope) is None:
            continue
        with DefaultScope.overwrite_default_scope(scope):
            found = MODELS.get("SAIMViT")
        if found is None:
            yield Finding(
                "error",
                f"scope {scope} does not find SAIMViT",
                "custom_imports = dict(imports=['saim_mm']) must be in the config",
            )
        else:
            yield Finding("ok", f"scope {scope} finds SAIMViT")


def look_at_room(work_dir: Path) -> Findings:
    """Disk for checkpoints, and memory that workers share."""
    existing = next(p for p in (work_dir, *work_dir.parents) if p.exists())
    for place, wanted, remedy in (
        (existing, DISK_GIB, "make room, or choose another --work-dir"),
        (Path("/dev/shm"), SHARED_MEMORY_GIB, "docker run --shm-size=8g ..."),
    ):
        if not place.is_dir():
            continue
        free = shutil.disk_usage(place).free / GIB
        text = f"{place}: {free:.1f} GiB free"
        if free < wanted:
            yield Finding("warning", f"{text}, less than {wanted}", remedy)
        else:
            yield Finding("ok", text)
    if not os.access(existing, os.W_OK):
        yield Finding("error", f"{existing} cannot be written to")


def look_at_config(path: str, processes: int, options: dict, samples: int) -> Findings:
    """The batch and rate of a config, and some of its images."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS, init_default_scope

    import saim_mm  # noqa: F401
    from saim_mm import launch

    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options)
        batch = launch.effective_batch(cfg, processes)
    except Exception as error:
        yield Finding("error", f"{path}: {error}")
        return
    text, _, advice = batch.describe().partition("\nWARNING: ")
    yield Finding("warning" if advice else "ok", text, advice)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        size = len(dataset)
    except Exception as error:
        yield Finding("error", f"training data: {error}")
        return
    yield Finding("ok", f"training data: {size} samples of {type(dataset).__name__}")
    if size < batch.images:
        yield Finding(
            "error",
            f"{size} samples are fewer than one step's {batch.images}",
            "lower train_dataloader.batch_size",
        )
    yield from look_at_samples(dataset, samples)


def look_at_samples(dataset: object, samples: int) -> Findings:
    """Loads samples evenly spread over a dataset."""
    dataset.test_mode = True  # type: ignore[attr-defined]  # raise, do not replace
    size = len(dataset)  # type: ignore[arg-type]
    chosen = range(0, size, math.ceil(size / samples)) if size else range(0)
    broken = []
    for index in chosen:
        try:
            dataset[index]  # type: ignore[index]
        except Exception as error:
            broken.append(Finding("error", f"sample {index}: {error}"))
    yield from broken[:10]
    if broken:
        share = len(broken) / len(chosen)
        text = f"{len(broken)} of {len(chosen)} samples that were tried do not load"
        advice = "a run allows max_broken_share of the dataset (default 1 in 1000)"
        yield Finding("error", f"{text} ({share:.1%})", advice)
    else:
        yield Finding("ok", f"all {len(chosen)} samples that were tried load")


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", help="also examine this config's data")
    parser.add_argument(
        "--gpus", type=int, default=1, help="processes that will train the config"
    )
    parser.add_argument(
        "--samples", type=int, default=64, help="samples of its data to load"
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs"))
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
        help="override settings of the config",
    )  # fmt: skip
    args = parser.parse_args()
    if min(args.gpus, args.samples) < 1:
        parser.error("--gpus and --samples must be positive")
    return args


def examine(args: argparse.Namespace) -> Findings:
    """All looks; those that need a working stack only if there is one."""
    first: list[Callable[[], Findings]] = [
        look_at_python,
        look_at_stack,
        look_at_combinations,
    ]
    broken = False
    for look in first:
        for finding in look():
            broken |= finding.state == "error"
            yield finding
    if broken:
        return
    yield from look_at_extras()
    yield from look_at_devices()
    yield from look_at_registry()
    yield from look_at_room(args.work_dir.absolute())
    if args.config:
        options = parse_options(args.cfg_options)
        yield from look_at_config(args.config, args.gpus, options, args.samples)


def parse_options(pairs: list[str]) -> dict:
    """Reads ``KEY=VALUE`` pairs as MMEngine's tools do."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--options", *pairs]).options


def main() -> int:
    """Prints every finding; returns the exit code."""
    worst = 0
    for finding in examine(parse_args()):
        print(f"[{finding.state:^7}] {finding.text}")
        if finding.remedy:
            print(f"          -> {finding.remedy}")
        worst |= finding.state == "error"
    print("Something is wrong; see the errors above." if worst else "Ready.")
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
