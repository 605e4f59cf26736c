"""Tools as functions: to launch a process takes seconds, most of them imports."""

from __future__ import annotations

from importlib import import_module


def run_tool(name: str, *arguments: object) -> int:
    """Runs a tool in this process.

    Args:
        name: Its path below ``tools``, with dots, such as ``analysis_tools.knn``.
        *arguments: Of the command line.

    Returns:
        Its exit status.
    """
    try:
        return import_module(f"tools.{name}").main([*map(str, arguments)])
    except SystemExit as end:  # argparse
        return int(end.code or 0)
