"""What the demo shows: a table, the same as numbers, and a sheet of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.runner import Runner

from .files import SEGMENTS

#: The two columns of the table.
RANDOM, PRETRAINED = "random init", "SAIM"
#: Objects that are drawn are surer than this.
_SURE = 0.3
_ZOOM = 2
_GAP = 4


@dataclass
class Results:
    """Row of the table -> column -> a number in percent for every seed."""

    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float) -> None:
        """Adds what one more seed gave."""
        columns = self.rows.setdefault(row, {RANDOM: [], PRETRAINED: []})
        columns[column].append(round(float(value), 2))  # of NumPy, some of them

    def table(self) -> str:
        """Markdown: mean +- sample standard deviation over the seeds."""
        lines = [f"| task | {RANDOM} | {PRETRAINED} | wins |", "|---|---|---|---|"]
        for row, columns in self.rows.items():
            cells = " | ".join(_spread(columns[c]) for c in (RANDOM, PRETRAINED))
            pairs = list(zip(columns[RANDOM], columns[PRETRAINED], strict=True))
            wins = sum(after > before for before, after in pairs)
            lines.append(f"| {row} | {cells} | {wins} of {len(pairs)} |")
        return "\n".join(lines)

    def wins_clearly(self, row: str) -> bool:
        """Whether the worst seed with SAIM beats the best one without."""
        return min(self.rows[row][PRETRAINED]) > max(self.rows[row][RANDOM])


def _spread(values: Sequence[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} +- {deviation:.1f}"


class Sheet:
    """Pictures of the same scenes in columns, with what each model sees in them.

    Args:
        count: Number of scenes.
    """

    def __init__(self, count: int = 8) -> None:
        self.count = count
        self.columns: list[tuple[str, list[np.ndarray]]] = []

    @torch.no_grad()
    def add(self, title: str, runner: Runner) -> None:
        """Adds a column of predictions, and before the first of a task the truth."""
        runner.model.eval()
        images, truths, found = [], [], []
        for batch in runner.test_dataloader:
            inputs = batch["inputs"]
            samples = runner.model.test_step(batch)
            for image, sample in zip(inputs, samples, strict=True):
                pixels = image.permute(1, 2, 0).cpu().numpy()
                images.append(np.ascontiguousarray(pixels))
                truths.append(_draw(images[-1], sample, truth=True))
                found.append(_draw(images[-1], sample, truth=False))
            if len(images) >= self.count:
                break
        if not any(name.startswith(title.split(",")[0]) for name, _ in self.columns):
            truth = f"{title.split(',')[0]}, truth"
            self.columns.append((truth, truths[: self.count]))
        self.columns.append((title, found[: self.count]))

    def image(self) -> np.ndarray:
        """The sheet (H, W, 3) uint8, BGR."""
        columns = [
            np.concatenate([_header(title, pictures[0].shape[1]), *pictures])
            for title, pictures in self.columns
        ]
        return np.concatenate(columns, axis=1)


def _header(title: str, width: int, height: int = 30) -> np.ndarray:
    """Two short lines: the task, and whose prediction it is."""
    strip = np.full((height, width, 3), 255, np.uint8)
    for line, text in enumerate(title.split(", ")):
        place = (2, 12 + 13 * line)
        cv2.putText(strip, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    return strip


def _draw(image: np.ndarray, sample: Any, truth: bool) -> np.ndarray:
    """An enlarged image with its boxes and masks, or its segments, in class colours."""
    if "gt_sem_seg" in sample:
        segments = sample.gt_sem_seg if truth else sample.pred_sem_seg
        labels = segments.data[0].cpu().numpy()
        objects = [(i - 1, labels == i, None) for i in range(1, len(SEGMENTS))]
    else:
        objects = _objects(sample.gt_instances if truth else sample.pred_instances)
    size = (image.shape[1] * _ZOOM, image.shape[0] * _ZOOM)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    for label, mask, box in objects:
        colour = _colour(label)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=0) > 0
        picture[mask] = (0.4 * picture[mask] + 0.6 * np.array(colour)).astype(np.uint8)
        if box is not None:
            left, top, right, bottom = (int(side * _ZOOM) for side in box)
            cv2.rectangle(picture, (left, top), (right, bottom), colour, 1)
    gap = [(0, _GAP), (0, _GAP), (0, 0)]
    return np.pad(picture, gap, constant_values=255)


def _objects(instances: Any) -> list[tuple[int, np.ndarray, Any]]:
    """Label, mask and box of the instances that are sure enough, or given."""
    if "scores" in instances:
        instances = instances[instances.scores > _SURE]
    masks = instances.masks
    masks = masks.cpu().numpy() if torch.is_tensor(masks) else masks.masks
    boxes = instances.bboxes
    boxes = boxes.cpu().numpy() if torch.is_tensor(boxes) else boxes.numpy()
    labels = instances.labels.tolist()
    return list(zip(labels, masks, boxes, strict=True))


def _colour(label: int) -> tuple[int, int, int]:
    """A hue of its own for each class, BGR."""
    hue = np.array([[[180 * label / (len(SEGMENTS) - 1), 255, 255]]], dtype=np.uint8)
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red
