#!/usr/bin/env python
"""Rebuilds a training step that FiniteGuardHook did not make, and looks where it broke.

Exit code 0: the step came out as it was recorded; 1: it did not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, FUNCTIONS, init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import saim_mm  # noqa: F401  (registers the models)
from saim_mm import launch
from saim_mm.datasets import SampleIndex
from saim_mm.reliability.exact_loops import seed_training_step
from saim_mm.weights.files import read_torch
from saim_mm.weights.load_model import build_model


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config of the run, as in its work dir")
    parser.add_argument("record", type=Path, help="work dir/not_finite/iter_*.json")
    launch.add_cfg_options(parser)
    return parser.parse_args()


def build_batch(cfg: Config, samples: list[dict[str, Any]]) -> Any:
    """The batch that the samples were collated to.

    Raises:
        ValueError: If the record does not say which samples they were.
    """
    indices = []
    for sample in samples:
        missing = {"index", "seed", "epoch"} - sample.keys()
        if missing:
            raise ValueError(
                f"the record lacks {sorted(missing)} of {sample}; the run needs "
                "ExactSampler, and PackInputs must keep sample_idx (meta_keys)"
            )
        requested = sample["requested"]
        indices.append(SampleIndex(requested, sample["seed"], sample["epoch"]))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    collate = dict(
        cfg.train_dataloader.get("collate_fn") or dict(type="pseudo_collate")
    )
    return FUNCTIONS.get(collate["type"])([dataset[index] for index in indices])


@contextmanager
def watching(model: nn.Module) -> Iterator[list[str]]:
    """Collects the modules whose output is not finite, in the order they ran."""
    broken: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        if any(t.is_floating_point() and not t.isfinite().all() for t in tensors):
            broken.append(f"{name} ({type(module).__name__})")

    handles = [
        module.register_forward_hook(
            lambda module, _, output, name=name: look(name, module, output)
        )
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield broken
    finally:
        for handle in handles:
            handle.remove()


def same(a: float, b: float) -> bool:
    """Whether two losses are the same number, or both none."""
    return a == b or (math.isnan(a) and math.isnan(b))


def replay(cfg: Config, record: dict[str, Any], folder: Path) -> bool:
    """Computes losses and gradients of the step, and prints what is found."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    launch.fit_to_machine(cfg)
    model = build_model(cfg)
    if record["weights"] is None:
        raise ValueError("this record has no weights; use an earlier one of the run")
    model.load_state_dict(read_torch(folder / record["weights"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    as_recorded = True
    steps = zip(record["iterations"], record["samples"], record["losses"], strict=True)
    for iteration, samples, recorded in steps:
        batch = build_batch(cfg, samples)
        seed_training_step(record["seed"], record["rank"], iteration)
        with watching(model) as broken, wrapper.optim_context(model):
            data = model.data_preprocessor(batch, True)
            losses = model(**data, mode="loss")
        loss, _ = model.parse_losses(losses)
        (loss * record["loss_scale"] / len(record["iterations"])).backward()
        as_recorded &= same(loss.item(), recorded)
        print(f"iteration {iteration + 1}: loss {loss.item()!r}, recorded {recorded!r}")
        if broken:
            print(f"  first output that is not finite: {broken[0]}")
        for sample in samples:
            print(f"  {sample.get('img_path', sample['index'])}")
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    print(f"gradients that are not finite: {len(names)}")
    for name in names[:10]:
        print(f"  {name}")
    return as_recorded


def main() -> int:
    """Replays a record; returns the exit code."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    record = json.loads(args.record.read_text())
    later = record["weights_after_iteration"] - record["iterations"][-1]
    if later:
        print(f"The weights are those of {later} iterations later.")
    as_recorded = replay(cfg, record, args.record.parent)
    print("The step is as it was recorded." if as_recorded else "Another loss.")
    return int(not as_recorded)


if __name__ == "__main__":
    sys.exit(main())
