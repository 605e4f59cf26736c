"""Sample photographs of other packages."""

from __future__ import annotations

import importlib.util

import pytest

from saim_mm.datasets.sample_photos import sample_photos


def test_sample_photographs_are_found() -> None:
    assert len(sample_photos()) == 11


def test_without_the_packages_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image"):
        sample_photos()
