"""Says how far long work is, to people and to files."""

from __future__ import annotations

import time
from typing import TextIO


class ProgressLine:
    """One line that changes, on a terminal; elsewhere a line every few seconds."""

    def __init__(self, stream: TextIO, seconds: float = 5.0) -> None:
        self.stream = stream
        self.terminal = stream.isatty()
        self._interval = 0.2 if self.terminal else seconds
        self._next = 0.0
        self._open = False

    def due(self) -> bool:
        """Whether it is time to show something again."""
        return time.monotonic() >= self._next

    def show(self, text: str) -> None:
        """Shows a text, in place of the one before if this is a terminal."""
        self._next = time.monotonic() + self._interval
        # Carriage return, and erasing to the end of the line.
        text = f"\r{text}\x1b[K" if self.terminal else f"{text}\n"
        self._open = self.terminal
        self.stream.write(text)
        self.stream.flush()

    def say(self, text: str) -> None:
        """Says something that stays, on lines of its own."""
        self.close()
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def close(self) -> None:
        """Ends the line that changes."""
        if self._open:
            self.stream.write("\n")
            self._open = False
