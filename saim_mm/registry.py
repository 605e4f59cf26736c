"""Registration: once, for every scope.

A class is registered in MMEngine's root registry, so that its bare name resolves
from any default scope (mmengine, mmpretrain, mmdet, mmseg, ...), and in the scope
``saim_mm``, so that ``saim_mm.NAME`` resolves from any of them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = "saim_mm"

DATASETS = Registry("dataset", parent=root.DATASETS, scope=SCOPE)
DATA_SAMPLERS = Registry("data sampler", parent=root.DATA_SAMPLERS, scope=SCOPE)
HOOKS = Registry("hook", parent=root.HOOKS, scope=SCOPE)
LOOPS = Registry("loop", parent=root.LOOPS, scope=SCOPE)
METRICS = Registry("metric", parent=root.METRICS, scope=SCOPE)
MODEL_WRAPPERS = Registry("model_wrapper", parent=root.MODEL_WRAPPERS, scope=SCOPE)
MODELS = Registry("model", parent=root.MODELS, scope=SCOPE)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optim wrapper constructor", parent=root.OPTIM_WRAPPER_CONSTRUCTORS, scope=SCOPE
)
PARAM_SCHEDULERS = Registry(
    "parameter scheduler", parent=root.PARAM_SCHEDULERS, scope=SCOPE
)
TRANSFORMS = Registry("transform", parent=root.TRANSFORMS, scope=SCOPE)

_BY_KIND: dict[str, Registry] = {
    "dataset": DATASETS,
    "data_sampler": DATA_SAMPLERS,
    "hook": HOOKS,
    "loop": LOOPS,
    "metric": METRICS,
    "model": MODELS,
    "model_wrapper": MODEL_WRAPPERS,
    "optim_wrapper_constructor": OPTIM_WRAPPER_CONSTRUCTORS,
    "param_scheduler": PARAM_SCHEDULERS,
    "transform": TRANSFORMS,
}

T = TypeVar("T", bound=type)


def register(kind: str) -> Callable[[T], T]:
    """Registers a class under its own name, in the root and in ``saim_mm``.

    Args:
        kind: One of the keys of ``_BY_KIND``, such as ``"model"``.

    Returns:
        The class decorator; it returns the class unchanged.
    """
    registry = _BY_KIND[kind]

    def decorate(cls: T) -> T:
        assert registry.parent is not None
        for node in (registry.parent, registry):
            node.register_module(module=cls)
        return cls

    return decorate
