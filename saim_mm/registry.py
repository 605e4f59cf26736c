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


DATASETS = OurRegistry("dataset", parent=root.DATASETS, scope=SCOPE)
DATA_SAMPLERS = OurRegistry("data sampler", parent=root.DATA_SAMPLERS, scope=SCOPE)
FUNCTIONS = OurRegistry("function", parent=root.FUNCTIONS, scope=SCOPE)
HOOKS = OurRegistry("hook", parent=root.HOOKS, scope=SCOPE)
LOOPS = OurRegistry("loop", parent=root.LOOPS, scope=SCOPE)
METRICS = OurRegistry("metric", parent=root.METRICS, scope=SCOPE)
MODEL_WRAPPERS = OurRegistry("model_wrapper", parent=root.MODEL_WRAPPERS, scope=SCOPE)
MODELS = OurRegistry("model", parent=root.MODELS, scope=SCOPE)
OPTIM_WRAPPER_CONSTRUCTORS = OurRegistry(
    "optim wrapper constructor", parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope=SCOPE
)
PARAM_SCHEDULERS = OurRegistry(
    "parameter scheduler", parent=root.PARAM_SCHEDULERS, scope=SCOPE
)
TASK_UTILS = OurRegistry("task util", parent=root.TASK_UTILS, scope=SCOPE)
TRANSFORMS = OurRegistry("transform", parent=root.TRANSFORMS, scope=SCOPE)

#: Those in which we register nothing.
_OTHERS = [
    OurRegistry(kind.name, parent=kind, scope=SCOPE)
    for kind in vars(root).values()
    if isinstance(kind, Registry) and SCOPE not in kind.children
]

_BY_KIND: dict[str, Registry] = {
    "dataset": DATASETS,
    "data_sampler": DATA_SAMPLERS,
    "function": FUNCTIONS,
    "hook": HOOKS,
    "loop": LOOPS,
    "metric": METRICS,
    "model": MODELS,
    "model_wrapper": MODEL_WRAPPERS,
    "optim_wrapper_constructor": OPTIM_WRAPPER_CONSTRUCTORS,
    "param_scheduler": PARAM_SCHEDULERS,
    "task_util": TASK_UTILS,
    "transform": TRANSFORMS,
}

T = TypeVar("T", bound=Callable)


def register(kind: str) -> Callable[[T], T]:
    """Registers a class or function under its name, in the root and in ``saim_mm``.

    Args:
        kind: One of the keys of ``_BY_KIND``, such as ``"model"``.

    Returns:
        The decorator; it returns what it decorates unchanged.
    """
    registry = _BY_KIND[kind]

    def decorate(part: T) -> T:
        assert registry.parent is not None
        for node in (registry.parent, registry):
            node.register_module(module=part)
        return part

    return decorate
