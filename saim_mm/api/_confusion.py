"""The picture of a judgement."""

from __future__ import annotations

from pathlib import Path

from ..evaluation.judge import Judgement
from ..utils.atomic_file import check_place
from ..visualization import save_png
from ..visualization.confusion import draw_confusion


def check_picture(out: str | Path | None) -> None:
    """Stops before any work what could not be drawn after it.

    Raises:
        ValueError: If the name does not end in ``.png``.
        OSError: If nothing can be written there.
    """
    if out is not None:
        if Path(out).suffix != ".png":
            raise ValueError(f"{out}: the picture's name must end in .png.")
        check_place(Path(out))


def draw(
    judgement: Judgement, what: str, accuracy: str, out: str | Path | None
) -> None:
    """Draws the confusion, if wanted; ``accuracy`` names the figure above it."""
    if out is not None:
        title = f"{what}: {judgement.figures[accuracy]} %"
        save_png(draw_confusion(judgement.confusion, judgement.classes, title), out)
