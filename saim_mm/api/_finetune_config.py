"""The config of a classifier: what it changes of ``vit-b_finetune_100e_in1k.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..models import SAIMViT
from ._child import Block, arch_of
from ._pretrain_config import arch_block, hooks_block, optim_block
from ._rule import FinetunePlan

BASE = "saim/benchmarks/vit-b_finetune_100e_in1k.py"
METRIC = "accuracy/top1"
#: `tools/test.py` judges on the same images as training does.
TAIL = "test_dataloader = val_dataloader\ntest_evaluator = val_evaluator\n"
#: Share of the resized image's short edge that is judged, as of 224 of 256 pixels.
_CROP_RATIO = 224 / 256


def finetune_blocks(
    plan: FinetunePlan,
    base: Config,
    encoder: SAIMViT,
    checkpoint: Path,
    classes: Sequence[str],
    lists: dict[str, Path],
    seed: int,
    interval: int,
) -> Block:
    """The settings of a child of :data:`BASE`.

    Args:
        plan: How to train.
        base: The parent.
        encoder: Whose sizes the classifier takes.
        checkpoint: Its file.
        classes: Their names; a label is an index into them.
        lists: ``train`` and ``val`` -> the file that lists image and label.
        seed: Of the run.
        interval: Iterations between two checkpoints.
    """
    side, patch = encoder.img_size[0], encoder.patch_embed.projection.kernel_size[0]
    number = len(classes)
    judged = _dataset(base.test_dataloader.dataset.pipeline, lists["val"], classes)
    for step in judged["pipeline"]:
        if step["type"] == "ResizeEdge":
            step["scale"] = round(side / _CROP_RATIO)
        elif step["type"] == "CenterCrop":
            step["crop_size"] = side
    learnt = _dataset(base.train_dataloader.dataset.pipeline, lists["train"], classes)
    for step in learnt["pipeline"]:
        if step["type"] == "LoadRandomResizedCrop":
            step["scale"] = side
    judging = dict(batch_size=plan.steps.at_once, num_workers=plan.steps.workers)
    return dict(
        data_preprocessor=dict(num_classes=number),
        model=dict(
            backbone=dict(
                arch=arch_block(arch_of(encoder)),
                img_size=side,
                patch_size=patch,
                init_cfg=dict(checkpoint=str(checkpoint)),
            ),
            head=dict(num_classes=number, in_channels=encoder.embed_dims),
        ),
        train_dataloader=dict(**judging, dataset=learnt),
        val_dataloader=dict(**judging, dataset=judged),
        val_evaluator=dict(topk=(1,)),
        optim_wrapper=optim_block(plan.lr, plan.steps),
        auto_scale_lr=dict(base_batch_size=plan.steps.batch),
        param_scheduler=_schedule(base, plan),
        train_cfg=dict(max_epochs=plan.epochs),
        default_hooks=hooks_block(interval, save_best=METRIC, rule="greater"),
        randomness=dict(seed=seed),
    )


def _dataset(
    pipeline: Sequence[Any], listed: Path, classes: Sequence[str]
) -> dict[str, Any]:
    """Images by a list: mmpretrain takes hidden and empty folders for classes."""
    return dict(
        _delete_=True,
        type="CustomDataset",
        data_root="",
        ann_file=str(listed),
        metainfo=dict(classes=list(classes)),
        pipeline=[step.to_dict() for step in pipeline],
    )


def _schedule(base: Config, plan: FinetunePlan) -> list[dict[str, Any]]:
    """As in Table 7, whose warm-up is a fifth of the run."""
    rise, cosine = (s.to_dict() for s in base.param_scheduler)
    return [{**rise, "end": plan.warm_up}, {**cosine, "begin": plan.warm_up}]
