"""saim_mm: Stochastic Autoregressive Image Modeling for the OpenMMLab stack.

Importing the package registers its parts and its configs; a config does it with
``custom_imports = dict(imports=['saim_mm'])``. What people do with it is a function of
:mod:`saim_mm.api`, which is imported when one is asked for: ``saim_mm.load_encoder``.
"""

from typing import TYPE_CHECKING, Any

from ._stack import check_stack, import_quietly
from .version import __version__

check_stack()  # first: what follows imports the stack
import_quietly("mmpretrain.datasets")

from . import datasets, engine, models, reliability  # noqa: E402
from ._hub import make_known  # noqa: E402

make_known()

__all__ = ["__version__", "datasets", "engine", "models", "reliability"]


if TYPE_CHECKING:
    from .api import *  # noqa: F403
else:  # to mypy, a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        """A function of ``api`` (PEP 562)."""
        if name in _functions():
            from . import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_functions()})


def _functions() -> list[str]:
    """The names in ``api``, a file each, without importing it."""
    from pathlib import Path

    files = (Path(__file__).parent / "api").glob("[!_]*.py")
    return [file.stem for file in files]
