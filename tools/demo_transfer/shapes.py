"""Labelled images out of nothing but photographs: textured shapes lie over a crop.

A class is a pair of a shape and a texture. Every shape comes in two textures and every
texture in two shapes, so neither alone tells the class, and the colours are drawn anew
for every object, so they tell nothing. Symbols: S is the side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Coordinates (rows, columns) around the centre of an object, turned with it.
Grid = np.ndarray
#: Coordinates in units of the radius -> where the shape is.
Shape = Callable[[Grid, Grid], np.ndarray]
#: Coordinates in units of the texture's period -> where the second colour is.
Texture = Callable[[Grid, Grid], np.ndarray]


def _star(u: Grid, v: Grid) -> np.ndarray:
    points = 5
    angle = np.arctan2(v, u) % (2 * np.pi / points) - np.pi / points
    # 1 at the tips and 0.45 between them.
    edge = 0.45 + 0.55 * np.abs(angle) * points / np.pi
    return np.hypot(u, v) < edge


SHAPES: dict[str, Shape] = {
    "disc": lambda u, v: np.hypot(u, v) < 0.9,
    "triangle": lambda u, v: (v > -0.6) & (1.8 * np.abs(u) + v < 1.1),
    "cross": lambda u, v: (
        (np.minimum(np.abs(u), np.abs(v)) < 0.32)
        & (np.maximum(np.abs(u), np.abs(v)) < 0.95)
    ),
    "star": _star,
}
TEXTURES: dict[str, Texture] = {
    "striped": lambda u, v: u % 1 < 0.5,
    "checked": lambda u, v: (u % 1 < 0.5) ^ (v % 1 < 0.5),
    "dotted": lambda u, v: np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.36,
    "zigzag": lambda u, v: (u + np.abs(v % 1 - 0.5)) % 1 < 0.5,
}
#: Class -> its shape and its texture.
CLASSES: dict[str, tuple[str, str]] = {
    f"{texture}_{shape}": (shape, texture)
    for i, shape in enumerate(SHAPES)
    for texture in (list(TEXTURES)[i], list(TEXTURES)[(i + 1) % len(TEXTURES)])
}
