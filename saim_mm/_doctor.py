"""Examines the installation, the machine and, if one is given, a config's data.

It must run where the package or its stack does not import: of the package it needs
``_stack.py`` alone, and everything else is imported by the check that needs it.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import _stack

GIB = 2**30
#: A ViT-B pretraining checkpoint with its optimiser is 2 GiB; three are kept, and one
#: is being written.
DISK_GIB = 10
#: Workers hand over batches through it; a container often has 64 MiB.
SHARED_MEMORY_GIB = 1
SCOPES = ("mmengine", "mmpretrain", "mmdet", "mmseg")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        state: ``ok``, ``warning`` or ``error``.
        text: What was found.
        remedy: Command or advice that mends it.
    """

    state: Literal["ok", "warning", "error"]
    text: str
    remedy: str = ""


Findings = Iterator[Finding]


def doctor(
    config: str | Path | None = None,
    *,
    processes: int = 1,
    samples: int = 64,
    work_dir: str | Path = "work_dirs",
    cfg_options: Sequence[str] = (),
) -> Findings:
    """Examines the installation, the machine and a config's data.

    Checks that need a working stack are left out where there is none.

    Args:
        config: A config of which the batch, the rate and the data are examined too.
        processes: Number of processes (GPUs) that will train it.
        samples: How many samples of its data are loaded, evenly spread.
        work_dir: Where checkpoints will be written; it need not exist.
        cfg_options: ``KEY=VALUE`` pairs that override the config.

    Returns:
        The findings, each as soon as it is made.

    Raises:
        ValueError: If ``processes`` or ``samples`` is not positive.
    """
    if min(processes, samples) < 1:
        raise ValueError(
            f"processes={processes} and samples={samples} must be at least 1; 1 and 64 "
            "are the defaults"
        )

    def examine() -> Findings:
        is_broken = False
        for check in (check_python, check_stack, check_combinations):
            for finding in check():
                is_broken |= finding.state == "error"
                yield finding
        if is_broken:
            return
        yield from check_extras()
        yield from check_devices()
        yield from check_registry()
        yield from check_space(Path(work_dir).absolute())
        if config is not None:
            options = parse_options(cfg_options)
            yield from check_config(str(config), processes, options, samples)

    return examine()


def check_python() -> Findings:
    """The interpreter."""
    found = platform.python_version()
    text = f"Python {found} on {platform.platform()}"
    if _stack.in_range(found, _stack.PYTHON):
        yield Finding("ok", text)
    else:
        yield Finding("warning", text, _stack.PYTHON.install)


def check_stack() -> Findings:
    """Torch and the OpenMMLab packages that saim_mm cannot do without."""
    for part in _stack.STACK:
        try:
            _stack.check_stack((part,))
        except ImportError as error:
            text, _, remedy = str(error).partition("\nTo mend it, run:\n")
            yield Finding("error", text, remedy.strip())
        else:
            found = sys.modules[part.module].__version__
            yield Finding("ok", f"{part.module} {found}")


def check_combinations() -> Findings:
    """Versions that are good alone and bad together."""
    for module, names in _stack.LINES.items():
        both = [name for name in names if _stack.installed(name)]
        if len(both) > 1:
            text = f"{' and '.join(both)} are both installed and overwrite each other's"
            text += f" files; both are imported as {module}"
            remedy = f"pip uninstall -y {' '.join(both)}, then install one of them"
            yield Finding("error", text, remedy)
    rules = []  # a part, and what is wrong if it is there and out of its range
    torch = _stack.installed("torch")
    if torch is not None and torch.startswith("2."):
        text = f"torchvision {{}} does not belong to torch {torch}"
        rules.append((_stack.torchvision_for(torch), text))
    if torch is not None and _stack.parse(torch) < _stack.FIRST_TORCH_WITH_NUMPY_2:
        text = f"torch {torch} was built for numpy 1, and numpy {{}} is installed"
        rules.append((_stack.OLD_NUMPY, text))
    text = "mmpretrain does not import with transformers {}"
    rules.append((_stack.TRANSFORMERS, text))
    for name in ("mmdet", "mmsegmentation"):
        if version := _stack.installed(name):
            text = f"{name} {version} refuses mmcv {{}}"
            rules.append((_stack.UPSTREAM_MMCV, text))
    for part, text in rules:
        found = _stack.installed(part.module)
        if found is not None and not _stack.in_range(found, part):
            yield Finding("error", text.format(found), part.install)


def check_extras() -> Findings:
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
        text = "simplejpeg is missing: JPEGs load more slowly"
        yield Finding("warning", text, "pip install simplejpeg")


def check_devices() -> Findings:
    """GPUs, and whether torch can use them."""
    import torch

    if not torch.cuda.is_available():
        text = "no GPU: this torch was built for CPUs only"
        if built := torch.version.cuda:
            text = f"no GPU that torch can use (torch was built for CUDA {built})"
        remedy = "nvidia-smi shows whether there is a driver, and which CUDA it can do"
        yield Finding("warning", text, remedy)
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        text = f"GPU {index}: {name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        yield Finding("ok", text)
    if not torch.cuda.is_bf16_supported():
        yield Finding("warning", "the GPU has no bfloat16; AMP trains in float16")


def check_registry() -> Findings:
    """Whether configs of each OpenMMLab project find the plug-in's parts."""
    from mmengine.registry import MODELS, DefaultScope

    try:
        importlib.import_module("saim_mm")  # registers them
    except Exception as error:
        yield Finding("error", f"saim_mm does not import: {error}", "pip install -e .")
        return
    for scope in filter(importlib.util.find_spec, SCOPES):
        with DefaultScope.overwrite_default_scope(scope):
            found = MODELS.get("SAIMViT")
        if found is None:
            remedy = "custom_imports = dict(imports=['saim_mm']) must be in the config"
            yield Finding("error", f"scope {scope} does not find SAIMViT", remedy)
        else:
            yield Finding("ok", f"scope {scope} finds SAIMViT")


def check_space(work_dir: Path) -> Findings:
    """Disk for checkpoints, and memory that workers share."""
    existing = next(p for p in (work_dir, *work_dir.parents) if p.exists())
    for folder, wanted, remedy in (
        (existing, DISK_GIB, "make room, or choose another --work-dir"),
        (Path("/dev/shm"), SHARED_MEMORY_GIB, "docker run --shm-size=8g ..."),
    ):
        if not folder.is_dir():
            continue
        free = shutil.disk_usage(folder).free / GIB
        text = f"{folder}: {free:.1f} GiB free"
        if free < wanted:
            yield Finding("warning", f"{text}, less than {wanted}", remedy)
        else:
            yield Finding("ok", text)
    if not os.access(existing, os.W_OK):
        yield Finding("error", f"{existing} cannot be written to")


def check_config(
    path: str, processes: int, options: dict[str, Any], samples: int
) -> Findings:
    """The batch and rate of a config, and whether its data fill a step and load.

    As for :func:`doctor`, with the options as dotted keys and their values.
    """
    try:
        from saim_mm import launch

        cfg = launch.load_config(path)
        cfg.merge_from_dict(options)
        batch = launch.effective_batch(cfg, processes)
    except Exception as error:
        text = str(error)
        yield Finding("error", text if text.startswith(path) else f"{path}: {text}")
        return
    text, _, advice = batch.describe().partition("\nWARNING: ")
    yield Finding("warning" if advice else "ok", text, advice)
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope(cfg.get("default_scope", "mmengine"))
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        size = len(dataset)
    except Exception as error:
        yield Finding("error", f"training data: {error}")
        return
    samples_of = f"sample{'s' * (size != 1)} of {type(dataset).__name__}"
    yield Finding("ok", f"training data: {size} {samples_of}")
    yield from _check_left_out(dataset)
    if size < batch.images:
        text = f"{size} samples are fewer than one step's {batch.images}"
        yield Finding("error", text, "lower train_dataloader.batch_size")
    yield from check_samples(dataset, samples)


def _check_left_out(dataset: Any) -> Findings:
    """What lies in the folders that a dataset searches, and is no image to it."""
    from saim_mm.datasets import HuggingFaceImages, PackedImages, WebDatasetImages
    from saim_mm.datasets.image_files import describe_left_out, list_images
    from saim_mm.reliability.inner_datasets import with_inner_datasets

    for part in with_inner_datasets(dataset):
        extensions = getattr(part, "extensions", None)
        folder = getattr(part, "img_prefix", "")
        if isinstance(part, (HuggingFaceImages, PackedImages, WebDatasetImages)):
            continue
        if not extensions or part.ann_file or not os.path.isdir(folder):
            continue
        others = list_images(folder, tuple(extensions))[1]
        if others:
            remedy = "if images are among them, name their suffixes in extensions of "
            remedy += "the dataset ([''] is every file), or convert them"
            yield Finding("warning", f"{folder!r}: {describe_left_out(others)}", remedy)


def check_samples(dataset: Any, samples: int) -> Findings:
    """Loads samples evenly spread over a dataset."""
    dataset.test_mode = True  # raise, do not replace
    size = len(dataset)
    chosen = range(0, size, math.ceil(size / samples)) if size else range(0)
    broken = []
    for index in chosen:
        try:
            dataset[index]
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


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Reads ``KEY=VALUE`` pairs as MMEngine's tools do.

    Raises:
        ValueError: If one is none.
    """
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"cfg_options={wrong}: write KEY=VALUE.")
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="*", action=DictAction, default={})
    return parser.parse_args(["--options", *pairs]).options
