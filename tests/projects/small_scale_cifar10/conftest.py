"""The suite's tiniest scale."""

from __future__ import annotations

import pytest

from projects.small_scale_cifar10.scale import PRESETS, Scale


@pytest.fixture
def tiny() -> Scale:
    return PRESETS["tiny"]
