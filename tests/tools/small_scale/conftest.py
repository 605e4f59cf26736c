"""The suite's modules and its tiniest scale."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PARTS = ("chart", "images", "judging", "results", "rows", "scheduling", "statistics",
         "table", "training")  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> Iterator[SimpleNamespace]:
    """The modules of the suite, which lie beside a script and not in a package."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield SimpleNamespace(
            **{name: import_module(f"small_scale.{name}") for name in PARTS}
        )
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def tiny(suite: SimpleNamespace) -> Any:
    return suite.rows.PRESETS["tiny"]
