"""A model as it is, and as it is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> Any:
    """The model inside data parallelism, FSDP or test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and each part back as it was."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        # One by one: parts may have been frozen in evaluation mode.
        for child, training in modes:
            child.training = training


@contextmanager
def random_state_kept(cuda: bool = True) -> Iterator[None]:
    """Puts the random streams of torch, numpy and Python back as they were.

    Args:
        cuda: Whether the current GPU's stream, too; asking for it takes time.
    """
    python, numpy = random.getstate(), np.random.get_state()
    gpu = cuda and torch.cuda.is_available()
    devices = [torch.cuda.current_device()] if gpu else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
