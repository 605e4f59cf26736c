"""Reading past names in a file with torch before 2.5.

Goes on the day that the lowest torch in ``saim_mm/_stack.py`` is 2.5, which has
``torch.serialization.safe_globals``.
"""

from __future__ import annotations

import codecs
import pickle
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from .numpy_pickles import Allowed

#: What torch came to allow later: plain values, as pickle of Python 2 spells them.
_ALLOWED_SINCE = {
    "_codecs.encode": codecs.encode,  # a bytes
    "builtins.complex": complex,
    "builtins.set": set,
    "collections.Counter": Counter,
}

_Unpickler: Any = pickle._Unpickler


class ListedUnpickler(_Unpickler):
    """Python's reader, which here looks nothing up: a name is on the list, or refused.

    It is the one written in Python, as torch's is: that in C makes room for as many
    remembered objects as a number in the file says.

    Attributes:
        allowed: Full names, and what each stands for.
    """

    #: Full names, and what each stands for.
    allowed: ClassVar[Mapping[str, Any]] = {}
    #: Without the instruction that makes room for bytes before they are read.
    dispatch: ClassVar[Mapping[int, Any]] = {
        code: read
        for code, read in _Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        full = f"{module.replace('__builtin__', 'builtins')}.{name}"
        if full not in self.allowed:
            raise pickle.UnpicklingError(f"GLOBAL {full} is not allowed")
        return self.allowed[full]


def unpickler_of(known: Allowed) -> type[ListedUnpickler]:
    """What reads past some names; torch's own reader has a fixed list."""
    reader: Any = torch._weights_only_unpickler
    allowed = {
        **reader._get_allowed_globals(),
        **_ALLOWED_SINCE,
        **getattr(reader, "_get_user_allowed_globals", dict)(),  # since 2.4
        **{name: kind for kind, name in known},
    }
    return type("Unpickler", (ListedUnpickler,), {"allowed": allowed})
