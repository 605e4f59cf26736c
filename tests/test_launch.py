"""Effective batch, scaled rate, and configs bent to a machine without CUDA."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config

from saim_mm import launch


def make_config(batch: int = 64, accumulation: int = 1, enable: bool = False) -> Config:
    return Config(
        dict(
            train_dataloader=dict(batch_size=batch, pin_memory=True),
            optim_wrapper=dict(
                type="AmpOptimWrapper",
                loss_scale="dynamic",
                accumulative_counts=accumulation,
                optimizer=dict(type="AdamW", lr=1.6e-3),
            ),
            auto_scale_lr=dict(base_batch_size=2048, enable=enable),
        )
    )


def test_effective_batch_counts_processes_and_accumulation() -> None:
    batch = launch.effective_batch(make_config(accumulation=4), processes=8)
    assert batch.images == 64 * 4 * 8
    assert "2048 images" in batch.describe()
    assert "WARNING" not in batch.describe()


def test_a_batch_that_does_not_fit_the_rate_names_both_remedies() -> None:
    text = launch.effective_batch(make_config(), processes=8).describe()
    assert "--auto-scale-lr" in text
    assert "accumulative_counts=4" in text


@pytest.mark.parametrize(("accumulation", "processes"), [(1, 1), (4, 2), (1, 32)])
def test_scaled_rate_is_linear_in_the_effective_batch(
    accumulation: int, processes: int
) -> None:
    """MMEngine's own rule would ignore accumulation."""
    cfg = make_config(accumulation=accumulation, enable=True)
    launch.scale_learning_rate(cfg, processes)
    images = 64 * accumulation * processes
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(2e-4 * images / 256)
    assert cfg.auto_scale_lr.enable is False
    assert "WARNING" not in launch.effective_batch(cfg, processes).describe()


def test_rate_is_left_alone_unless_asked() -> None:
    cfg = make_config()
    launch.scale_learning_rate(cfg, 1)
    assert cfg.optim_wrapper.optimizer.lr == 1.6e-3


def test_config_without_data_is_named() -> None:
    with pytest.raises(ValueError, match="train_dataloader"):
        launch.effective_batch(Config(dict(optim_wrapper=dict())), 1)


def test_fit_to_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = make_config()
    changes = launch.fit_to_machine(cfg)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "loss_scale" not in cfg.optim_wrapper
    assert cfg.train_dataloader.pin_memory is False
    assert cfg.model_wrapper_cfg.device_ids is None
    assert any("float32" in change for change in changes)
    assert any("gloo" in change for change in changes)


def test_without_amp() -> None:
    cfg = make_config()
    cfg.optim_wrapper.update(dtype="float16", use_fsdp=False, clip_grad=None)
    assert launch.wrapper_without_amp(cfg.optim_wrapper)
    assert set(cfg.optim_wrapper) == {
        "type", "accumulative_counts", "optimizer", "clip_grad",
    }  # fmt: skip
    assert cfg.optim_wrapper.type == "OptimWrapper"
    before = cfg.to_dict()
    assert not launch.wrapper_without_amp(cfg.optim_wrapper)
    assert cfg.to_dict() == before
    assert not launch.wrapper_without_amp({})


def test_fit_to_cuda_fuses_adamw_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = make_config()
    expected = cfg.to_dict()
    expected["optim_wrapper"]["optimizer"]["fused"] = True
    assert launch.fit_to_machine(cfg) == []
    assert cfg.to_dict() == expected


@pytest.mark.parametrize(
    "optimizer",
    [
        dict(type="AdamW", lr=1.0, fused=False),
        dict(type="AdamW", lr=1.0, foreach=True),  # torch refuses both
        dict(type="SGD", lr=1.0),
    ],
)
def test_an_optimizer_with_other_wishes_is_left_alone(
    optimizer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = Config(dict(optim_wrapper=dict(optimizer=optimizer)))
    launch.fit_to_machine(cfg)
    assert cfg.optim_wrapper.optimizer.to_dict() == optimizer


@pytest.mark.parametrize("cuda", [True, False])
def test_data_parallel_options(cuda: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = Config(dict(find_unused_parameters=True))
    launch.fit_to_machine(cfg)
    assert cfg.model_wrapper_cfg.to_dict() == dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
        **({} if cuda else dict(device_ids=None)),
    )


def test_data_parallel_options_of_the_config_win(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    cfg = Config(dict(model_wrapper_cfg=dict(gradient_as_bucket_view=False)))
    launch.fit_to_machine(cfg)
    assert cfg.model_wrapper_cfg.gradient_as_bucket_view is False
    sharded = dict(type="MMFullyShardedDataParallel")
    cfg = Config(dict(model_wrapper_cfg=sharded))
    launch.fit_to_machine(cfg)
    assert cfg.model_wrapper_cfg.to_dict() == sharded


class NoImages(torch.utils.data.Dataset):
    """A dataset of length zero."""

    def __len__(self) -> int:
        return 0


def test_no_training_data_stops_the_run() -> None:
    """An endless sampler over nothing would hang instead."""
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=NoImages()))
    with pytest.raises(ValueError, match="NoImages holds no training image"):
        launch.check_training_data(SimpleNamespace(train_loop=loop))


def test_no_workers_is_enough_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a loader stands; other loaders keep their options."""
    with_workers = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)
    cfg = make_config()
    cfg.train_dataloader.update({**with_workers, "num_workers": 0})
    cfg.val_dataloader = with_workers
    cfg.custom_hooks = [dict(bank_dataloader={**with_workers, "num_workers": 0})]
    for cuda in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        launch.fit_to_machine(cfg)
        for loader in (cfg.train_dataloader, cfg.custom_hooks[0].bank_dataloader):
            assert loader.persistent_workers is False
            assert loader.prefetch_factor is None
        assert cfg.val_dataloader.persistent_workers is True
        assert cfg.val_dataloader.prefetch_factor == 4


def test_a_name_without_a_folder() -> None:
    with pytest.raises(ValueError, match="saim_mm::a.py: names no folder of saim_mm's"):
        launch.load_config("saim_mm::a.py")
