"""Made-up images of many bands: materials of a spectrum each, in stripes."""

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
    share = _stripes(rng, size)
    smooth = np.cumsum(rng.normal(size=(2, bands)), axis=1)
    spectra = 4000 + 1000 * smooth
    values = share[..., None] * spectra[0] + (1 - share[..., None]) * spectra[1]
    noise = rng.normal(scale=50, size=values.shape)
    return (values + noise).clip(1, 2**16 - 1).astype(np.uint16)


def hazy(kind: int, seed: int, size: int = 32, haze: float = 4000) -> np.ndarray:
    """An image (H, W, 13) uint16 of stripes of one material, below haze.

    The kind of the material tells its spectrum, of which a stripe has more or less. The
    haze, the same in all bands and up to 30 times as strong as the spectrum, hides it:
    haze is what images differ by.
    """
    smooth = np.cumsum(np.random.default_rng(10**6 + kind).normal(size=BANDS))
    spectrum = (smooth - smooth.mean()) / smooth.std()
    rng = np.random.default_rng(seed)
    share = _stripes(rng, size) + 0.5
    values = 5000 + 120 * share[..., None] * spectrum + rng.uniform(-haze, haze)
    return (values + rng.normal(scale=20, size=values.shape)).astype(np.uint16)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wave (size, size) in [0, 1] of any direction."""
    rows, columns = np.mgrid[:size, :size] / size
    angle, waves, phase = rng.uniform((0, 1.5, 0), (np.pi, 3.5, 2 * np.pi))
    along = rows * np.sin(angle) + columns * np.cos(angle)
    return (1 + np.sin(2 * np.pi * waves * along + phase)) / 2


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
        _write_in_turn(folder, seed, scene(seed, size))
    return folder


def write_kinds(
    root: Path, kinds: int = 3, train: int = 4, judged: int = 2, haze: float = 0
) -> Path:
    """Writes hazy images of several kinds, in turn as TIFF and as .npy.

    Returns:
        The folder, which has ``train/<kind>/`` and ``val/<kind>/``.
    """
    for folder, number, first in (("train", train, 0), ("val", judged, 10_000)):
        for kind in range(kinds):
            place = root / folder / f"kind{kind}"
            place.mkdir(parents=True)
            for i in range(number):
                values = hazy(kind, first + kinds * i + kind, haze=haze)
                _write_in_turn(place, i, values)
    return root


def _write_in_turn(folder: Path, number: int, values: np.ndarray) -> None:
    """Writes an image, of an odd number as .npy."""
    if number % 2:
        (folder / f"{number:04d}.npy").write_bytes(npy_of(values))
    else:
        content = tiff_of(values, planarconfig="contig")
        (folder / f"{number:04d}.tif").write_bytes(content)
