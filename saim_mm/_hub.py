"""Makes the package's configs known where OpenMMLab looks for models and configs."""

from __future__ import annotations

import functools
from pathlib import Path

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path
from mmpretrain.apis.model import ModelHub

PACKAGE = "saim_mm"
#: Holds configs, tools and the model index; setup.py makes it.
MIM = Path(__file__).parent / ".mim"


@functools.cache
def make_known() -> None:
    """Adds the package to mmengine's list, and its models to mmpretrain's, once.

    From then on ``_base_ = 'saim_mm::saim/saim_debug.py'`` and ``mmengine.hub`` find
    its configs, and ``mmpretrain.list_models`` and ``get_model`` its models.
    """
    MODULE2PACKAGE.setdefault(PACKAGE, PACKAGE)
    add_when_asked(MIM)


def add_when_asked(mim: Path) -> None:
    """Adds the model index of a folder to mmpretrain's when mmpretrain reads its own.

    It does so when it is first asked for a model; to read YAML takes longer than all
    else of this package's import. Without an index, as in sources that were never
    installed, there is nothing to add.
    """
    name = "_register_mmpretrain_models"
    original = ModelHub.__dict__[name]

    def register(hub: type[ModelHub]) -> None:
        setattr(hub, name, original)
        original.__get__(None, hub)()
        index = mim / "model-index.yml"
        if index.is_file():
            hub.register_model_index(index, config_prefix=mim)

    setattr(ModelHub, name, classmethod(register))


def shipped_config(name: str) -> str:
    """What a config writes as ``_base_`` to be a child of one of ours in ``configs``.

    ``saim_mm::NAME``, or its path in sources that were never installed, or where
    MMEngine does not find them (0.10.7 and an editable install).
    """
    if (MIM / "configs").is_dir() and Path(get_installed_path(PACKAGE)).is_dir():
        return f"{PACKAGE}::{name}"
    return str(MIM.parents[1] / "configs" / name)
