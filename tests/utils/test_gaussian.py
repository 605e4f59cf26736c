"""The Gaussian, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from saim_mm.utils.gaussian import gaussian_taps


@pytest.mark.parametrize(("size", "sigma"), [(9, 1.0), (5, 2.0), (3, 0.3), (1, 1.0)])
def test_taps_are_those_of_scipy(size: int, sigma: float) -> None:
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    expected = gaussian_filter1d(impulse, sigma, mode="constant", radius=size // 2)
    np.testing.assert_allclose(gaussian_taps(size, sigma).numpy(), expected, rtol=1e-12)
