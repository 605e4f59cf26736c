"""The bare type names resolve from every scope that a config may start in."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope, Registry
from mmpretrain.registry import MODELS as MMPRETRAIN
from tiny import tiny_config

import saim_mm.registry as ours
from saim_mm.models import SAIM, SAIMHead, SAIMNeck, SAIMViT

CLASSES = {cls.__name__: cls for cls in (SAIM, SAIMViT, SAIMNeck, SAIMHead)}
CONFIGS = {
    "SAIM": tiny_config(),
    "SAIMViT": tiny_config()["backbone"],
    "SAIMNeck": dict(depth=1, embed_dims=16, num_heads=2, feedforward_channels=32),
    "SAIMHead": dict(embed_dims=16, num_heads=2, patch_size=(4, 4)),
}
SCOPES = ("mmengine", "mmpretrain", "mmdet", "mmseg", "saim_mm", "some_lab")


@pytest.fixture(params=SCOPES)
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    """The model registry of one scope; ``some_lab`` stands for a user's own."""
    scope = request.param
    if scope == "mmengine":
        yield ROOT
    elif scope == "some_lab":
        yield Registry("model", parent=ROOT, scope=scope)
        ROOT.children.pop(scope)
    else:
        try:
            if scope in ("mmdet", "mmseg"):
                importlib.import_module(f"{scope}.models")
            yield importlib.import_module(f"{scope}.registry").MODELS
        except (ImportError, AssertionError) as error:
            pytest.skip(f"{scope} cannot be imported here: {error}")


@pytest.mark.parametrize("prefix", ["", "saim_mm."])
@pytest.mark.parametrize("name", CLASSES)
def test_name_resolves_in_scope(registry: Registry, name: str, prefix: str) -> None:
    """By a look-up in the scope's own registry, which builds our class."""
    assert registry.get(prefix + name) is CLASSES[name]
    config = dict(CONFIGS[name], type=prefix + name)
    assert type(registry.build(config)) is CLASSES[name]


@pytest.mark.parametrize("prefix", ["", "saim_mm."])
@pytest.mark.parametrize(
    "start", [ROOT, MMPRETRAIN, ours.MODELS], ids=lambda r: r.scope
)
@pytest.mark.parametrize("name", CLASSES)
def test_name_resolves_under_default_scope(
    registry: Registry, name: str, start: Registry, prefix: str
) -> None:
    """As Runner does it: any registry builds while the scope is the default.

    SAIM builds its parts and mmpretrain's data preprocessor, so those resolve as well.
    """
    config = dict(CONFIGS[name], type=prefix + name)
    with DefaultScope.overwrite_default_scope(registry.scope):
        assert type(start.build(config)) is CLASSES[name]


def test_every_registry_has_its_root() -> None:
    """What is registered once is found below and above."""
    for registry in ours._BY_KIND.values():
        assert registry.scope == ours.SCOPE
        assert registry.parent is not None
        assert registry.parent.scope == "mmengine"
        for name, cls in registry.module_dict.items():
            assert registry.parent.get(name) is cls


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="backbone"):
        ours.register("backbone")
