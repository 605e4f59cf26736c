"""Starts the command ``saim-mm``.

It stands beside the package, not in it: the doctor must run where the package, or what
it needs, does not import.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

#: What needs neither torch nor anything else, whose import takes seconds.
_ASKS = {"-h", "--help", "--version"}


def main() -> int:
    """Runs the command line of this process; returns the exit code."""
    if _ASKS & set(sys.argv[1:]):
        return load_alone("cli").main()
    try:
        cli = importlib.import_module("saim_mm.cli")
    except KeyboardInterrupt:  # while all that it needs is imported
        sys.stderr.write("Stopped before anything was done.\n")
        return 130
    except Exception as error:
        if sys.argv[1:2] != ["doctor"]:
            told = " ".join(str(error).split())
            sys.stderr.write(f"error: {told} (`saim-mm doctor` may know more)\n")
            return 1
        cli = load_alone("cli")
    return cli.main()


def load_alone(name: str) -> ModuleType:
    """A part of the package, without running the package's own ``__init__.py``."""
    spec = importlib.util.find_spec("saim_mm")
    assert spec is not None and spec.submodule_search_locations is not None
    stand_in = ModuleType("_saim_mm")
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[stand_in.__name__] = stand_in
    return importlib.import_module(f"{stand_in.__name__}.{name}")


if __name__ == "__main__":
    sys.exit(main())
