"""Fixtures of all tests."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from saim_mm.weights.safe_loader import uninstall_safe_loader

# Tiny tensors: a second thread costs more than it brings.
torch.set_num_threads(1)

RUNS = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Hides all GPUs but from ``pytest -m gpu``.

    The other tests compare runs with what a CPU computes, bit for bit, and fork.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """Takes what the imports made out of the garbage collector's sight.

    MMEngine collects garbage whenever a dataset is built; walking over every object of
    torch and four OpenMMLab packages would make that half a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def quiet_mmengine() -> Iterator[None]:
    """Keeps what ``init_weights`` logs per parameter out of the output."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def runner_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every Runner of this process a name of its own.

    MMEngine names a run by the second it starts in, and runs of one name share their
    logger and visualiser: the second writes into the folder of the first.
    """
    build = Runner.from_cfg.__func__

    def from_cfg(cls: type[Runner], cfg: Config) -> Runner:
        if "experiment_name" not in cfg:
            cfg = copy.deepcopy(cfg)
            cfg.experiment_name = f"test_{next(RUNS)}"
        return build(cls, cfg)

    monkeypatch.setattr(Runner, "from_cfg", classmethod(from_cfg))


@pytest.fixture(autouse=True)
def loaders_as_they_come() -> Iterator[None]:
    """Takes back the safe loading that a test's run or tool switched on."""
    yield
    uninstall_safe_loader()


@pytest.fixture(autouse=True)
def no_default_scope() -> Iterator[None]:
    """Forgets the scope that a test's Runner made the default of its process."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Starts every test from the same random state, whichever ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
