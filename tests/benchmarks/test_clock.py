"""Peaks that are measured, also where a type is slow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import clock


@pytest.mark.parametrize(
    ("gflops", "size"), [(1000, 2048), (1, 512), (0.03, 128)], ids=str
)
def test_peak_stops_at_the_first_product_that_takes_long(
    gflops: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def product(a: Tensor, b: Tensor, repeats: int) -> float:
        assert a.shape == b.shape
        sizes.append(len(a))
        return 2 * len(a) ** 3 / gflops / 1e9

    monkeypatch.setattr(clock, "_fastest_product", product)
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    peak = clock.measured_peak(cpu, torch.float32)
    assert peak == pytest.approx(gflops / 1e3)
    assert sizes[-1] == size
    # What is drawn next does not depend on the speed.
    drawn = torch.rand(())
    torch.manual_seed(0)
    torch.randn(2, 2048, 2048)
    assert torch.equal(drawn, torch.rand(()))


def test_a_product_is_timed() -> None:
    a = torch.ones(8, 8)
    assert 0 < clock._fastest_product(a, a, 2) < 1
