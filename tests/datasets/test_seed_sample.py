"""SeedSample: what follows it in a pipeline is a function of the sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, DefaultScope

from saim_mm.datasets import SampleIndex, SeedSample
from saim_mm.utils.sample_index import Stream, seed_generators


@pytest.mark.parametrize("scope", ["mmengine", "mmpretrain", "mmdet", "mmseg"])
def test_resolves_in_any_scope(scope: str) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        assert type(TRANSFORMS.build(dict(type="SeedSample"))) is SeedSample


def test_draws_follow_from_the_sample() -> None:
    def draw(index: int) -> tuple[float, float]:
        results = SeedSample()(dict(sample_idx=index, img=1))
        assert results == dict(sample_idx=index, img=1)
        return np.random.rand(), torch.rand(()).item()

    first = draw(SampleIndex(3, seed=1, epoch=0))
    assert draw(SampleIndex(3, seed=1, epoch=1)) != first
    assert draw(SampleIndex(3, seed=1, epoch=0)) == first
    seed_generators(SampleIndex(3, seed=1, epoch=0).key(Stream.AUGMENTATION))
    assert (np.random.rand(), torch.rand(()).item()) == first


def test_leaves_generators_alone_otherwise() -> None:
    seed_generators(5)
    expected = np.random.rand()
    for results in (dict(sample_idx=3), dict()):
        seed_generators(5)
        SeedSample()(results)
        assert np.random.rand() == expected
