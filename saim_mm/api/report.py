"""A run on one page."""

from __future__ import annotations

from pathlib import Path

from ..utils.command_line import default_device
from ..visualization import write_report
from ..visualization.from_files import draw_newest


def report(
    work_dir: str | Path,
    out: str | Path = "report.html",
    *,
    images: str | Path | None = None,
    number: int = 6,
    seed: int = 0,
    device: str | None = None,
) -> Path:
    """Writes a one-page HTML report of a run: curves, pictures, config, machine.

    Args:
        work_dir: The work dir of a run that logged with ``LocalVisBackend``.
        out: The file, ending in ``.html``.
        images: A folder of images, of which the run's newest checkpoint draws
            predictions; by default only the pictures that the run logged are shown.
        number: Images shown, at most.
        seed: Of their orders.
        device: Where the model runs; by default on a GPU if there is one.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such work dir.
        ValueError: If nothing was logged there, or images are given and the run has no
            config or no checkpoint.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f"{work_dir}: there is no such work dir.")
    pictures = {}
    if images is not None:
        device = device or default_device()
        pictures = draw_newest(work_dir, Path(images), number, seed, device)
    write_report(work_dir, out, pictures)
    return Path(out)
