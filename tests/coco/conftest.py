"""The scope of mmdet, for every test of a detector."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def mmdet_scope() -> Any:
    """Leaves no default scope behind."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield
