"""Folders of classes that features can tell apart, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from mmengine.runner import save_checkpoint
from PIL import Image
from tiny import tiny_saim

NORMAL = dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)
COLOURS = {"blue": (40, 60, 200), "green": (50, 190, 60), "red": (210, 50, 40)}


def write_class_folders(
    root: Path, size: int = 40, val: str | None = "val", train: int = 4, judged: int = 2
) -> Path:
    """Noisy images of one colour per class; colours are what tells classes apart."""
    rng = np.random.default_rng(0)
    for folder, number in (("train", train), (val, judged)):
        for name, colour in COLOURS.items() if folder else ():
            (root / folder / name).mkdir(parents=True)
            for i in range(number):
                image = np.array(colour) + rng.normal(0, 20, (size, size, 3))
                image = Image.fromarray(image.clip(0, 255).astype(np.uint8))
                image.save(root / folder / name / f"{i}.png")
    return root


def write_checkpoint(path: Path) -> None:
    """As MMEngine writes it; 8 channels a head, which no shape tells."""
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8))
    text = (
        "model = dict(backbone=dict(arch=dict(num_heads=2), type='SAIMViT'))\n"
        f"data_preprocessor = dict(mean={NORMAL['mean']}, std={NORMAL['std']},\n"
        "    to_rgb=True)\nother = undefined_name\nhooks = [dict(a=1)]\n"
    )
    content = dict(state_dict=model.state_dict(), meta=dict(cfg=text, epoch=1))
    save_checkpoint(content, str(path))


def unpack_cifar10(archive: Path, root: Path, train: int, test: int) -> Path:
    """The first images of each class of CIFAR-10."""
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            folder, _, image = name.split("/")
            if int(Path(image).stem) < (train if folder == "train" else test):
                file.extract(name, root)
    return root


def launch(tool: Path | str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a tool, or a module by its name, in a process of its own, as people do."""
    program = ["-m", tool] if isinstance(tool, str) else [str(tool)]
    return subprocess.run(
        [sys.executable, *program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
