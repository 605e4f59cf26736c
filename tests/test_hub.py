"""How mmengine's and mmpretrain's hubs find our configs and models.

tests/test_installed.py does the same from a wheel; here `.mim` is made of links.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine import hub
from mmengine.config import Config
from mmengine.registry import (
    DATASETS,
    HOOKS,
    MODELS,
    TRANSFORMS,
    VISUALIZERS,
    DefaultScope,
)
from mmpretrain import FeatureExtractor, get_model, list_models
from mmpretrain.apis.model import ModelHub

from saim_mm import _hub, launch
from saim_mm._hub import add_when_asked
from saim_mm.models import SAIM

ROOT = Path(__file__).parents[1]
WEIGHT = "backbone.patch_embed.projection.weight"
REGISTER = "_register_mmpretrain_models"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that mmengine takes for that of the installed package."""
    (tmp_path / ".mim").mkdir()
    for name in ("configs", "model-index.yml"):
        (tmp_path / ".mim" / name).symlink_to(ROOT / name)
    for module in ("hub.hub", "config.config"):
        monkeypatch.setattr(f"mmengine.{module}.get_installed_path", lambda _: tmp_path)
        if module == "config.config":
            monkeypatch.setattr(f"mmengine.{module}.is_installed", lambda _: True)
    return tmp_path


@pytest.fixture
def asked(package: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """mmpretrain's hub without models of its own; how often it read those."""
    calls: list[str] = []
    monkeypatch.setattr(ModelHub, "_models_dict", {})
    original = classmethod(lambda cls: calls.append(cls.__name__))
    monkeypatch.setattr(ModelHub, REGISTER, original)
    add_when_asked(package / ".mim")
    return calls


def test_models_are_read_once_when_asked_for(asked: list[str]) -> None:
    assert not ModelHub._models_dict and not asked
    names = list_models("*saim*")
    assert {"saim_vit-b_800e_in1k", "saim_vit-b_finetune_100e_in1k"} <= set(names)
    assert list_models("*saim*") == names
    assert asked == ["ModelHub"] * 2  # its own is called as before, ours no more


def test_no_index_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelHub, "_models_dict", {})
    monkeypatch.setattr(ModelHub, REGISTER, classmethod(lambda cls: None))
    add_when_asked(tmp_path)
    assert list_models() == []


def test_a_model_by_its_name_with_weights(asked: list[str], tmp_path: Path) -> None:
    trained = get_model("saim_debug")
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "trained.pth")
    model = get_model("saim_debug", pretrained=str(tmp_path / "trained.pth"))
    assert isinstance(model, SAIM) and not model.training
    other = get_model("saim_debug").state_dict()
    assert not torch.equal(other[WEIGHT], trained.state_dict()[WEIGHT])
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_features_by_a_name(asked: list[str]) -> None:
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy()
    (features,) = FeatureExtractor("saim_debug", device="cpu")(image)[0]
    assert features.shape[0] == 64


@pytest.mark.parametrize("name", ["saim/saim_debug.py", "_base_/runtime.py"])
def test_a_config_of_the_package(package: Path, name: str) -> None:
    expected = Config.fromfile(ROOT / "configs" / name)
    assert hub.get_config(f"saim_mm::{name}").to_dict() == expected.to_dict()
    assert launch.load_config(f"saim_mm::{name}").to_dict() == expected.to_dict()
    assert launch.load_config(ROOT / "configs" / name).to_dict() == expected.to_dict()


CHILDREN = {
    "saim/saim_debug.py": "SAIM",
    "saim/benchmarks/vit-b_scratch_100e_in1k.py": "ImageClassifier",
    "ade20k/upernet_saim-vit-b_160k_ade20k-512.py": "EncoderDecoder",
    "coco/vitdet_saim-vit-b_100e_coco.py": "MaskRCNN",
}


@pytest.mark.parametrize("name", CHILDREN)
def test_what_inherits_from_the_package_is_built(
    package: Path, tmp_path: Path, name: str
) -> None:
    """MMEngine writes our scope into it, in which each part must be found."""
    child = tmp_path / "child.py"
    child.write_text(f"_base_ = 'saim_mm::{name}'\nwork_dir = 'of the child'")
    cfg = Config.fromfile(child, import_custom_modules=False)
    if cfg.default_scope != "mmpretrain":
        pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
        pytest.importorskip(cfg.default_scope)
    cfg = Config.fromfile(child)
    assert cfg.work_dir == "of the child"
    own = cfg.default_scope == "mmpretrain"  # the others' models name their scope
    assert cfg.model._scope_ == ("saim_mm" if own else cfg.default_scope)
    assert cfg.vis_backends and cfg.visualizer._scope_ == "saim_mm"
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        with torch.device("meta"):
            assert type(MODELS.build(cfg.model)).__name__ == CHILDREN[name]
        for transform in cfg.train_dataloader.dataset.pipeline:
            assert TRANSFORMS.build(transform) is not None
        VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None, name=name))
        with DATASETS.switch_scope_and_registry("saim_mm") as registry:
            assert registry.get(cfg.train_dataloader.dataset.type) is not None
        for hook in cfg.default_hooks.values():
            HOOKS.build(hook)


def test_names_that_two_projects_have_are_those_of_the_scope_around() -> None:
    pytest.importorskip("mmseg.models")
    for scope in ("mmpretrain", "mmseg"):
        with (
            DefaultScope.overwrite_default_scope(scope),
            DefaultScope.overwrite_default_scope("saim_mm"),
        ):
            found = MODELS.build(dict(type="CrossEntropyLoss"))
            assert type(found).__module__.startswith(f"{scope}.")


@pytest.mark.parametrize("name", CHILDREN)
def test_mmengine_builds_a_model(package: Path, name: str) -> None:
    if name.startswith(("coco", "ade20k")):
        pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
        pytest.importorskip("mmdet" if name.startswith("coco") else "mmseg")
    with torch.device("meta"):
        model = hub.get_model(f"saim_mm::{name}")
    assert type(model).__name__ == CHILDREN[name]
    assert type(model.backbone).__module__.startswith("saim_mm.")


@pytest.mark.parametrize("found", [True, False])
def test_a_child_names_its_parent_so_that_it_is_found(
    found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMEngine 0.10.7 looks in ``site-packages``, where an editable install is not."""
    (tmp_path / "saim_mm" / ".mim" / "configs").mkdir(parents=True)
    monkeypatch.setattr(_hub, "MIM", tmp_path / "saim_mm" / ".mim")
    place = tmp_path / "saim_mm" if found else tmp_path / "site-packages" / "saim_mm"
    monkeypatch.setattr(_hub, "get_installed_path", lambda name: str(place))
    base = _hub.shipped_config("saim/saim_debug.py")
    path = str(tmp_path / "configs" / "saim" / "saim_debug.py")
    assert base == ("saim_mm::saim/saim_debug.py" if found else path)
