"""The norm that fits the machine: what is built where, and that keys never differ."""

from __future__ import annotations

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from torch import nn

from saim_mm.models import SyncBNOrBN
from saim_mm.models.dense import sync_bn

OPTIONS = dict(eps=0.25, momentum=0.5, affine=False, track_running_stats=True)


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: bool, processes: int) -> None:
    """Nothing but the questions that decide; no norm is run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(sync_bn, "get_world_size", lambda: processes)
    # mmcv's norm asks it too, and cannot be built without an answer.
    monkeypatch.setattr("torch.distributed.get_world_size", lambda group=None: 2)


@pytest.mark.parametrize(("cuda", "processes"), [(False, 1), (False, 2), (True, 1)])
@pytest.mark.parametrize("stats_mode", [None, "N"])
def test_plain_norm_without_several_gpus(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, processes: int, stats_mode: str | None
) -> None:
    pretend(monkeypatch, cuda, processes)
    norm = SyncBNOrBN(3, stats_mode)
    assert type(norm) is nn.BatchNorm2d


def test_synchronised_norms_on_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ops = pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
    pretend(monkeypatch, cuda=True, processes=2)
    assert type(SyncBNOrBN(3)) is nn.SyncBatchNorm
    norm = SyncBNOrBN(3, "N")
    assert type(norm) is ops.SyncBatchNorm
    assert norm.stats_mode == "N"


@pytest.mark.parametrize("stats_mode", [None, "N"])
def test_options_and_keys_are_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch, stats_mode: str | None
) -> None:
    """So a checkpoint of many GPUs can be tested on one, and the other way round."""
    pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
    config = dict(type="SyncBNOrBN", num_features=3, stats_mode=stats_mode)
    for options in ({}, OPTIONS):
        norms = []
        for cuda in (False, True):
            pretend(monkeypatch, cuda, processes=2)
            norms.append(MODELS.build({**config, **options}))
        one, many = norms
        assert type(one) is not type(many)
        many.load_state_dict(one.state_dict(), strict=True)
        for name in ("num_features", *OPTIONS):
            assert getattr(one, name) == getattr(many, name), name
        assert (one.eps, one.affine) == ((0.25, False) if options else (1e-5, True))


def test_a_layer_names_it_bn() -> None:
    """The name is part of every key; with any other BN it is the same."""
    keys = [
        list(ConvModule(2, 3, 1, norm_cfg=dict(type=kind)).state_dict())
        for kind in ("SyncBNOrBN", "SyncBN", "BN")
    ]
    assert "bn.running_mean" in keys[0]
    assert keys[0] == keys[1] == keys[2]


def test_wrong_mode() -> None:
    with pytest.raises(ValueError, match="stats_mode='default'.*None.*'N'"):
        SyncBNOrBN(3, "default")  # type: ignore[arg-type]
