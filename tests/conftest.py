"""Fixtures of all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

# Tiny tensors: a second thread costs more than it brings.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quiet_mmengine() -> Iterator[None]:
    """Keeps what ``init_weights`` logs per parameter out of the output."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_default_scope() -> Iterator[None]:
    """Forgets the scope that a test's Runner made the default of its process."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Starts every test from the same random state, whichever ran before."""
    torch.manual_seed(0)
