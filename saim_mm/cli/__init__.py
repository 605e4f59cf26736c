"""The command ``saim-mm``: verbs, each a call of the function of that name in ``api``.

A verb is a module of this folder with ``add_arguments(parser)`` and ``run(...)``, which
prints and returns the exit code. Its docstring is its ``--help``. The modules import
what they need when they run: ``doctor`` must where the rest does not import.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from ..utils.command_line import one_line_errors

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
EXIT_CODES = """\
exit codes:
  0  done; the doctor found nothing wrong, or only what a warning says
  1  not done: one line on stderr says why; or the doctor found something wrong
  2  the command line is not understood
  75 a signal (Ctrl-C) ended a training, which is saved: the same command goes on
  74 a signal ended a training, which could not be saved
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit code."""
    options = vars(make_parser().parse_args(argv))
    verb = import_module(f".{options.pop('verb')}", __name__)
    return one_line_errors(lambda _: verb.run(**options))()


def make_parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "saim-mm",
        description="SAIM pretraining for OpenMMLab.",
        epilog=EXIT_CODES,
        formatter_class=layout,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name in VERBS:
        module = import_module(f".{name}", __name__)
        text = module.__doc__ or ""
        summary = text.partition("\n")[0]
        module.add_arguments(
            verbs.add_parser(
                name,
                help=summary,
                description=text,
                epilog=EXIT_CODES,
                formatter_class=layout,
            )
        )
    return parser
