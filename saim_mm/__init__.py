"""saim_mm: Stochastic Autoregressive Image Modeling for the OpenMMLab stack.

Importing the package registers its parts and its configs; a config does it with
``custom_imports = dict(imports=['saim_mm'])``.
"""

from ._stack import check_stack
from .version import __version__

check_stack()  # first: what follows imports the stack

from . import datasets, engine, models, reliability  # noqa: E402
from ._hub import make_known  # noqa: E402

make_known()

__all__ = ["__version__", "datasets", "engine", "models", "reliability"]
