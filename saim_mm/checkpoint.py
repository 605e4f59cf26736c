"""The old import path of :mod:`saim_mm.weights`; it goes with version 0.3."""

import warnings

from .weights import *  # noqa: F403
from .weights import __all__  # noqa: F401

warnings.warn(
    "saim_mm.checkpoint is saim_mm.weights now; change the import.",
    DeprecationWarning,
    stacklevel=2,
)
