"""The smallest runs: numbers for images, and a model that remembers what it saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import BatchSampler

import saim_mm  # noqa: F401  (registers the loops)


class Numbers(BaseDataset):
    """Sample i is the number i; asking for one is counted."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked = 0
        super().__init__()

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(x=float(i)) for i in range(self.length)]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        self.asked += 1
        return self.get_data_info(idx)


class Normalised(BaseModel):
    """A batch norm, whose buffers change at each forward, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[list[float]] = []

    def forward(self, x: list[float], sample_idx: Any, mode: str = "loss") -> dict:
        self.seen.append(list(x))
        values = self.norm(torch.tensor(x)[:, None]) * self.weight
        return dict(loss=(nn.functional.dropout(values, 0.5) - 1).square().mean())


@DATA_SAMPLERS.register_module(force=True)
class EvenThenOdd(BatchSampler):
    """Regroups like mmdet's ``AspectRatioBatchSampler``: by a property of samples."""

    def __iter__(self):
        groups: list[list[int]] = [[], []]
        for index in self.sampler:
            group = groups[index % 2]
            group.append(index)
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()
        rest = groups[0] + groups[1]
        yield rest[: self.batch_size]


class Save(Hook):
    """Saves after each iteration."""

    priority = "VERY_LOW"

    def __init__(self, by_epoch: bool) -> None:
        self.by_epoch = by_epoch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        name = f"iter_{runner.iter + 1}.pth"
        runner.save_checkpoint(runner.work_dir, name, by_epoch=self.by_epoch)


class Batches(Hook):
    """Keeps what :func:`run` returns."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, list[float]]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.epoch, batch_idx, list(data_batch["x"])))


def build(
    work_dir: Path,
    loop: str = "ExactEpochLoop",
    length: int = 3,
    regroup: bool = False,
    accumulation: int = 1,
    checkpoint: Path | None = None,
    drop_last: bool = True,
    batch_size: int = 4,
    images: int = 14,
    sampler_seed: int = 1,
    save_by_epoch: bool = False,
) -> Runner:
    """A run; ``checkpoint`` is what it goes on from."""
    loader: dict[str, Any] = dict(
        dataset=Numbers(images),
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type="ExactSampler", seed=sampler_seed),
        collate_fn=pseudo_collate,
    )
    if regroup:
        loader["batch_sampler"] = dict(type="EvenThenOdd", drop_last=drop_last)
    else:
        loader["drop_last"] = drop_last
    unit = "max_iters" if "Iter" in loop else "max_epochs"
    torch.manual_seed(0)
    return Runner(
        model=Normalised(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg={"type": loop, unit: length},
        optim_wrapper=dict(
            type="OptimWrapper",
            optimizer=dict(type="SGD", lr=0.1, momentum=0.9),
            accumulative_counts=accumulation,
        ),
        default_hooks=dict(checkpoint=None, exact=dict(type="ExactResumeHook")),
        custom_hooks=[Batches(), Save(save_by_epoch)],
        resume=checkpoint is not None,
        load_from=checkpoint and str(checkpoint),
        randomness=dict(seed=1),
        experiment_name=f"{work_dir.parent.name}_{work_dir.name}",
    )


def run(runner: Runner) -> list[tuple[int, int, list[float]]]:
    """Trains; epoch, index and numbers of each batch."""
    runner.train()
    return next(h for h in runner.hooks if isinstance(h, Batches)).seen
