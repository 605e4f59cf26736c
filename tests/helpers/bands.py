"""Made-up images of many bands: two materials of one spectrum each, in stripes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

BANDS = 13


def scene(seed: int, size: int = 40, bands: int = BANDS) -> np.ndarray:
    """An image (H, W, bands) uint16 of values up to some 10,000.

    The stripes of an image go on through all of it, and so do its two spectra: a patch
    tells much of the next.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    angle, waves, phase = rng.uniform((0, 1.5, 0), (np.pi, 3.5, 2 * np.pi))
    along = rows * np.sin(angle) + columns * np.cos(angle)
    share = (1 + np.sin(2 * np.pi * waves * along + phase)) / 2
    smooth = np.cumsum(rng.normal(size=(2, bands)), axis=1)
    spectra = 4000 + 1000 * smooth
    values = share[..., None] * spectra[0] + (1 - share[..., None]) * spectra[1]
    noise = rng.normal(scale=50, size=values.shape)
    return (values + noise).clip(1, 2**16 - 1).astype(np.uint16)


def tiff_of(values: np.ndarray, **options) -> bytes:
    """A TIFF as tifffile writes it."""
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="minisblack", **options)
    return buffer.getvalue()


def npy_of(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def write_scenes(folder: Path, number: int, first: int = 0, size: int = 40) -> Path:
    """Writes scenes, in turn as TIFF and as .npy."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + number):
        values = scene(seed, size)
        if seed % 2:
            (folder / f"{seed:04d}.npy").write_bytes(npy_of(values))
        else:
            content = tiff_of(values, planarconfig="contig")
            (folder / f"{seed:04d}.tif").write_bytes(content)
    return folder
