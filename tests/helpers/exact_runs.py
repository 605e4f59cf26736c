"""Tiny runs for the tests of exact resume: train, stop anywhere, go on, compare."""

from __future__ import annotations

import itertools
import os
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS, TRANSFORMS
from mmengine.runner import Runner
from PIL import Image
from tiny import tiny_config

from saim_mm.datasets import LoadImage

RUNS = itertools.count()
FLOAT16 = pytest.param(
    "float16",
    marks=pytest.mark.skipif(
        not hasattr(torch.amp, "GradScaler"),
        reason="torch before 2.3 has neither float16 nor a scaler on a CPU",
    ),
)
SIZE = (8, 12)


@OPTIM_WRAPPERS.register_module(force=True)
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """``AmpOptimWrapper`` with the scaler and the autocast of a CPU."""

    def __init__(self, dtype: str, **options: Any) -> None:
        OptimWrapper.__init__(self, **options)
        self._scale_update_param = None
        # Changes every other step, so that a lost state would show.
        self.loss_scaler = torch.cuda.amp.GradScaler(enabled=False)
        if dtype == "float16":
            self.loss_scaler = torch.amp.GradScaler(
                "cpu", init_scale=256.0, growth_interval=2
            )
        self.dtype = getattr(torch, dtype)

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with (
            OptimWrapper.optim_context(self, model),
            torch.autocast("cpu", dtype=self.dtype),
        ):
            yield


@TRANSFORMS.register_module(force=True)
class CountedLoadImage(LoadImage):
    """Leaves a line in ``$DECODES`` for each image that it decodes."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = os.environ.get("DECODES")
        if path:
            with open(path, "a") as file:
                file.write("x\n")
        return super().transform(results)


@HOOKS.register_module(force=True)
class Ledger(Hook):
    """What each iteration of this rank saw and gave."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        samples = data_batch["data_samples"]
        self.rows.append(
            dict(
                iteration=runner.iter,
                batch_idx=batch_idx,
                loss=outputs["loss"].item(),
                samples=[(int(s.sample_idx), s.sample_idx.epoch) for s in samples],
                pixels=[hash(i.numpy().tobytes()) for i in data_batch["inputs"]],
            )
        )


@HOOKS.register_module(force=True)
class StopAt(Hook):
    """Ends a loop that counts iterations before its time."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        if runner.iter + 1 == self.iteration:
            runner.train_loop.stop_training = True


@HOOKS.register_module(force=True)
class SaveAt(Hook):
    """Saves ``iter_N.pth`` after some iterations, and ``epoch_N.pth`` after epochs.

    Every other iteration it saves as a hook that counts epochs would.
    """

    priority = "VERY_LOW"

    def __init__(self, points: list[str]) -> None:
        self.points = points

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        self._save(runner, f"iter_{runner.iter + 1}", by_epoch=runner.iter % 2 == 0)

    def after_train_epoch(self, runner: Runner) -> None:
        self._save(runner, f"epoch_{runner.epoch + 1}", by_epoch=True)

    def _save(self, runner: Runner, name: str, by_epoch: bool) -> None:
        if name in self.points:
            runner.save_checkpoint(runner.work_dir, f"{name}.pth", by_epoch=by_epoch)


def make_images(root: Path, count: int) -> str:
    """Writes ``count`` small images of noise."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i:03d}.png")
    return str(root)


def run_config(
    images: str,
    work_dir: Path,
    *,
    loop: str = "ExactEpochLoop",
    length: int = 3,
    batch_size: int = 4,
    accumulation: int = 4,
    workers: int = 0,
    precision: str = "float32",
    ranks: int = 1,
    points: Sequence[str] = (),
    model: dict[str, Any] | None = None,
    kind: str = "UnlabeledImages",
) -> Config:
    """A run of a tiny SAIM.

    Args:
        images: Folder of the images.
        work_dir: Where it writes.
        loop: Type of the loop.
        length: Epochs, or iterations.
        batch_size: Images per iteration of all ranks together.
        accumulation: Iterations per optimiser step.
        workers: Workers of the loader.
        precision: ``float32``, ``bfloat16``, or ``float16`` with a scaler.
        ranks: Number of processes.
        points: Checkpoints to write, as for :class:`SaveAt`.
        model: By default a SAIM with drop path.
        kind: Dataset that reads the images.
    """
    by_epoch = loop == "ExactEpochLoop"
    crop = dict(
        type="RandomResizedCrop",
        scale=SIZE,
        crop_ratio_range=(0.3, 1.0),
        backend="pillow",
    )
    wrapper = dict(
        type="OptimWrapper",
        accumulative_counts=accumulation,
        optimizer=dict(type="AdamW", lr=1e-2),
    )
    if precision != "float32":
        wrapper.update(type="CPUAmpOptimWrapper", dtype=precision)
    return Config(
        dict(
            default_scope="mmpretrain",
            experiment_name=f"exact_{next(RUNS)}_{os.getpid()}",
            work_dir=str(work_dir),
            launcher="pytorch" if ranks > 1 else "none",
            model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None),
            model=model or tiny_config(num_layers=2, depth=2, drop_path_rate=0.2),
            data_preprocessor=dict(
                type="SelfSupDataPreprocessor", mean=[128] * 3, std=[64] * 3
            ),
            train_dataloader=dict(
                batch_size=batch_size // ranks,
                num_workers=workers,
                persistent_workers=workers > 0,
                drop_last=by_epoch,
                sampler=dict(type="ExactSampler", round_up=False),
                collate_fn=dict(type="default_collate"),
                dataset=dict(
                    type=kind,
                    data_root=images,
                    pipeline=[
                        dict(type="CountedLoadImage"),
                        crop,
                        dict(type="RandomFlip", prob=0.5),
                        dict(type="PackInputs"),
                    ],
                ),
            ),
            train_cfg={"type": loop, "max_epochs" if by_epoch else "max_iters": length},
            optim_wrapper=wrapper,
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5),
                dict(type="CosineAnnealingLR", by_epoch=False, begin=5, end=18),
                dict(type="MultiStepLR", milestones=[2], by_epoch=True),
            ],
            log_processor=dict(by_epoch=by_epoch),
            default_hooks=dict(
                logger=dict(type="LoggerHook", interval=1),
                checkpoint=dict(type="SaveAt", points=list(points)),
                exact_resume=dict(type="ExactResumeHook"),
                broken_images=dict(type="BrokenImageHook"),
            ),
            custom_hooks=[dict(type="Ledger")],
            visualizer=dict(
                type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]
            ),
            randomness=dict(seed=3, diff_rank_seed=True),
        )
    )


def train(cfg: Config, resume_from: Path | None = None) -> dict[str, Any]:
    """Trains a config, from the start or on from a checkpoint, and says how it ended.

    Returns:
        ``rows`` of the :class:`Ledger`, ``state`` (everything that must be equal, with
        tensors), ``runner``.
    """
    # A resumed run finds the generators in any state but that of the first one.
    torch.manual_seed(random.SystemRandom().getrandbits(32))
    if resume_from is not None:
        cfg.resume, cfg.load_from = True, str(resume_from)
    runner = Runner.from_cfg(cfg)
    runner.logger.setLevel("ERROR")
    runner.train()
    workers = runner.train_dataloader._iterator
    if workers is not None:
        # Left to the garbage collector, each would be waited for five seconds.
        workers._shutdown_workers()
    model = getattr(runner.model, "module", runner.model)
    state = dict(
        model=model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedule=[scheduler.state_dict() for scheduler in runner.param_schedulers],
        losses=runner.message_hub.get_scalar("train/loss").data[0].tolist(),
        generators=(
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state(),
        ),
        progress=(runner.epoch, runner.iter),
    )
    ledger = next(hook for hook in runner.hooks if isinstance(hook, Ledger))
    return dict(rows=ledger.rows, state=state, runner=runner)


def differing_bytes(a: Any, b: Any) -> int:
    """Counts the bytes in which two nested states differ; shapes must agree."""
    if isinstance(a, torch.Tensor):
        a, b = a.detach().numpy(), b.detach().numpy()
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        raw = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
        return int(np.not_equal(*raw).sum())
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return sum(differing_bytes(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        return sum(differing_bytes(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return differing_bytes(np.float64(a).reshape(1), np.float64(b).reshape(1))
    return int(type(a) is not type(b) or a != b)


def on_ranks(
    ranks: int, folder: Path, function: Callable[..., Any], *args: Any
) -> list:
    """Calls ``function(*args)`` in so many processes over gloo; what each returned.

    The processes are forked, as importing the stack costs seconds.
    """
    if ranks == 1:
        return [function(*args)]
    folder.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("fork")
    name = f"{next(RUNS)}"
    processes = [
        context.Process(
            target=_rank, args=(rank, ranks, str(folder), name, function, args)
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        if process.is_alive():
            process.kill()
    results = [
        torch.load(folder / f"{name}.{rank}.pt", weights_only=False)
        for rank in range(ranks)
    ]
    for result in results:
        assert not isinstance(result, str), result
    return results


def _rank(
    rank: int,
    ranks: int,
    folder: str,
    name: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    store = f"file://{folder}/{name}.store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    try:
        result = function(*args)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, f"{folder}/{name}.{rank}.pt")
    if not isinstance(result, str):
        dist.barrier()
    os._exit(0)
