"""Parts of a page in HTML: no scripts, nothing fetched, and every text escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from .figure import COLOURS, Picture
from .run_files import readable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       margin: 1.5em auto; max-width: 76em; padding: 0 1em; }
h1, h2, h3 { font-weight: 600; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2em; } h3 { font-size: 1em; margin: 1.2em 0 .4em; }
img { max-width: 100%; height: auto; display: block; }
pre { background: #f5f5f5; padding: 1em; overflow: auto; font-size: 12px;
      max-height: 40em; }
progress { width: 100%; height: .6em; }
summary { cursor: pointer; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .25em .8em .25em 0; border-bottom: 1px solid #ddd; text-align: left;
         vertical-align: top; }
td, .words th { overflow-wrap: anywhere; } th { min-width: 6em; font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.state { border-left: .4em solid #bbb; padding: .3em .9em; margin: 1em 0;
         background: #f7f7f7; overflow-wrap: anywhere; }
.running { border-color: #1f77b4; } .finished { border-color: #2ca02c; }
.stopped, .silent { border-color: #ff7f0e; }
.plots { display: grid; gap: .8em;
         grid-template-columns: repeat(auto-fill, minmax(min(20em, 100%), 1fr)); }
.beside { display: grid; gap: 1.2em;
          grid-template-columns: repeat(auto-fit, minmax(min(26em, 100%), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .85em; color: #555; }
.large { max-width: min(52em, 100%); }
@media (max-width: 40em) {
  .words th, .words td { display: block; border: 0; padding: .1em 0; }
  .words tr { display: block; border-bottom: 1px solid #ddd; padding: .3em 0; }
}
"""
#: No scripts, no fetching: even if something slipped through unescaped.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAX_ROWS = 100


def document(title: str, parts: Iterable[str], refresh: int | None = None) -> bytes:
    """A page of parts; a browser loads it again after ``refresh`` seconds, if given."""
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">{again}'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    return page.encode("utf-8", errors="replace")


def heading(text: str, level: int = 2) -> str:
    """A heading, unless it is empty."""
    return f"<h{level}>{_line(text)}</h{level}>" if text else ""


def paragraph(text: str) -> str:
    """A paragraph, unless it is empty."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def table(
    rows: Iterable[Sequence[str]], head: Sequence[str] = (), numbers: bool = True
) -> str:
    """A table of rows, each with its title first; it says how many it leaves out.

    The head has titles of the other columns, if any. Numbers stand at the right.
    """
    kind = ' class="number"' if numbers else ""
    titles = "".join(f"<th{kind}>{_line(name, 60)}</th>" for name in head)
    named, rows = any(head), list(rows)
    lines = [f"<tr><th></th>{titles}</tr>"] if named else []
    for name, *cells in rows[:MAX_ROWS]:
        line = "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{_line(name)}</th>{line}</tr>")
    more = len(rows) - MAX_ROWS
    words = "" if numbers or named else ' class="words"'  # stacked where it is narrow
    left_out = paragraph(f"And {more:,} more." if more > 0 else "")
    content = f"<table{words}>{''.join(lines)}</table>"
    return f'<div class="scroll">{content}</div>{left_out}'


def preformatted(text: str, missing: str, title: str = "") -> str:
    """A text as it is, or a word if there is none; folded away under a title."""
    if not text:
        return paragraph(f"{readable(title, 100)}: {missing}" if title else missing)
    block = f"<pre>{html.escape(text)}</pre>"
    if not title:
        return block
    return f"<details><summary>{_line(title)}</summary>{block}</details>"


def state_box(kind: str, text: str, done: float | None = None) -> str:
    """A line that catches the eye, with a bar of the share that is done."""
    bar = "" if done is None else f'<progress value="{done:.4f}"></progress>'
    return f'<div class="state {kind}">{html.escape(text)}{bar}</div>'


def legend(names: Sequence[str]) -> str:
    """Which run has which colour; nothing for a single one."""
    marks = (
        f'<span style="color:{COLOURS[number % len(COLOURS)]}">\N{BLACK SQUARE}</span> '
        f"{_line(name, 60)}"
        for number, name in enumerate(names)
    )
    return f"<p>{' &nbsp; '.join(marks)}</p>" if len(names) > 1 else ""


def grid(items: Iterable[str], kind: str = "plots") -> str:
    """Items beside each other as far as the window is wide."""
    return f'<div class="{kind}">{"".join(items)}</div>'


def figure(content: str, caption: str) -> str:
    """An image with a line below it."""
    return f"<figure>{content}<figcaption>{_line(caption)}</figcaption></figure>"


def image(picture: Picture, alt: str, kind: str = "") -> str:
    """A picture (H, W, 3) in RGB."""
    ok, content = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert ok
    return png(content.tobytes(), alt, kind)


def png(content: bytes, alt: str, kind: str = "") -> str:
    """The content of a PNG file as an image."""
    data = base64.b64encode(content).decode("ascii")
    style = f' class="{kind}"' if kind else ""
    return f'<img alt="{_line(alt)}"{style} src="data:image/png;base64,{data}">'


def _line(text: str, length: int = 100) -> str:
    return html.escape(readable(text, length))
