"""Which checkpoints a run keeps, and what is in them."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked_runs import build_runner, prepare_to_save, run_config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.registry import METRICS
from mmengine.runner import Runner
from saved_runs import KEEP_ONE, fail_to_write, names, record_errors, train
from tiny import tiny_config

from saim_mm.reliability import SafeCheckpointHook
from saim_mm.weights import verify_checkpoint
from saim_mm.weights.checksum_trailer import check_sha256
from saim_mm.weights.resume import find_newest


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_errors(monkeypatch)


# ---- which files stay ----------------------------------------------------------------


@METRICS.register_module(force=True)
class Falling(BaseMetric):
    """The given scores, one per validation."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {"score": next(self.scores)}


def validated(scores: list[float]) -> dict[str, Any]:
    return dict(
        val_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(type="Numbers", length=4),
        ),
        val_cfg=dict(type="ValLoop"),
        val_evaluator=dict(type="Falling", scores=scores),
    )


BEST = dict(interval=1, max_keep_ckpts=2, save_best="score", rule="greater")


def test_the_best_one_stays_until_a_better_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """The eighth write is the better one of epoch 3; it fails, and nothing changes."""
    present: list[set[str]] = []
    put = SafeCheckpointHook.before_save_checkpoint

    def note(hook: Any, runner: Runner, checkpoint: dict) -> None:
        present.append({n for n in names(tmp_path) if n.startswith("best")})
        put(hook, runner, checkpoint)

    monkeypatch.setattr(SafeCheckpointHook, "before_save_checkpoint", note)
    fail_to_write(monkeypatch, {8}, errno.ENOSPC)
    scores = [0.1, 0.2, 0.3, 0.25]
    runner = train(tmp_path, 4, checkpoint=BEST, **validated(scores))
    assert len(log) == 1
    assert all(present[2:])
    # After the failure the score to beat is that of the file which is there.
    assert runner.message_hub.get_info("best_score") == 0.25
    best = {"best_score_epoch_4.pth"}
    assert names(tmp_path) == {"epoch_3.pth", "epoch_4.pth"} | best
    verify_checkpoint(tmp_path / "best_score_epoch_4.pth")


def test_a_best_file_of_the_same_name_is_not_removed(tmp_path: Path) -> None:
    runner = build_runner(run_config(tmp_path, checkpoint=BEST, **validated([])))
    hook = prepare_to_save(runner)
    for score in (0.1, 0.2):
        hook._save_best_checkpoint(runner, {"score": score})
        assert {"best_score_epoch_0.pth"} <= names(tmp_path)


def test_a_better_one_that_is_not_good_replaces_none(tmp_path: Path) -> None:
    """A weight is not finite, and the score of it may be anything."""
    runner = build_runner(run_config(tmp_path, checkpoint=BEST, **validated([])))
    hook = prepare_to_save(runner)
    hook._save_best_checkpoint(runner, {"score": 0.1})
    next(runner.model.parameters()).data.fill_(math.inf)
    runner.train_loop._epoch = 1
    hook._save_best_checkpoint(runner, {"score": 0.2})
    assert {"best_score_epoch_0.pth", "best_score_epoch_1.pth"} <= names(tmp_path)


def test_older_files_go_also_when_a_run_resumes(tmp_path: Path) -> None:
    train(tmp_path, 3, checkpoint=dict(interval=1, max_keep_ckpts=2))
    assert names(tmp_path) == {"epoch_2.pth", "epoch_3.pth"}
    # As a kill between the last write and the removal leaves it.
    shutil.copy2(tmp_path / "epoch_2.pth", tmp_path / "epoch_1.pth")
    os.utime(tmp_path / "epoch_1.pth", (0, 0))
    train(tmp_path, 3, checkpoint=dict(interval=1, max_keep_ckpts=2), resume=True)
    assert names(tmp_path) == {"epoch_2.pth", "epoch_3.pth"}


def test_a_file_from_the_middle_of_an_epoch_counts(tmp_path: Path) -> None:
    runner = build_runner(
        run_config(tmp_path, checkpoint=dict(interval=1, max_keep_ckpts=2))
    )
    hook = prepare_to_save(runner)
    hook.save_now(runner, 3, 20)
    hook._save_checkpoint(runner)
    assert names(tmp_path) == {"epoch_3_iter_20.pth", "epoch_1.pth"}
    hook._save_checkpoint_with_step(runner, 2, dict(epoch=2, iter=12))
    assert names(tmp_path) == {"epoch_1.pth", "epoch_2.pth"}


def test_published_files_are_plain_and_whole(tmp_path: Path) -> None:
    options = dict(interval=1, published_keys=["meta", "state_dict"])
    train(tmp_path, 1, checkpoint=options)
    published = names(tmp_path) - {"epoch_1.pth"}
    assert len(published) == 1
    path = tmp_path / published.pop()
    verify_checkpoint(path)
    assert check_sha256(path)
    assert set(torch.load(path, weights_only=True)) == {"meta", "state_dict"}
    assert find_newest(tmp_path).path == tmp_path / "epoch_1.pth"


# ---- what is written -----------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["OptimWrapper", "EMA"])
def test_everything_loads_with_weights_only_and_comes_back(
    tmp_path: Path, wrapper: str
) -> None:
    """Optimiser, schedule, averaged model, log history and numpy numbers."""
    hooks = [dict(type="EMAHook", momentum=0.1)] if wrapper == "EMA" else []
    runner = build_runner(
        run_config(tmp_path, max_epochs=2, checkpoint=KEEP_ONE, custom_hooks=hooks)
    )
    runner.message_hub.update_info("numpy", np.float32(0.5))
    runner.message_hub.update_info("array", np.arange(3))
    runner.train()
    content = torch.load(tmp_path / "epoch_2.pth", weights_only=True)
    assert ("ema_state_dict" in content) == (wrapper == "EMA")

    again = build_runner(
        run_config(tmp_path, max_epochs=2, resume=True, custom_hooks=hooks)
    )
    again.train()
    hub, before = again.message_hub, runner.message_hub
    assert hub.get_info("numpy") == 0.5
    assert np.array_equal(hub.get_info("array"), np.arange(3))
    for name in ("train/loss", "train/lr"):
        history = hub.get_scalar(name)
        assert type(history) is HistoryBuffer
        assert np.array_equal(history.data[0], before.get_scalar(name).data[0])
    for ours, theirs in zip(
        again.param_schedulers, runner.param_schedulers, strict=True
    ):
        assert ours.state_dict() == theirs.state_dict()
    state, expected = (
        again.optim_wrapper.state_dict(),
        runner.optim_wrapper.state_dict(),
    )
    torch.testing.assert_close(state, expected, rtol=0, atol=0)
    torch.testing.assert_close(
        again.model.state_dict(), runner.model.state_dict(), rtol=0, atol=0
    )


def test_a_checkpoint_of_saim(tmp_path: Path) -> None:
    """The model's own kinds of state, without the toy's simplicity."""
    config = run_config(tmp_path, checkpoint=KEEP_ONE)
    config["model"] = tiny_config()
    runner = build_runner(config)
    hook = prepare_to_save(runner)
    hook.save_now(runner, 0, 1)
    content = torch.load(tmp_path / "epoch_0_iter_1.pth", weights_only=True)
    torch.testing.assert_close(
        dict(content["state_dict"]), dict(runner.model.state_dict()), rtol=0, atol=0
    )


# ---- options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on_write_error="retry"), "on_write_error='retry'.*'continue', 'stop'"),
        (dict(intervall=1), "intervall: no option"),
        (dict(backend_args=dict(backend="petrel")), "backend_args: no option.*local"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SafeCheckpointHook(**options)


# ---- what a stranger's checkpoint cannot have removed --------------------------------


def tell(path: Path, **info: Any) -> None:
    """Changes what a checkpoint says of its run's files."""
    content = torch.load(path, weights_only=True)
    content["message_hub"]["runtime_info"].update(info)
    torch.save(content, path)


def resume(work_dir: Path, path: Path) -> Runner:
    options = dict(load_from=str(path), resume=True)
    return train(work_dir, 4, checkpoint=BEST, **options, **validated([0.9]))


@pytest.mark.parametrize("key", ["best_ckpt", "keep_ckpt_ids"])
def test_only_own_files_of_the_template_are_removed(tmp_path: Path, key: str) -> None:
    run = tmp_path / "run"
    train(run, 3, checkpoint=BEST, **validated([0.1, 0.2, 0.3]))
    precious = {
        "outside": tmp_path / "epoch_1.pth",
        "another name": run / "notes.pth",
        "deeper": run / "sub" / "epoch_1.pth",
        "another's": run / "epoch_x.pth",
    }
    for path in precious.values():
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (run / "epoch_1.pth").symlink_to(precious["outside"])
    shutil.copy(run / "epoch_3.pth", tmp_path / "kept.pth")
    for given in (*precious.values(), run / "epoch_1.pth", "../epoch_1.pth", "."):
        path = run / "epoch_3.pth"
        shutil.copy(tmp_path / "kept.pth", path)
        ids = [str(given), "../epoch_1", "x", "sub/epoch_1", 1, {}, None, 2, 3]
        tell(path, **{key: str(given) if key == "best_ckpt" else ids})
        resume(run, path)
        assert (run / "epoch_1.pth").is_symlink()
        assert all(p.read_text() == "mine" for p in precious.values())
        assert "epoch_4.pth" in names(run)


def test_a_copied_run_leaves_the_original_alone(tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    train(first, 3, checkpoint=BEST, **validated([0.1, 0.2, 0.3]))
    before = names(first)
    shutil.copytree(first, copy)
    resume(copy, copy / "epoch_3.pth")
    assert names(first) == before
    # Its own copies are its own: the better one replaces the best of the copy.
    assert names(copy) == {"epoch_3.pth", "epoch_4.pth", "best_score_epoch_4.pth"}


@pytest.mark.parametrize("ids", [7, "epoch", {"a": 1}, None])
def test_nonsense_about_kept_files_stops_no_run(tmp_path: Path, ids: Any) -> None:
    train(tmp_path, 3, checkpoint=BEST, **validated([0.1, 0.2, 0.3]))
    tell(tmp_path / "epoch_3.pth", keep_ckpt_ids=ids)
    resume(tmp_path, tmp_path / "epoch_3.pth")
    assert "epoch_4.pth" in names(tmp_path)


@pytest.mark.parametrize("template", ["{:05d}.pth", "at {} of [x].pth"])
def test_templates_of_one_s_own(tmp_path: Path, template: str) -> None:
    options = dict(interval=1, max_keep_ckpts=1, filename_tmpl=template)
    train(tmp_path, 3, checkpoint=options)
    assert names(tmp_path) == {template.format(3)}
