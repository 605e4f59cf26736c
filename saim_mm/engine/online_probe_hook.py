"""A linear probe that learns beside the encoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..evaluation import Pool
from ..evaluation.linear_probe import build_probe
from ..registry import register
from ..reliability.inner_datasets import with_inner_datasets
from .feature_hook import extractor_of

#: Where a checkpoint has the probe.
STATE_KEY = "online_probe"
_REMEDY = (
    "let train_dataloader.dataset be one that gives labels, such as dict(type="
    "'ImageNet', data_root=FOLDER, split='train', pipeline=...) with SeedSample as its "
    "first transform, or leave OnlineProbeHook out"
)


@register("hook")
class OnlineProbeHook(Hook):
    """Trains a linear classifier on the features of each batch, and logs its accuracy.

    After each iteration the encoder, in evaluation mode and without a mask, reads the
    batch once more; BatchNorm (without affine) and a linear layer, with an optimiser of
    their own, learn from its features, through which no gradient flows. So the training
    is the same with and without it, bit by bit, and its price is a forward of the
    encoder. In a checkpoint it stands under ``online_probe``, and a resumed run goes on
    with it exactly.

    ``accuracy/online_linear``, in percent, is that of the last ``report`` batches, each
    judged before the probe learnt from it. All processes learn from the whole batch.

    Args:
        pool: ``avg`` (mean of the patches) or ``cls`` (class token).
        layer: Counted from 0; -1 is the last one.
        base_lr: Learning rate at a batch of 256; it grows with the batch and stays.
        momentum: Of SGD, which has no weight decay.
        report: Iterations that the logged accuracy is the mean of.
        num_classes: By default as many as the data set names.

    Raises:
        ValueError: If a number is out of range; when training begins, if the number of
            classes is not known, and at a batch that has no labels.
    """

    # Before those that log and those that save.
    priority = "NORMAL"
    tag = "accuracy/online_linear"

    def __init__(
        self,
        pool: Pool = "avg",
        layer: int = -1,
        base_lr: float = 0.1,
        momentum: float = 0.9,
        report: int = 50,
        num_classes: int | None = None,
    ) -> None:
        if base_lr <= 0 or report < 1:
            raise ValueError(
                f"base_lr={base_lr} must be positive and report={report} at least 1; "
                "0.1 and 50 are the defaults."
            )
        self.pool, self.layer = pool, layer
        self.base_lr, self.momentum = base_lr, momentum
        self.report = report
        self.num_classes = num_classes
        self._loaded: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """A resumed run goes on with the probe."""
        if getattr(runner, "_resume", False):
            self._loaded = checkpoint.get(STATE_KEY)

    def before_train(self, runner: Runner) -> None:
        """Builds the probe."""
        self._extractor = extractor_of(runner, pool=self.pool, layer=self.layer)
        backbone = self._extractor.backbone
        device = next(backbone.parameters()).device
        classes = self.num_classes or _count_classes(runner.train_dataloader.dataset)
        generator = torch.Generator().manual_seed(0)
        self.probe = build_probe(backbone.embed_dims, classes, generator).to(device)
        self.optimizer = torch.optim.SGD(
            self.probe.parameters(), lr=self.base_lr, momentum=self.momentum
        )
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)  # right, all
        if self._loaded is not None:
            self.probe.load_state_dict(self._loaded["probe"])
            self.optimizer.load_state_dict(self._loaded["optimizer"])
            self._counts.copy_(self._loaded["counts"])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, *_: Any, **__: Any
    ) -> None:
        """Judges, then learns from a batch."""
        vectors, labels = self._read(data_batch)
        if len(labels) > 1:  # BatchNorm needs two
            self._learn(vectors, labels)
        if self.every_n_train_iters(runner, self.report):
            correct, seen = self._counts.tolist()
            accuracy = 100 * correct / max(seen, 1)
            runner.message_hub.update_scalar(f"train/{self.tag}", accuracy)
            self._counts.zero_()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the probe."""
        checkpoint[STATE_KEY] = dict(
            probe=self.probe.state_dict(),
            optimizer=self.optimizer.state_dict(),
            counts=self._counts.clone(),
        )

    def _read(self, data_batch: Any) -> tuple[Tensor, Tensor]:
        """Features and labels of the batches of all processes."""
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else ()
        if not samples or any("gt_label" not in sample for sample in samples):
            raise ValueError(f"The training batch has no labels; {_REMEDY}.")
        features = self._extractor(data_batch)
        vectors, labels = (torch.cat(all_gather(x)) for x in vars(features).values())
        return vectors, labels

    def _learn(self, vectors: Tensor, labels: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.base_lr * len(labels) / 256
        scores = self.probe(vectors)
        self._counts[0] += (scores.argmax(dim=1) == labels).sum()
        self._counts[1] += len(labels)
        self.optimizer.zero_grad()
        F.cross_entropy(scores, labels).backward()
        self.optimizer.step()


def _count_classes(dataset: Any) -> int:
    for inner in with_inner_datasets(dataset):
        classes = (getattr(inner, "metainfo", None) or {}).get("classes")
        if classes:
            return len(classes)
    raise ValueError(f"{type(dataset).__name__} names no classes; {_REMEDY}.")
