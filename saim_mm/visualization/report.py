"""A run on one page: HTML without scripts or links, pictures inside.

Everything that comes from the run is escaped, and nothing of it is executed: the config
is shown as text. The page can be mailed, or opened from a disk: it holds files of the
run's own folder only (see :mod:`run_files`), and says where something was too much.
"""

from __future__ import annotations

import base64
import html
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from ..utils.atomic_file import write_atomically
from .loss_curve import draw_loss_curve, read_loss_curve
from .run_files import read_start, readable, run_files
from .scalars import Series, draw_scalars, drawable, read_scalars

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2em auto;
       max-width: 62em; padding: 0 1em; }
h1, h2 { font-weight: 600; line-height: 1.2; } h2 { margin-top: 2em; }
img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 1em; overflow: auto; font-size: 12px;
      max-height: 40em; }
table { border-collapse: collapse; }
td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""
#: No scripts, no fetching: even if something slipped through unescaped.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
#: Shown by the loss curve, or of no interest.
_NOT_PLOTTED = frozenset({"loss", "lr", "base_lr", "momentum", "memory"})
_MAX_PLOTS = 60
_MAX_ROWS = 100
_MAX_TEXT = 2**20  # bytes of a config; MMEngine logs the environment in the first ones
_MAX_LOGS = 100
_MAX_PICTURE = 32 * 2**20  # bytes


def write_report(
    work_dir: str | Path,
    path: str | Path,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes the report of a run.

    Args:
        work_dir: The work dir of a run that logged with ``LocalVisBackend``.
        path: The file, ending in ``.html``; it is written whole or not at all.
        pictures: Further pictures by title, (H, W, 3) uint8 RGB. Those that a
            ``PictureHook`` logged last are shown without being given.

    Raises:
        ValueError: If no loss was logged there.
    """
    work_dir = Path(work_dir)
    left_out: Counter[str] = Counter()
    scalars = read_scalars(work_dir, left_out)
    curve = read_loss_curve(work_dir, scalars)
    name = work_dir.resolve().name
    sections = [
        f"<h1>{html.escape(name)}</h1>",
        _table(
            {
                "iterations": f"{int(curve.iterations[-1]):,}",
                "first loss logged": f"{curve.first():.4f}",
                "loss, mean of the last ten logged": f"{curve.last():.4f}",
            }
        ),
        "<h2>Curves</h2>",
        _image(draw_loss_curve(curve), "loss and learning rate"),
    ]
    plotted = sorted(scalars.keys() - _NOT_PLOTTED)
    if plotted[_MAX_PLOTS:]:
        reason = f"name that is not drawn, as there are more than {_MAX_PLOTS}"
        left_out[reason] = len(plotted[_MAX_PLOTS:])
        plotted = plotted[:_MAX_PLOTS]
    if plotted:
        names = ", ".join(map(readable, plotted))
        sections.append(_image(draw_scalars(scalars, plotted), names))
    sections += _odd_values(scalars, left_out)
    sections += _reconstructions(work_dir, pictures or {})
    sections += ["<h2>Probes</h2>", _probes(scalars)]
    sections += ["<h2>Config</h2>", _text(_config(work_dir), "No config was logged.")]
    environment = _environment(work_dir)
    sections += ["<h2>Environment</h2>", _text(environment, "No log was found.")]
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(name)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    content = page.encode("utf-8", errors="replace")
    write_atomically(Path(path), lambda file: file.write(content))


def _odd_values(scalars: Mapping[str, Series], left_out: Counter[str]) -> list[str]:
    """What the curves do not show, as text."""
    rows = {reason: f"{number:,}" for reason, number in left_out.items()}
    for name, series in scalars.items():
        odd = series.values[np.isnan(drawable(series.values))]
        if len(odd):
            rows[name] = f"{len(odd):,} of {len(series.values):,}, the last {odd[-1]}"
    return ["<h3>Not shown, or only in part</h3>", _table(rows)] if rows else []


def _reconstructions(work_dir: Path, pictures: Mapping[str, np.ndarray]) -> list[str]:
    sections = [
        f"<h3>{html.escape(title)}</h3>{_image(picture, title)}"
        for title, picture in pictures.items()
    ]
    for name in ("reconstruction", "loss_by_step"):
        found = _latest_picture(work_dir, name)
        if found is not None:
            step, png = found
            sections.append(f"<h3>{name}, iteration {step:,}</h3>{_png(png, name)}")
    if not sections:
        sections.append(
            "<p>None: no PictureHook logged any, and none was drawn for this report."
            "</p>"
        )
    return ["<h2>Reconstructions</h2>", *sections]


def _latest_picture(work_dir: Path, name: str) -> tuple[int, bytes] | None:
    """Iteration and content of the picture that was logged last by the latest start."""
    paths = run_files(work_dir, f"*/vis_data/vis_image/{name}_*.png")
    steps = {
        (path.parent, int(match[1])): path
        for path in paths
        if (match := re.fullmatch(rf"{name}_(\d{{1,15}})\.png", path.name))
    }
    for (_, step), path in sorted(steps.items(), reverse=True)[:1]:
        content, is_longer = read_start(path, _MAX_PICTURE)
        if content.startswith(b"\x89PNG\r\n") and not is_longer:
            return step, content
    return None


def _probes(scalars: Mapping[str, Series]) -> str:
    """Last and best of every accuracy that was logged."""
    rows = {
        name: f"{series.values[-1]:.2f} at {series.steps[-1]:g}; best "
        f"{series.values.max():.2f} at {series.steps[series.values.argmax()]:g}"
        for name, series in sorted(scalars.items())
        if name.startswith("accuracy")
    }
    return _table(rows) if rows else "<p>None was logged.</p>"


def _config(work_dir: Path) -> str:
    """The whole config of the latest start, as it was run."""
    files = run_files(work_dir, "*/vis_data/config.py")
    return _beginning(files[-1]) if files else ""


def _environment(work_dir: Path) -> str:
    """What MMEngine logged about machine and libraries at the latest start."""
    for path in run_files(work_dir, "*/*.log")[: -_MAX_LOGS - 1 : -1]:
        _, start, rest = f"\n{_beginning(path)}".partition("\nSystem environment:\n")
        found, *end = re.split(r"^-{20,}$", rest, maxsplit=1, flags=re.M)
        if end:
            # The flags that PyTorch was compiled with say little and fill a page.
            found = re.sub(r"^  - Build settings:.*\n", "", found, flags=re.M)
            return start.lstrip() + found
    return ""


def _beginning(path: Path) -> str:
    content, is_longer = read_start(path, _MAX_TEXT)
    text = content.decode(errors="replace")
    return f"{text}\n... and more than {_MAX_TEXT:,} bytes" if is_longer else text


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(readable(name, 100))}</th>"
        f'<td class="number">{html.escape(value)}</td></tr>'
        for name, value in list(rows.items())[:_MAX_ROWS]
    )
    more = len(rows) - _MAX_ROWS
    return f"<table>{cells}</table>" + (
        f"<p>And {more:,} more.</p>" if more > 0 else ""
    )


def _text(text: str, missing: str) -> str:
    return f"<pre>{html.escape(text)}</pre>" if text else f"<p>{missing}</p>"


def _image(picture: np.ndarray, alt: str) -> str:
    ok, png = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert ok
    return _png(png.tobytes(), alt)


def _png(content: bytes, alt: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
