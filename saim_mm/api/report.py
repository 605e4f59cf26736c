"""Runs on one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..utils.atomic_file import check_place
from ..utils.command_line import default_device
from ..visualization import LiveReport, write_report
from ..visualization.figure import Picture
from ..visualization.from_files import draw_newest

#: Of the time that ``live`` may take from other work on the machine.
_MAX_SHARE = 0.1


def report(
    work_dir: str | Path | Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    images: str | Path | None = None,
    number: int = 6,
    seed: int = 0,
    device: str | None = None,
    live: bool = False,
    interval: float = 10.0,
) -> Path:
    """Writes a one-page HTML report of runs: state, curves, pictures, config, machine.

    Args:
        work_dir: The work dir of a run that logged with ``LocalVisBackend``. Several
            are shown beside each other, with the options in which their configs differ.
        out: The file, ending in ``.html``.
        images: A folder of images, of which a run's newest checkpoint draws
            predictions; by default only the pictures that the run logged are shown.
        number: Images shown, at most.
        seed: Of their orders.
        device: Where the model runs; by default on a GPU if there is one.
        live: Whether to write the page again and again until all runs have ended, or
            Ctrl-C. Nothing need be logged yet.
        interval: Least seconds between two pages of ``live``; a page that takes long
            is written less often.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such work dir.
        OSError: If the page cannot be written there.
        ValueError: If it holds neither a log nor a logged loss; if images are given and
            the run has no config or no checkpoint, or is ``live``; if the interval is
            not positive.
    """
    paths = [work_dir] if isinstance(work_dir, (str, Path)) else work_dir
    folders = [Path(path) for path in paths]
    if not folders:
        raise ValueError("work_dir=[] names no run; give at least one work dir.")
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such work dir.")
    check_place(Path(out))
    if live:
        if images is not None:
            raise ValueError(
                "images= draws the newest checkpoint once; leave it out of live=True, "
                "and give the run a PictureHook."
            )
        page = LiveReport(folders, out, interval, _MAX_SHARE)
        try:
            while not page.write():
                time.sleep(page.pause())
        except KeyboardInterrupt:
            page.write(last=True)
        return Path(out)
    pictures: dict[str, Picture] = {}
    if images is not None:
        device = device or default_device()
        for folder in folders:
            drawn = draw_newest(folder, Path(images), number, seed, device)
            mark = f"{folder.name}: " if len(folders) > 1 else ""
            pictures |= {f"{mark}{title}": image for title, image in drawn.items()}
    write_report(folders, out, pictures)
    return Path(out)
