"""What the demo trains: SAIM once, then four tasks with an encoder and without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from saim_mm import launch
from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import (
    FeatureExtractor,
    Features,
    ProbeRecipe,
    build_encoder,
    knn_accuracy,
    linear_probe,
)
from saim_mm.weights import saim_to_encoder, write_state_dict
from saim_mm.weights.load_model import build_model

from .files import LABELS

CONFIGS = Path(__file__).parents[2] / "configs" / "demo_transfer"
PRETRAINING = CONFIGS / "saim_shapes.py"
#: Overrides of a config, as of --cfg-options.
Options = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task with its config, and the numbers that come out of it.

    Attributes:
        name: Name of its folder.
        config: File in :data:`CONFIGS`.
        metrics: Row of the table -> metric of the config's evaluator.
        scale: Factor that makes percent of the metrics.
    """

    name: str
    config: str
    metrics: dict[str, str]
    scale: float


_ACCURACY = {"Fine-tuning, accuracy": "accuracy/top1"}
_PRECISION = {
    "Mask R-CNN, box AP": "coco/bbox_mAP",
    "Mask R-CNN, box AP50": "coco/bbox_mAP_50",
    "Mask R-CNN, mask AP": "coco/segm_mAP",
}
CLASSIFY = Task("classify", "classifier_shapes.py", _ACCURACY, scale=1)
DETECT = Task("detect", "mask-rcnn_shapes.py", _PRECISION, scale=100)
SEGMENT = Task("segment", "upernet_shapes.py", {"UperNet, mIoU": "mIoU"}, scale=1)
FINE_TUNED = (CLASSIFY, DETECT, SEGMENT)
PROBES = ("Frozen features, linear probe", "Frozen features, kNN")


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Sends what is printed to a file; two dozen runs would drown the table."""
    with (
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def pretrain(data: Path, folder: Path, options: Options, progress: Hook) -> Path:
    """Pretrains SAIM on the unlabelled images; returns the encoder's file."""
    cfg = _load(PRETRAINING, folder, options)
    cfg.train_dataloader.dataset.data_root = str(data / "unlabelled")
    runner = Runner.from_cfg(cfg)
    runner.register_hook(progress)
    runner.train()
    return _write_encoder(runner.model, folder)


def random_encoder(folder: Path, seed: int, options: Options) -> Path:
    """Writes an encoder that is only initialised, in place of a pretrained one."""
    cfg = _load(PRETRAINING, folder, options)
    torch.manual_seed(seed)
    model = build_model(cfg, init_weights=True)
    return _write_encoder(model, folder)


def _write_encoder(model: nn.Module, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    encoder = folder / "encoder.pth"
    write_state_dict(encoder, saim_to_encoder(model.state_dict()).state_dict)
    return encoder


def extract(encoder: Path, data: Path, num_heads: int) -> tuple[Features, Features]:
    """Features to learn from and to judge, class by class and sorted by name."""
    built = build_encoder(encoder, num_heads=num_heads)
    size = tuple(built.backbone.img_size)
    train, val = split_class_folders(data / "classes", size, crop_ratio=1)
    extractor = FeatureExtractor(built.backbone, built.preprocessor)
    return extractor.extract(train), extractor.extract(val)


def probe(train: Features, val: Features, chosen: list[int], seed: int) -> list[float]:
    """Accuracies in percent for :data:`PROBES`, from the chosen labels only."""
    few = Features(train.vectors[chosen], train.labels[chosen])
    recipe = ProbeRecipe(seed=seed, batch_size=64)
    return [
        linear_probe(few, val, recipe).accuracy,
        knn_accuracy(val, few, k=min(10, len(chosen))),
    ]


def fine_tune(
    task: Task,
    encoder: Path,
    data: Path,
    folder: Path,
    seed: int,
    options: Options,
    progress: Hook,
) -> Runner:
    """Trains all weights of a task's model, from an encoder.

    The random encoder is loaded from a file as well: both sides differ in nothing else.
    """
    cfg = _load(CONFIGS / task.config, folder, options)
    cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(encoder))
    cfg.randomness = dict(seed=seed)
    _set_data(cfg, data, seed)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(progress)
    runner.train()
    return runner


def judge(task: Task, runner: Runner) -> dict[str, float]:
    """Row of the table -> the metric in percent."""
    found = runner.test()
    # A detector that finds nothing at all gets no metrics from CocoMetric.
    return {row: task.scale * found.get(name, 0) for row, name in task.metrics.items()}


def num_heads(options: Options) -> int:
    """Heads of the encoder, which its weights do not tell."""
    cfg = Config.fromfile(PRETRAINING)
    cfg.merge_from_dict(options)
    return cfg.model.backbone.arch.num_heads


def _load(path: Path, folder: Path, options: Options) -> Config:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    cfg.work_dir = str(folder)
    launch.fit_to_machine(cfg)
    return cfg


def _set_data(cfg: Config, data: Path, seed: int) -> None:
    """Puts this run's folder in place of the configs' own."""
    # Absolute, as data sets put their root before relative paths.
    data = data.resolve()
    root = data / ("classes" if cfg.default_scope == "mmpretrain" else "scenes")
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        name = Path(loader.dataset.data_root).name
        loader.dataset.data_root = str(root if name == root.name else root / name)
    if cfg.default_scope == "mmpretrain":
        cfg.train_dataloader.dataset.ann_file = str(root / LABELS.format(seed=seed))
    if "ann_file" in cfg.test_evaluator:
        cfg.test_evaluator.ann_file = str(root / Path(cfg.test_evaluator.ann_file).name)
