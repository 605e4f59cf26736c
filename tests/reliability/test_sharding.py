"""Sharded runs are those of data parallelism, and their checkpoints anybody's."""

from __future__ import annotations

import copy
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_runs import differing_bytes, make_images, on_ranks, run_config, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from saved_runs import fail_to_write
from tiny import relative, tiny_config
from torch import Tensor, nn

from saim_mm.models.layers import transformer_layers
from saim_mm.reliability import FullyShardedModel, sharding
from saim_mm.reliability.finite_guard import FiniteGuard, all_finite
from saim_mm.reliability.preemption_hook import EXIT_NOT_SAVED, EXIT_PREEMPTED
from saim_mm.reliability.sharding import is_sharded, own_part, whole_state
from saim_mm.weights import CheckpointError

RANKS = 2
needs_fully_shard = pytest.mark.skipif(
    sharding.fully_shard is None, reason="fully_shard came with torch 2.6"
)
Figures = dict[str, Any]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_images(tmp_path_factory.mktemp("images"), 18)


def config(
    images: str, work_dir: Path, sharded: bool, model: Figures | None = None
) -> Config:
    """Two epochs of four iterations, a step every other; checkpoints at 3, 4 and 8."""
    cfg = run_config(
        images, work_dir, length=2, accumulation=2, ranks=RANKS, model=model
    )
    cfg.default_hooks.finite_guard = dict(type="FiniteGuardHook")
    cfg.default_hooks.checkpoint = dict(
        type="SafeCheckpointHook", by_epoch=False, interval=3, save_last=True
    )
    if sharded:
        cfg.model_wrapper_cfg = dict(type="FullyShardedModel")
        cfg.default_hooks.sharding = dict(type="ShardingHook")
    return cfg


def outcome(cfg: Config, resume_from: Path | None = None) -> Figures:
    """What a run came to, whole, and which share of it this process had."""
    result = train(copy.deepcopy(cfg), resume_from)
    runner, state = result["runner"], result["state"]
    parameters = list(runner.model.parameters())
    own = sum(own_part(parameter).numel() for parameter in parameters)
    return dict(
        rows=result["rows"],
        losses=state["losses"],
        model=whole_state(state["model"]),
        optimizer=whole_state(state["optimizer"]),
        sharded=all(is_sharded(parameter) for parameter in parameters),
        share=own / sum(parameter.numel() for parameter in parameters),
        layers=[type(layer).__name__ for layer in transformer_layers(runner.model)],
    )


@pytest.fixture(scope="module")
def runs(images: str, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Figures]:
    """Sharded or not -> the first rank's outcome, and its work dir."""
    found = {}
    for sharded in (False, True):
        folder = tmp_path_factory.mktemp("run")
        ranks = on_ranks(RANKS, folder, outcome, config(images, folder, sharded))
        found[sharded] = dict(ranks[0], ranks=ranks, folder=folder)
    return found


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Weights are equal but for rounding.

    Attention does not depend on the bias of the keys: its gradients are nothing but
    rounding, of which AdamW makes steps as large as any.
    """
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        pairs = [(ours[name], weight)]
        if name.endswith("qkv.bias"):
            pairs = list(zip(ours[name].chunk(3), weight.chunk(3), strict=True))[::2]
        assert all(relative(a, b) < 1e-4 for a, b in pairs), name


@needs_fully_shard
def test_each_rank_keeps_its_part(runs: dict[bool, Figures]) -> None:
    shares = [rank["share"] for rank in runs[True]["ranks"]]
    assert all(rank["sharded"] for rank in runs[True]["ranks"])
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.55  # rows are not cut, so halves are nearly equal
    assert not any(rank["sharded"] for rank in runs[False]["ranks"])
    # Brought together one at a time: fully_shard makes classes of its own.
    assert runs[True]["layers"] == ["FSDPAttentionBlock"] * 4


@needs_fully_shard
def test_losses_and_weights_are_those_of_data_parallelism(
    runs: dict[bool, Figures],
) -> None:
    ours, theirs = runs[True], runs[False]
    assert len(ours["losses"]) == 8
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
    assert_close(ours["model"], theirs["model"])


@needs_fully_shard
@pytest.mark.parametrize(
    "options", [dict(tied_decoder=True), dict(order="raster", depth=0)], ids=str
)
def test_other_models(images: str, tmp_path: Path, options: Figures) -> None:
    """The two streams in the same layers, and a single one."""
    model = tiny_config(num_layers=2, **{"depth": 2, **options})
    ours, theirs = (
        on_ranks(
            RANKS, tmp_path, outcome,
            config(images, tmp_path / str(sharded), sharded, model),
        )[0]
        for sharded in (True, False)
    )  # fmt: skip
    assert ours["sharded"]
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-5)


@needs_fully_shard
def test_what_modules_say_of_themselves_stays() -> None:
    """As the grid of the positions, which :class:`SAIMViT` notes."""
    state = nn.BatchNorm1d(2).state_dict()
    whole = whole_state(dict(model=state, lr=[1.0]))
    assert whole["model"]._metadata == state._metadata
    assert whole["model"].keys() == state.keys() and whole["lr"] == [1.0]


@needs_fully_shard
def test_checkpoints_are_whole_and_plain(runs: dict[bool, Figures]) -> None:
    ours, theirs = (
        torch.load(runs[sharded]["folder"] / "iter_8.pth", weights_only=True)
        for sharded in (True, False)
    )
    assert ours.keys() == theirs.keys()
    assert differing_bytes(ours["state_dict"], runs[True]["model"]) == 0
    state = ours["optimizer"]["state"]
    assert differing_bytes(state, runs[True]["optimizer"]["state"]) == 0
    assert shapes(ours["optimizer"]) == shapes(theirs["optimizer"])


def shapes(tree: Any) -> Any:
    """The same with the types and shapes of tensors in their place."""
    if isinstance(tree, dict):
        return {key: shapes(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [shapes(value) for value in tree]
    return (type(tree), tree.shape) if isinstance(tree, Tensor) else tree


@needs_fully_shard
def test_resume_is_exact(
    images: str, runs: dict[bool, Figures], tmp_path: Path
) -> None:
    """In mid-epoch and mid-accumulation."""
    checkpoint = runs[True]["folder"] / "iter_3.pth"
    cfg = config(images, tmp_path / "resumed", True)
    resumed = on_ranks(RANKS, tmp_path, outcome, cfg, checkpoint)[0]
    assert [row["iteration"] for row in resumed["rows"]] == [3, 4, 5, 6, 7]
    assert resumed["rows"] == runs[True]["rows"][3:]
    for part in ("model", "optimizer"):
        assert differing_bytes(resumed[part], runs[True][part]) == 0


@needs_fully_shard
@pytest.mark.parametrize("sharded", [True, False])
def test_a_run_goes_on_in_the_other_way(
    images: str, runs: dict[bool, Figures], tmp_path: Path, sharded: bool
) -> None:
    checkpoint = runs[not sharded]["folder"] / "iter_6.pth"
    cfg = config(images, tmp_path / "resumed", sharded)
    resumed = on_ranks(RANKS, tmp_path, outcome, cfg, checkpoint)[0]
    assert resumed["sharded"] is sharded
    assert resumed["losses"] == pytest.approx(runs[sharded]["losses"], rel=1e-5)
    assert_close(resumed["model"], runs[sharded]["model"])


def one_bad_part() -> list[Any]:
    """Gradients of which one rank's part, then none, is not finite; a guarded step."""
    torch.manual_seed(0)
    model = FullyShardedModel(nn.Linear(4, 6))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.shard(wrapper.optimizer)
    guard = FiniteGuard(wrapper)
    found = []
    for bad in (True, False):
        model(torch.ones(2, 4)).sum().backward()
        if bad and torch.distributed.get_rank() == 1:
            own_part(model.module.weight.grad)[0, 0] = torch.inf
        before = own_part(model.module.weight).clone()
        found.append(bool(all_finite(wrapper.optimizer)))
        wrapper.step()
        found.append(torch.equal(before, own_part(model.module.weight)))
        wrapper.zero_grad()
    guard.remove()
    return found


@needs_fully_shard
def test_no_rank_steps_on_a_part_that_is_not_finite(tmp_path: Path) -> None:
    for rank in on_ranks(RANKS, tmp_path, one_bad_part):
        assert rank == [False, True, True, False]


def refused(cfg: Config) -> list[str]:
    with pytest.raises(ValueError) as error:
        train(cfg)
    return [str(error.value)]


@HOOKS.register_module(force=True)
class BreakLosses(Hook):
    """Makes the losses of the second rank infinite from an iteration on."""

    def __init__(self, first: int) -> None:
        self.first = first

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if runner.iter == self.first and torch.distributed.get_rank() == 1:
            head = runner.model.module.head
            compute = head.loss
            head.loss = lambda *args: compute(*args) + torch.inf


@needs_fully_shard
def test_goes_back_to_a_checkpoint(images: str, tmp_path: Path) -> None:
    """The only file is of iteration 5; the step at 6 is made, that at 8 is not."""
    cfg = config(images, tmp_path, True)
    cfg.default_hooks.finite_guard.patience = 1
    cfg.default_hooks.checkpoint.update(interval=5, save_last=False)
    cfg.custom_hooks.append(dict(type="BreakLosses", first=6))
    ended = on_ranks(RANKS, tmp_path, outcome, cfg)[0]
    saved = torch.load(tmp_path / "iter_5.pth", weights_only=True)
    noted = torch.load(
        tmp_path / "not_finite" / "iter_8_weights.pth", weights_only=True
    )
    assert differing_bytes(ended["model"], saved["state_dict"]) == 0
    state = saved["optimizer"]["state"]
    assert differing_bytes(ended["optimizer"]["state"], state) == 0
    assert shapes(noted) == shapes(saved["state_dict"])
    assert differing_bytes(noted, saved["state_dict"]) > 0
    reports = sorted(path.name for path in (tmp_path / "not_finite").glob("*.json"))
    assert reports == ["iter_8_rank_0.json", "iter_8_rank_1.json"]


@HOOKS.register_module(force=True)
class SignalAt(Hook):
    """The second rank gets a signal in an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        if runner.iter == self.iteration and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def end_with_full_disk(cfg: Config, fails: set[int]) -> Any:
    """How a run ends of which some writes fail, on the first rank as on any disk."""
    with pytest.MonkeyPatch.context() as patch:
        fail_to_write(patch, fails, errno.ENOSPC)
        try:
            train(cfg)
        except (OSError, SystemExit) as end:
            return getattr(end, "code", None) or getattr(end, "errno", None)
    return 0


@pytest.mark.parametrize(
    "sharded", [pytest.param(True, marks=needs_fully_shard), False]
)
@pytest.mark.parametrize(
    ("fails", "stop", "end"),
    [
        ({2}, False, EXIT_PREEMPTED),  # the same file, once more, for the signal
        ({2, 3}, False, EXIT_NOT_SAVED),
        ({2}, True, errno.ENOSPC),
    ],
)
def test_all_ranks_learn_that_a_save_failed(
    images: str, tmp_path: Path, sharded: bool, fails: set[int], stop: bool, end: int
) -> None:
    """A save fails at iteration 6; a signal of iteration 3 ends the run there."""
    cfg = config(images, tmp_path, sharded)
    cfg.default_hooks.checkpoint.on_write_error = "stop" if stop else "continue"
    cfg.default_hooks.preemption = dict(type="PreemptionHook")
    cfg.custom_hooks.append(dict(type="SignalAt", iteration=2))
    ends = on_ranks(RANKS, tmp_path, end_with_full_disk, cfg, fails)
    assert ends == [end, end]
    left = {path.name for path in tmp_path.glob("*.pth")}
    assert left == {"iter_3.pth"} | ({"iter_6.pth"} if end == EXIT_PREEMPTED else set())


@HOOKS.register_module(force=True)
class Unplain(Hook):
    """Puts into a checkpoint what cannot be stored; only the first rank sees it."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint["extra"] = object()


def refused_checkpoint(cfg: Config) -> list[str]:
    with pytest.raises(CheckpointError) as error:
        train(cfg)
    return [str(error.value)]


def test_all_ranks_end_where_a_checkpoint_is_refused(
    images: str, tmp_path: Path
) -> None:
    cfg = config(images, tmp_path, False)
    cfg.custom_hooks.append(dict(type="Unplain"))
    (first,), (second,) = on_ranks(RANKS, tmp_path, refused_checkpoint, cfg)
    assert first == second and first.startswith("extra: a builtins.object")


@needs_fully_shard
def test_another_wrapper_is_refused(images: str, tmp_path: Path) -> None:
    cfg = config(images, tmp_path / "run", False)
    cfg.default_hooks.sharding = dict(type="ShardingHook")
    for (message,) in on_ranks(RANKS, tmp_path, refused, cfg):
        assert "shards no MMDistributedDataParallel" in message
        assert "set model_wrapper_cfg=dict(type='FullyShardedModel')" in message


@needs_fully_shard
def test_training_without_the_hook_is_refused(images: str, tmp_path: Path) -> None:
    """Else each process would train a model of its own."""
    cfg = config(images, tmp_path / "run", True)
    del cfg.default_hooks.sharding
    for (message,) in on_ranks(RANKS, tmp_path, refused, cfg):
        assert "add default_hooks=dict(sharding=dict(type='ShardingHook'))" in message


@needs_fully_shard
def test_hooks_that_run_the_model_by_themselves_are_refused(
    images: str, tmp_path: Path
) -> None:
    cfg = config(images, tmp_path / "run", True)
    cfg.custom_hooks.append(dict(type="PictureHook", images=images))
    for (message,) in on_ranks(RANKS, tmp_path, refused, cfg):
        assert "PictureHook runs the model on one process" in message


@needs_fully_shard
def test_one_process_trains_as_ever(images: str, tmp_path: Path) -> None:
    cfg = config(images, tmp_path, True)
    cfg.launcher, cfg.train_dataloader.batch_size = "none", 4
    found = outcome(cfg)
    assert not found["sharded"] and len(found["losses"]) == 8


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "fully_shard", None)
    with pytest.raises(ValueError, match=r"needs torch 2\.6.*install a later one"):
        FullyShardedModel(nn.Linear(2, 2))
