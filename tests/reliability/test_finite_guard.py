"""No rank steps on what is not finite; it is written down and can be rebuilt."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exact_runs import (
    FLOAT16,
    differing_bytes,
    make_images,
    on_ranks,
    run_config,
    train,
)
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from tiny import tiny_config
from torch import nn

from saim_mm.models import SAIM
from saim_mm.reliability import finite_guard_hook
from saim_mm.reliability.finite_guard import (
    FiniteGuard,
    all_finite,
    poison_unless_finite,
)
from saim_mm.reliability.finite_guard_hook import FiniteGuardHook, NotFiniteError
from saim_mm.reliability.replay import replay
from saim_mm.weights import resume
from saim_mm.weights.resume import ResumeCandidate, find_newest, why_not_finite

ROOT = Path(__file__).parents[2]


@MODELS.register_module(force=True)
class FragileSAIM(SAIM):
    """Its loss is infinite for one sample in one epoch."""

    def loss(self, inputs: Any, data_samples: Any = None, order: Any = None) -> Any:
        losses = super().loss(inputs, data_samples, order)
        if any(s.sample_idx == 7 and s.sample_idx.epoch == 1 for s in data_samples):
            losses["loss"] = losses["loss"] * math.inf
        return losses


@HOOKS.register_module(force=True)
class Poison(Hook):
    """Breaks loss, gradients or a weight of one rank at some iterations.

    It keeps the weights after every iteration.
    """

    def __init__(self, where: str, at: list[int], rank: int = 0) -> None:
        self.where, self.at, self.rank = where, at, rank
        self.weights: list[torch.Tensor] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None):
        if runner.iter not in self.at or get_rank() != self.rank:
            return
        model = getattr(runner.model, "module", runner.model)
        weight = model.neck.layers[0].attn.proj.weight
        if self.where == "gradient":
            handle = weight.register_hook(lambda g: (handle.remove(), g * math.nan)[1])
        elif self.where == "loss":
            compute = model.loss

            def loss(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
                del model.loss
                return {"loss": compute(*args, **options)["loss"] + math.inf}

            model.loss = loss
        else:
            with torch.no_grad():
                weight[0, 0] = math.nan

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        parameters = [p.detach() for p in runner.model.parameters()]
        self.weights.append(nn.utils.parameters_to_vector(parameters).clone())


def poisoned_run(images: str, work_dir: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a run gave; ``where``, ``at``, ``rank`` and the guard's options apart."""
    torch.set_num_threads(1)
    options = {"accumulation": 1, "length": 1, **options}
    poison = {k: options.pop(k) for k in ("where", "at", "rank") if k in options}
    guard = options.pop("guard", {})
    hooks = {k: options.pop(k) for k in ("average", "checkpoint") if k in options}
    cfg = run_config(images, Path(work_dir), **options)
    cfg.custom_hooks += [hooks["average"]] if "average" in hooks else []
    if "checkpoint" in hooks:
        cfg.default_hooks.checkpoint = dict(
            type="SafeCheckpointHook", interval=1, by_epoch=False, **hooks["checkpoint"]
        )
    if guard is not None:
        cfg.default_hooks.finite_guard = dict(type="FiniteGuardHook", **guard)
    if poison:
        cfg.custom_hooks.append(dict(type="Poison", **poison))
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    cfg.dump(str(Path(work_dir, "config.py")))
    run = train(cfg)
    runner = run.pop("runner")
    for hook in runner.hooks:
        if isinstance(hook, Poison):
            run["weights"] = hook.weights
        if isinstance(hook, EMAHook):
            run["averaged"] = hook.ema_model.module.state_dict()
        if isinstance(hook, FiniteGuardHook):
            run["counts"] = (hook.skipped, hook.in_a_row, hook.rolled_back)
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_images(tmp_path_factory.mktemp("images"), 26)  # 6 iterations


def stepped(run: dict[str, Any]) -> list[bool]:
    """Of each iteration but the first, whether it changed the weights."""
    pairs = zip(run["weights"], run["weights"][1:], strict=False)
    return [not torch.equal(a, b) for a, b in pairs]


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["float32", FLOAT16])
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_rank_steps(
    where: str, ranks: int, precision: str, images: str, tmp_path: Path
) -> None:
    """The second rank alone has the bad number, and the first does not step either."""
    options = dict(
        where=where, at=[3], rank=ranks - 1, ranks=ranks, precision=precision
    )
    runs = on_ranks(ranks, tmp_path, poisoned_run, images, f"{tmp_path}/run", options)
    for run in runs:
        assert stepped(run) == [True, True, False, True, True]
        assert run["counts"] == (1, 0, False)
        assert differing_bytes(run["state"]["model"], runs[0]["state"]["model"]) == 0
        assert all(t.isfinite().all() for t in run["state"]["model"].values())
    for rank in range(ranks):
        record = json.loads(
            (tmp_path / f"run/not_finite/iter_4_rank_{rank}.json").read_text()
        )
        assert record["iterations"] == [3]
        rows = runs[rank]["rows"][3]["samples"]
        assert [(s["index"], s["epoch"]) for s in record["samples"][0]] == rows
        bad = where == "loss" and rank == ranks - 1
        assert math.isfinite(record["losses"][0]) is not bad
    assert (tmp_path / "run/not_finite/iter_4_weights.pth").exists()


def test_a_whole_accumulation_is_left_out(images: str, tmp_path: Path) -> None:
    options = dict(where="loss", at=[2], accumulation=2)
    run = poisoned_run(images, str(tmp_path), options)
    assert stepped(run) == [True, False, False, False, True]
    record = json.loads((tmp_path / "not_finite/iter_4_rank_0.json").read_text())
    assert record["iterations"] == [2, 3]
    assert [math.isfinite(loss) for loss in record["losses"]] == [False, True]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", FLOAT16])
def test_a_good_run_is_the_same_with_and_without(
    precision: str, images: str, tmp_path: Path
) -> None:
    guarded, free = (
        poisoned_run(images, f"{tmp_path}/{guard}", dict(guard=g, precision=precision))
        for guard, g in (("guarded", {}), ("free", None))
    )
    assert differing_bytes(guarded["state"], free["state"]) == 0
    assert guarded["counts"] == (0, 0, False)
    assert not (tmp_path / "guarded/not_finite").exists()


def test_goes_back_to_the_checkpoint_once(images: str, tmp_path: Path) -> None:
    """A weight that is not a number ends every step, until the weights go back."""
    options = dict(where="weight", at=[3], guard=dict(patience=2), points=["iter_2"])
    run = poisoned_run(images, str(tmp_path), options)
    assert run["counts"] == (2, 0, True)
    # Iterations 3 and 4 have no step; at the end of 4 the weights are those of 1.
    assert torch.equal(run["weights"][4], run["weights"][1])
    assert run["weights"][5].isfinite().all()
    assert not torch.equal(run["weights"][5], run["weights"][4])
    saved = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert len(saved["finite_guard"].pop("run")) == 32
    assert saved["finite_guard"] == dict(skipped=0, in_a_row=0, rolled_back=False)


def test_going_back_leaves_the_rates_where_they_are(
    images: str, tmp_path: Path
) -> None:
    """They rise until the fifth iteration, of twelve; the file is of the second."""
    options = dict(where="gradient", at=[2, 3], guard=dict(patience=2), length=2)
    back = poisoned_run(images, f"{tmp_path}/a", dict(points=["iter_2"], **options))
    assert back["counts"] == (2, 0, True)
    straight = poisoned_run(images, f"{tmp_path}/b", dict(length=2))
    groups = [run["state"]["optimizer"]["param_groups"] for run in (back, straight)]
    assert differing_bytes(*groups) == 0
    saved = torch.load(tmp_path / "a/iter_2.pth", weights_only=False)["optimizer"]
    assert saved["param_groups"][0]["lr"] != groups[0][0]["lr"]
    # The moments were the file's: two steps less.
    steps = [run["state"]["optimizer"]["state"][0]["step"] for run in (back, straight)]
    assert [int(step) for step in steps] == [10, 12]


def test_what_comes_and_goes_does_not_fill_the_disk(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_guard_hook, "_RECORDED", 2)
    options = dict(where="gradient", at=[0, 2, 4, 6, 8], length=2)
    run = poisoned_run(images, str(tmp_path), options)
    assert run["counts"] == (5, 0, False)
    records = sorted(path.name for path in (tmp_path / "not_finite").glob("*.json"))
    assert records == ["iter_1_rank_0.json", "iter_3_rank_0.json"]


@pytest.mark.slow
def test_all_ranks_go_back_to_what_the_first_one_finds(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network disk the second one may not see the checkpoint yet."""
    find = resume.find_newest
    monkeypatch.setattr(
        resume,
        "find_newest",
        lambda *args: find(*args) if get_rank() == 0 else ResumeCandidate(),
    )
    options = dict(where="gradient", at=[2, 3], guard=dict(patience=2), ranks=2)
    options["points"] = ["iter_2"]
    runs = on_ranks(2, tmp_path, poisoned_run, images, f"{tmp_path}/run", options)
    for run in runs:
        assert run["counts"] == (2, 0, True)
        assert torch.equal(run["weights"][3], runs[0]["weights"][1])
        assert torch.equal(run["weights"][5], runs[0]["weights"][5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(at=[2, 3, 4, 5], points=["iter_2"]), "checkpoint did not help"),
        (dict(at=[2, 3]), "no checkpoint to go back to"),
    ],
    ids=["twice", "nothing saved"],
)
def test_ends_where_going_back_does_not_help(
    options: dict[str, Any], message: str, images: str, tmp_path: Path
) -> None:
    options = dict(where="gradient", guard=dict(patience=2), **options)
    with pytest.raises(NotFiniteError, match=message) as error:
        poisoned_run(images, str(tmp_path), options)
    assert "2 steps in a row" in str(error.value)
    assert str(tmp_path / "not_finite") in str(error.value)


@pytest.mark.parametrize(
    "kind", ["ExponentialMovingAverage", "StochasticWeightAverage"]
)
def test_goes_back_to_the_weights_and_not_to_their_average(
    kind: str, images: str, tmp_path: Path
) -> None:
    """A checkpoint has the averaged ones in the model's place."""
    options = dict(where="gradient", at=[3, 4, 5], guard=dict(patience=3))
    average = dict(type="EMAHook", ema_type=kind)
    run = poisoned_run(
        images, str(tmp_path), dict(average=average, points=["iter_2"], **options)
    )
    assert run["counts"] == (3, 0, True)
    assert torch.equal(run["weights"][5], run["weights"][1])
    assert not torch.equal(run["weights"][4], run["weights"][1])
    content = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    saved, raw = content["state_dict"], content["ema_state_dict"]
    name = "neck.layers.0.attn.proj.weight"
    assert torch.equal(run["state"]["model"][name], raw[f"module.{name}"])
    assert not differing_bytes(
        run["state"]["optimizer"]["state"], content["optimizer"]["state"]
    )
    assert not torch.equal(saved[name], raw[f"module.{name}"])


def test_no_file_of_a_streak_replaces_a_good_one(images: str, tmp_path: Path) -> None:
    options = dict(where="weight", at=[2], guard=dict(patience=3))
    options["checkpoint"] = dict(max_keep_ckpts=1)
    run = poisoned_run(images, str(tmp_path), options)
    assert run["counts"] == (3, 0, True)
    assert run["weights"][-1].isfinite().all()
    # The first good one after the streak takes the place of them all.
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_6.pth"}


@pytest.mark.parametrize("keep", [1, 2])
def test_what_resumes_is_finite_though_a_run_ended_in_a_streak(
    keep: int, images: str, tmp_path: Path
) -> None:
    options = dict(where="weight", at=[3], checkpoint=dict(max_keep_ckpts=keep))
    run = poisoned_run(images, str(tmp_path), options)
    assert not run["weights"][-1].isfinite().all()
    left = {path.name for path in tmp_path.glob("*.pth")}
    assert left == {f"iter_{n}.pth" for n in range(4 - keep, 7)}
    assert find_newest(tmp_path).path == tmp_path / "iter_6.pth"
    model = MODELS.build(tiny_config(num_layers=2, depth=2))
    newest = find_newest(tmp_path, lambda content: why_not_finite(content, model))
    assert newest.path == tmp_path / "iter_3.pth"
    assert "iter_6.pth" in newest.skipped[0] and "is not finite" in newest.skipped[0]


@pytest.mark.parametrize("change", ["run", "older", "shape", "infinite"])
def test_does_not_go_back_to_what_is_not_its_own(
    change: str, images: str, tmp_path: Path
) -> None:
    first = dict(checkpoint=dict(max_keep_ckpts=1))
    poisoned_run(images, str(tmp_path / "first"), first)
    content = torch.load(tmp_path / "first/iter_6.pth", weights_only=True)
    guard = FiniteGuardHook()
    guard._run = content["finite_guard"]["run"]
    model = MODELS.build(tiny_config(num_layers=2, depth=2))
    runner: Any = SimpleNamespace(model=model)
    assert guard._why_not_back_to(content, runner) is None
    name = "neck.layers.0.attn.proj.weight"
    if change == "run":
        guard._run = "another"
    elif change == "older":
        del content["finite_guard"]
    elif change == "shape":
        content["state_dict"][name] = content["state_dict"][name][:1]
    else:
        content["state_dict"][name][0, 0] = math.inf
    assert guard._why_not_back_to(content, runner) is not None


def replay_step(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    """Runs the tool in this process; returns its exit code."""
    path = ROOT / "tools/analysis_tools/replay_step.py"
    monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_step_can_be_rebuilt(
    accumulation: int, images: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    model = tiny_config(num_layers=2, depth=2, drop_path_rate=0.2)
    model["type"] = "FragileSAIM"
    options = dict(model=model, length=2, accumulation=accumulation)
    run = poisoned_run(images, str(tmp_path), options)
    assert run["counts"][0] == 1
    (record,) = (tmp_path / "not_finite").glob("iter_*_rank_0.json")
    arguments = tmp_path / "config.py", record
    assert replay_step(monkeypatch, *arguments) == 0
    out = capsys.readouterr().out
    losses = json.loads(record.read_text())["losses"]
    assert losses.count(math.inf) == 1
    for loss in losses:
        # Bit by bit: the same crops, orders, drop path and weights.
        assert f"loss {loss!r}, recorded {loss!r}" in out
    assert "007.png" in out

    changed = json.loads(record.read_text())
    changed["seed"] += 1  # another drop path
    record.write_text(json.dumps(changed))
    assert replay_step(monkeypatch, *arguments) == (accumulation > 1)

    wrong = tmp_path / "wrong.json"
    for content, why in (
        ("{", "is no record of a step: Exp"),
        ("[]", "lacks ['iterat"),
    ):
        wrong.write_text(content)
        assert replay_step(monkeypatch, arguments[0], wrong) == 1
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith(f"error: {wrong} is no record") and why in line
    wrong.unlink()
    assert replay_step(monkeypatch, arguments[0], wrong) == 1
    assert f"error: {wrong}: No such file" in capsys.readouterr().err

    changed["weights"] = None
    cfg = Config.fromfile(tmp_path / "config.py")
    with pytest.raises(ValueError, match="use an earlier one"):
        replay(cfg, changed, record.parent)
    changed["weights"] = json.loads(record.read_text())["weights"]
    del changed["samples"][0][0]["seed"]
    with pytest.raises(ValueError, match=r"lacks \['seed'\].*needs ExactSampler"):
        replay(cfg, changed, record.parent)


def test_all_finite_is_not_fooled_by_large_numbers() -> None:
    layer = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert all_finite(optimizer)  # no gradients yet
    layer.weight.grad = torch.full((4, 4), 1e18)
    layer.bias.grad = torch.zeros(4)
    assert all_finite(optimizer)
    for bad in (math.nan, math.inf, -math.inf):
        layer.bias.grad[2] = bad
        assert not all_finite(optimizer)


@pytest.mark.parametrize("value", [2.5, math.inf, -math.inf, math.nan])
def test_poison(value: float) -> None:
    loss = torch.tensor(value, requires_grad=True)
    poisoned = poison_unless_finite(loss)
    poisoned.backward()
    if math.isfinite(value):
        assert poisoned == loss and loss.grad == 1
    else:
        assert poisoned.isnan() and loss.grad.isnan()


def test_several_optimisers_are_refused() -> None:
    with pytest.raises(ValueError, match="watches one optimiser"):
        FiniteGuard(dict())


@pytest.mark.parametrize("options", [dict(patience=0), dict(keep_weights=-1)])
def test_bad_options(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        FiniteGuardHook(**options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_fused_optimiser_skips_without_the_host() -> None:
    from mmengine.optim import OptimWrapper

    layer = nn.Linear(4, 4).cuda()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    guard = FiniteGuard(OptimWrapper(optimizer))
    for value, steps in ((1.0, True), (math.nan, False), (1.0, True)):
        before = layer.weight.detach().clone()
        guard.wrapper.update_params(layer(torch.ones(2, 4).cuda()).sum() * value)
        answer = guard.take_answer()
        assert answer is not None and answer.deferred and answer.read() is steps
        assert torch.equal(before, layer.weight) is not steps
