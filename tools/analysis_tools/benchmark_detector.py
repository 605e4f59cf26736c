#!/usr/bin/env python
"""Times training steps of a detector, and measures their memory, beside variants.

Each variant lives in a process of its own, so that none profits from what another one
allocated, and all see the same made-up images of the config's size. They step in turn.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _benchmark import circumstances
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import turn_on_activation_checkpointing

from saim_mm import launch

#: Options of ``SAIMViT`` that a plain ViT does not have.
_DENSE_OPTIONS = ("window_size", "global_attn_indexes", "use_rel_pos_bias")
_INSTANCES = 10


def without_bias(model: ConfigDict) -> None:
    """Windows, but no relative position bias."""
    model.backbone.use_rel_pos_bias = False


def as_vitdet(model: ConfigDict) -> None:
    """Windows, a pyramid from the last layer alone, and LayerNorm in the heads."""
    norm = dict(type="mmpretrain.LN2d", eps=1e-6)
    rescaling, fpn = model.neck
    model.neck = dict(
        type="SimpleFeaturePyramid",
        embed_dims=rescaling.embed_dims,
        out_channels=fpn.out_channels,
        norm_cfg=norm,
    )
    model.backbone.update(use_rel_pos_bias=False, out_indices=[-1])
    model.roi_head.bbox_head.norm_cfg = model.roi_head.mask_head.norm_cfg = norm


def plain(model: ConfigDict) -> None:
    """The ViT of mmpretrain: every layer attends globally."""
    model.backbone.type = "mmpretrain.VisionTransformer"
    for option in _DENSE_OPTIONS:
        model.backbone.pop(option, None)


VARIANTS: dict[str, Callable[[ConfigDict], None]] = {
    "as configured": lambda model: None,
    "without relative position bias": without_bias,
    "as in ViTDet": as_vitdet,
    "plain global ViT": plain,
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "config", help="config of a detector with SAIMViT, FourLayerPyramid and FPN"
    )
    parser.add_argument("--out", help="write the figures to this .json file")
    parser.add_argument("--batch-size", type=int, default=1, help="images per step")
    parser.add_argument("--steps", type=int, default=10, help="steps that are timed")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="override settings of the config",
    )
    args = parser.parse_args()
    if min(args.batch_size, args.steps) < 1 or args.warm_up < 0:
        parser.error("--batch-size and --steps must be positive, --warm-up at least 0")
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config, bent to the machine and from scratch."""
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.model.backbone.init_cfg = None
    # It names parameters that some variants lack, and costs no time.
    cfg.optim_wrapper.pop("paramwise_cfg", None)
    launch.fit_to_machine(cfg)
    return cfg


class Trial:
    """A variant that trains step by step; it lives in a process of its own."""

    #: The one of this process.
    current: Trial

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # It logs a line for each parameter.
        MMLogger.get_current_instance().setLevel(logging.WARNING)
        cfg = load_config(args)
        VARIANTS[name](cfg.model)
        init_default_scope(cfg.default_scope)
        from mmdet.registry import MODELS

        torch.manual_seed(0)
        self.model = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(self.device).train()
        if cfg.get("activation_checkpointing"):
            turn_on_activation_checkpointing(self.model, cfg.activation_checkpointing)
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        size = cfg.model.data_preprocessor.pad_size_divisor
        self.data = made_up_batch(args.batch_size, size)

    def step(self) -> float:
        """Trains a step; returns its seconds."""
        start = time.perf_counter()
        self.model.train_step(self.data, self.optim_wrapper)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def prepare(name: str, args: argparse.Namespace) -> float:
    """Builds the trial of this process; returns its MiB."""
    Trial.current = Trial(name, args)
    return memory_mib(Trial.current.device)


def step() -> tuple[float, float]:
    """Seconds of a step, and the most MiB so far."""
    trial = Trial.current
    return trial.step(), memory_mib(trial.device)


def measure_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps all variants in turn, so that a busy machine hits them alike."""
    with ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        pools = {name: stack.enter_context(context.Pool(1)) for name in VARIANTS}
        built = {name: p.apply(prepare, (name, args)) for name, p in pools.items()}
        rounds = [
            {name: pool.apply(step) for name, pool in pools.items()}
            for _ in range(args.warm_up + args.steps)
        ]
    results = []
    for name in VARIANTS:
        seconds = [steps[name][0] for steps in rounds[args.warm_up :]]
        results.append(
            dict(
                variant=name,
                seconds_per_step=round(statistics.median(seconds), 4),
                fastest=round(min(seconds), 4),
                slowest=round(max(seconds), 4),
                peak_mib=round(rounds[-1][name][1]),
                built_mib=round(built[name]),
            )
        )
    return results


def memory_mib(device: torch.device) -> float:
    """The most memory so far: on the GPU by tensors, on the CPU by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def made_up_batch(batch_size: int, size: int) -> dict[str, list]:
    """Images of noise with boxes, as the training pipeline would pack them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(0)
    inputs, samples = [], []
    for _ in range(batch_size):
        corners = rng.uniform(0, size / 2, (_INSTANCES, 2))
        extents = rng.uniform(size / 32, size / 2, (_INSTANCES, 2))
        masks = np.zeros((_INSTANCES, size, size), dtype=np.uint8)
        for mask, (x, y), (w, h) in zip(masks, corners, extents, strict=True):
            mask[int(y) : int(y + h), int(x) : int(x + w)] = 1
        boxes = np.concatenate([corners, corners + extents], axis=1)
        sample = DetDataSample(
            gt_instances=InstanceData(
                bboxes=torch.from_numpy(boxes).float(),
                labels=torch.zeros(_INSTANCES, dtype=torch.long),
                masks=BitmapMasks(masks, size, size),
            ),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        )
        sample.set_metainfo(dict(img_shape=(size, size), ori_shape=(size, size)))
        samples.append(sample)
        pixels = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
        inputs.append(torch.from_numpy(pixels))
    return dict(inputs=inputs, data_samples=samples)


def main() -> None:
    """Measures every variant, prints and records."""
    args = parse_args()
    record = dict(
        **circumstances(["torch", "mmengine", "mmcv", "mmdet", "mmpretrain"]),
        image_size=load_config(args).model.data_preprocessor.pad_size_divisor,
        batch_size=args.batch_size,
        memory="most allocated by tensors"
        if torch.cuda.is_available()
        else "peak resident set",
        timed_steps=args.steps,
        results=measure_all(args),
    )
    for result in record["results"]:
        print(
            f"{result['variant']:32s}{result['seconds_per_step']:9.3f} s/step"
            f"{result['peak_mib']:8d} MiB peak ({result['built_mib']} when built)"
        )
    if args.out:
        Path(args.out).write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
