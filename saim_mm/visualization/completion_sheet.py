"""An image that appears step by step: a contact sheet, or frames of an animation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from mmengine.model import BaseDataPreprocessor

from .completion import Completion
from .figure import HIDDEN, Picture, image_sheet, new_figure, render, stack
from .reconstruction import to_rgb

#: An image in an animation is enlarged to about so many pixels.
_FRAME_SIZE = 192
_GAP = 4  # pixels between images of a frame


def completion_frames(
    steps: Iterable[Completion], preprocessor: BaseDataPreprocessor
) -> list[np.ndarray]:
    """The images after each step of ``complete``, unknown patches in grey.

    Returns:
        (B, H, W, 3) uint8 RGB for each step.
    """
    frames = []
    for step in steps:
        frame = to_rgb(step.images, preprocessor)
        frame[~step.known.cpu().numpy()] = HIDDEN
        frames.append(frame)
    return frames


def completion_sheet(
    originals: np.ndarray,
    frames: list[np.ndarray],
    known: list[int],
    note: str,
    columns: int = 6,
    title: str = "original",
) -> Picture:
    """A row per image: the original, what is kept, and the way to the whole image.

    Args:
        originals: (B, H, W, 3), uint8, RGB.
        frames: Of :func:`completion_frames`.
        known: Number of known patches in each frame.
        note: What the reader must know, below the pictures.
        columns: At most so many frames, evenly spread, first and last included.
        title: That of the originals.
    """
    chosen = np.unique(
        np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    )
    titles = [f"kept\n({known[0]} of {known[-1]} patches)"]
    titles += [f"{known[i]} patches" for i in chosen[1:]]
    titles[-1] = "completed"
    shown = {name: frames[i] for name, i in zip(titles, chosen, strict=True)}
    return render(image_sheet({title: originals, **shown}, note, above=0.85)[0])


def animation(
    originals: np.ndarray, frames: list[np.ndarray], title: str = ""
) -> list[np.ndarray]:
    """Pictures for a GIF: the originals above, the images that appear below.

    Takes ``originals`` (B, H, W, 3) uint8 RGB and ``frames`` of the same kind; all are
    enlarged without smoothing. A title stands above them, if there is one.
    """
    factor = max(1, round(_FRAME_SIZE / max(originals.shape[1:3])))
    above = _side_by_side(originals, factor)
    gap = np.full((_GAP, *above.shape[1:]), 255, np.uint8)
    pictures = [np.concatenate([above, gap, _side_by_side(f, factor)]) for f in frames]
    if not title:
        return pictures
    figure = new_figure(1.8, 0.45)
    figure.text(0.5, 0.5, title, ha="center", va="center", fontsize=9)
    heading = render(figure)
    return [stack([heading, picture]) for picture in pictures]


def _side_by_side(images: np.ndarray, factor: int) -> np.ndarray:
    """(B, H, W, 3) -> one row of enlarged images with white gaps."""
    large = images.repeat(factor, axis=1).repeat(factor, axis=2)
    large = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(large), axis=1)[:, :-_GAP]
