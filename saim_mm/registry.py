"""Registration: once, for every scope.

A class is registered in MMEngine's root registry, so that its bare name resolves
from any default scope (mmengine, mmpretrain, mmdet, mmseg, ...), and in the scope
``saim_mm``, so that ``saim_mm.NAME`` resolves from any of them too.

All that a config inherits from ``saim_mm::...`` is built in the scope ``saim_mm``,
which MMEngine writes into it. So there is a registry of every kind, and what it lacks
is looked up where the config would be built without that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import TypeVar

from mmengine import registry as root
from mmengine.registry import DefaultScope, Registry

SCOPE = "saim_mm"


class OurRegistry(Registry):
    """A registry of this package, through which the scope around it is seen."""

    def get(self, key: str) -> type | None:
        """As ``Registry.get``; bare names that are not ours are of the scope around.

        Args:
            key: A name, with or without a scope.
        """
        found = super().get(key)
        if found is not None or "." in key:
            return found
        scope = scope_around()
        with contextlib.suppress(ImportError):
            import_module(f"{scope}.registry")
        assert self.parent is not None
        around = self.parent.children.get(scope)
        return around.get(key) if around is not None else None


def scope_around() -> str:
    """The latest default scope that is neither ours nor the root's; or mmpretrain."""
    scopes = [scope.scope_name for scope in DefaultScope._instance_dict.values()]
    others = [name for name in scopes if name not in (SCOPE, "mmengine")]
    return others[-1] if others else "mmpretrain"


#: MMEngine's registries by the names of their variables: ``MODELS`` is ``model``.
_BY_KIND: dict[str, Registry] = {
    name.removesuffix("S").lower(): OurRegistry(kind.name, parent=kind, scope=SCOPE)
    for name, kind in vars(root).items()
    if isinstance(kind, Registry)
}
DATASETS = _BY_KIND["dataset"]
DATA_SAMPLERS = _BY_KIND["data_sampler"]
FUNCTIONS = _BY_KIND["function"]
HOOKS = _BY_KIND["hook"]
LOOPS = _BY_KIND["loop"]
METRICS = _BY_KIND["metric"]
MODEL_WRAPPERS = _BY_KIND["model_wrapper"]
MODELS = _BY_KIND["model"]
OPTIM_WRAPPER_CONSTRUCTORS = _BY_KIND["optim_wrapper_constructor"]
PARAM_SCHEDULERS = _BY_KIND["param_scheduler"]
TASK_UTILS = _BY_KIND["task_util"]
TRANSFORMS = _BY_KIND["transform"]

T = TypeVar("T", bound=Callable)


def register(kind: str) -> Callable[[T], T]:
    """Registers a class or function under its name, in the root and in ``saim_mm``.

    Args:
        kind: One of the keys of ``_BY_KIND``, such as ``"model"``.
    """
    registry = _BY_KIND[kind]

    def decorate(part: T) -> T:
        assert registry.parent is not None
        for node in (registry.parent, registry):
            node.register_module(module=part)
        return part

    return decorate
