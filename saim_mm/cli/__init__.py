"""The command ``saim-mm``: verbs, each a call of the function of that name in ``api``.

A verb is a module of this folder with ``add_arguments(parser)`` and ``run(...)``, which
prints, and may return an exit code. Its docstring is its ``--help``. The modules import
what they need when they run: ``doctor`` must where the rest does not import.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..utils.command_line import one_line_errors, said_again
from ..version import __version__

VERBS = (
    "adapt",
    "doctor",
    "report",
    "convert",
    "pretrain",
    "embed",
    "knn",
    "probe",
    "finetune",
    "export",
)
#: Verbs that keep what is done, and go on if they are said again.
GO_ON = ("pretrain", "embed", "finetune")
EXIT_CODES = """\
exit codes:
  0  done; the doctor found nothing wrong, or only what a warning says
  1  not done: one line on stderr says why; or the doctor found something wrong
  2  the command line is not understood
  75 a signal (Ctrl-C) ended pretrain, finetune or embed: the same command goes on
  74 a signal ended a training, which could not be saved
  130 Ctrl-C ended another verb before it was done
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit code."""
    options = vars(make_parser().parse_args(argv))
    name = options.pop("verb")
    verb = import_module(f".{name}", __name__)

    def run(_: Sequence[str] | None) -> int:
        try:
            return verb.run(**options) or 0
        except KeyboardInterrupt:  # a training that has begun saves itself
            if name not in GO_ON:
                raise
            again = said_again()
            sys.stderr.write(f"Stopped. To go on, say the same again: {again}\n")
            return 75

    return one_line_errors(run)()


class _VerbParser(argparse.ArgumentParser):
    """Refuses unknown options with the usage of its verb, not of the whole command."""

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        found, unknown = super().parse_known_args(*args, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def make_parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    shared: dict[str, Any] = dict(
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a script must not break with the next option
    )
    parser = argparse.ArgumentParser(
        "saim-mm", description="SAIM pretraining for OpenMMLab.", **shared
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=_VerbParser
    )
    for name in VERBS:
        module = import_module(f".{name}", __name__)
        text = module.__doc__ or ""
        summary = text.partition("\n")[0]
        verb = verbs.add_parser(name, help=summary, description=text, **shared)
        module.add_arguments(verb)
    return parser
