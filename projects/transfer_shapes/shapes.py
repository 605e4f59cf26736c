"""Labelled images out of nothing but photographs: textured shapes lie over a crop.

A class is a pair of a shape and a texture. Every shape comes in two textures and every
texture in two shapes, so neither alone tells the class, and the colours are drawn anew
for every object, so they tell nothing. Symbols: S is the side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
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
#: Class -> its shape and its texture. By name, as those who read folders number them.
CLASSES: dict[str, tuple[str, str]] = dict(
    sorted(
        (f"{texture}_{shape}", (shape, texture))
        for i, shape in enumerate(SHAPES)
        for texture in (list(TEXTURES)[i], list(TEXTURES)[(i + 1) % len(TEXTURES)])
    )
)

#: Pixels are drawn in so many rows and columns each, for smooth edges.
_OVERSAMPLING = 2
#: Contrast of the two colours of a texture; half of it lies on either side.
_CONTRAST = (60, 120)
#: Deviation of the blur of backgrounds, in pixels. A small model would learn a dozen
#: sharp photographs by heart before it looks at the objects.
_BLUR = 2


@dataclass(frozen=True)
class Style:
    """What the objects of an image look like; lengths are in pixels.

    Attributes:
        count: Fewest and most objects.
        radius: Smallest and largest radius.
        period: Finest and coarsest texture.
        turn: Largest turn of shape and texture, to either side, in radians.
        classes: What the objects are drawn from.
    """

    count: tuple[int, int]
    radius: tuple[float, float]
    period: tuple[float, float] = (9, 14)
    turn: float = 0.4
    classes: tuple[str, ...] = tuple(CLASSES)


@dataclass(frozen=True)
class Scene:
    """An image and its K objects.

    Attributes:
        image: (S, S, 3) uint8, BGR.
        classes: K names in :data:`CLASSES`.
        masks: (K, S, S) bool; no two overlap and none is empty.
    """

    image: np.ndarray
    classes: tuple[str, ...]
    masks: np.ndarray

    def boxes(self) -> np.ndarray:
        """Tight boxes (K, 4) around the masks: x, y, width, height."""
        boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in self.masks]
        return np.array(boxes).reshape(-1, 4)


class SceneMaker:
    """Makes scenes; each is a function of its seed alone.

    Args:
        photos: Photographs (H, W, 3) uint8, whose crops are the backgrounds.
        size: S.

    Raises:
        ValueError: If there is no photograph, or one is smaller than a scene.
    """

    def __init__(self, photos: Sequence[np.ndarray], size: int = 64) -> None:
        small = [photo.shape[:2] for photo in photos if min(photo.shape[:2]) < size]
        if not photos or small:
            raise ValueError(
                f"{len(photos)} photographs, of which {len(small)} are smaller than "
                f"size={size} pixels {small[:3]}; give at least one and none smaller."
            )
        self.photos = photos
        self.size = size

    def make(self, seed: Sequence[int], style: Style, only: str | None = None) -> Scene:
        """Makes one scene.

        Args:
            seed: Any integers that are not negative.
            style: What its objects look like.
            only: Class of all its objects; by default drawn for each.
        """
        rng = np.random.default_rng(seed)
        image = self._background(rng)
        classes, masks = [], []
        taken = np.zeros(image.shape[:2], dtype=bool)
        for _ in range(rng.integers(style.count[0], style.count[1] + 1)):
            drawn = style.classes[rng.integers(len(style.classes))]
            name = drawn if only is None else only
            shape, texture = CLASSES[name]
            where = self._place(rng, style, SHAPES[shape], taken)
            if where is None:  # too crowded
                continue
            image[where] = self._paint(rng, style, TEXTURES[texture])[where]
            taken |= where
            classes.append(name)
            masks.append(where)
        return Scene(
            image=self._shrink(image),
            classes=tuple(classes),
            masks=self._shrink_masks(masks),
        )

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """A square out of a photograph, any size and place, in drawing resolution."""
        photo = self.photos[rng.integers(len(self.photos))]
        side = rng.integers(self.size, min(photo.shape[:2]) + 1)
        top, left = (rng.integers(length - side + 1) for length in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        drawn = self.size * _OVERSAMPLING
        method = cv2.INTER_AREA if side > drawn else cv2.INTER_LINEAR
        crop = cv2.resize(crop, (drawn, drawn), interpolation=method)
        blurred = cv2.GaussianBlur(crop, (0, 0), _BLUR * _OVERSAMPLING)
        return blurred.astype(np.float32)

    def _grid(self, centre: np.ndarray, turn: float) -> tuple[Grid, Grid]:
        """Coordinates of all drawn pixels around a centre, turned, in pixels."""
        steps = (np.arange(self.size * _OVERSAMPLING) + 0.5) / _OVERSAMPLING
        y, x = np.meshgrid(steps - centre[0], steps - centre[1], indexing="ij")
        cos, sin = np.cos(turn), np.sin(turn)
        return cos * x + sin * y, cos * y - sin * x

    def _place(
        self,
        rng: np.random.Generator,
        style: Style,
        shape: Shape,
        taken: np.ndarray,
        attempts: int = 20,
    ) -> np.ndarray | None:
        """Where an object lies that touches no other; None if no place was found."""
        for _ in range(attempts):
            radius = rng.uniform(*style.radius)
            # It may stick out by a tenth of its radius.
            margin = min(0.9 * radius, self.size / 2)
            centre = rng.uniform(margin, self.size - margin, 2)
            u, v = self._grid(centre, rng.uniform(-style.turn, style.turn))
            where = shape(u / radius, v / radius)
            if not (where & taken).any():
                return where
        return None

    def _paint(
        self, rng: np.random.Generator, style: Style, texture: Texture
    ) -> np.ndarray:
        """A texture in two random colours, over the whole image."""
        turn = rng.uniform(-style.turn, style.turn)
        period = rng.uniform(*style.period)
        u, v = self._grid(rng.uniform(0, self.size, 2), turn)
        second = texture(u / period, v / period)
        colour = rng.uniform(60, 196, 3)
        half = rng.uniform(*_CONTRAST) / 2 * rng.choice([-1, 1])
        return np.where(second[..., None], colour - half, colour + half)

    def _shrink(self, image: np.ndarray) -> np.ndarray:
        image = cv2.resize(image, (self.size,) * 2, interpolation=cv2.INTER_AREA)
        return image.round().clip(0, 255).astype(np.uint8)

    def _shrink_masks(self, masks: list[np.ndarray]) -> np.ndarray:
        """Masks of whole pixels: of those more than half covered."""
        tiles = np.reshape(masks, (-1, *(self.size, _OVERSAMPLING) * 2))
        return tiles.mean(axis=(2, 4)) > 0.5
