"""What command lines share: errors in one line, and where to compute."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence

#: A command: its arguments, those of the process by default -> its exit status.
Main = Callable[[Sequence[str] | None], int]


def one_line_errors(main: Main) -> Callable[..., int]:
    """Turns errors that the user can mend into a line on stderr and status 1.

    Ctrl-C becomes a line and status 130.

    Args:
        main: A command; it raises ``ValueError``, ``OSError`` or, for a package that is
            not installed, ``ImportError``.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except (ValueError, OSError, ImportError) as error:
            sys.stderr.write(f"error: {_said(error)}\n")
            return 1
        except KeyboardInterrupt:
            sys.stderr.write("Stopped before it was done.\n")
            return 130

    return wrapped


def _said(error: Exception) -> str:
    """What an error says; of the system's own, which file it is about comes first."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)


def said_again() -> str:
    """The command line of this process."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])


def counted(number: float, noun: str) -> str:
    """A number with its noun: ``1 image``, ``2 images``, ``2.5 epochs``."""
    shown = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}s"


def default_device() -> str:
    """A GPU if there is one."""
    import torch  # here, as commands must start where it is not installed

    return "cuda" if torch.cuda.is_available() else "cpu"
