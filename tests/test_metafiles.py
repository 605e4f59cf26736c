"""The model index that is committed is the one that configs and figures give."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from modelindex.load_model_index import load

from saim_mm.evaluation.model_index import metadata, model_name
from tools.write_metafiles import CONFIGS, FOLDERS, metafile_of, model_index

ROOT = CONFIGS.parent
#: Those whose models need compiled ops.
DENSE = ("ade20k", "coco", "demo_transfer")


def written(folder: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / folder / "metafile.yml").read_text())


def entries() -> dict[str, dict[str, Any]]:
    return {
        model["Config"]: model for name in FOLDERS for model in written(name)["Models"]
    }


def test_every_recipe_is_listed_once() -> None:
    listed = [model for name in FOLDERS for model in written(name)["Models"]]
    configs = {p for p in CONFIGS.rglob("*.py") if "_base_" not in p.parts}
    trains_nothing = {path for path in configs if "_knn_" in path.name}
    assert len(trains_nothing) > 1
    configs -= trains_nothing
    assert sorted(ROOT / model["Config"] for model in listed) == sorted(configs)
    assert len({model["Name"] for model in listed}) == len(listed)
    assert yaml.safe_load((ROOT / "model-index.yml").read_text()) == model_index()


def test_lengths_and_batches_are_the_configs() -> None:
    for config, entry in entries().items():
        known = entry["Metadata"]
        cfg = Config.fromfile(ROOT / config, import_custom_modules=False)
        assert known.get("Epochs") == cfg.train_cfg.get("max_epochs"), config
        assert known.get("Iterations") == cfg.train_cfg.get("max_iters"), config
        base = cfg.get("auto_scale_lr", {}).get("base_batch_size")
        assert known["Batch Size"] == (base or cfg.train_dataloader.batch_size), config


def test_the_papers_model() -> None:
    pytest.importorskip(
        "torch.nn.attention", reason="torch before 2.3 counts otherwise"
    )
    path = CONFIGS / "saim/saim_vit-b_800e_in1k.py"
    known = metadata(path)
    assert known == entries()["configs/saim/saim_vit-b_800e_in1k.py"]["Metadata"]
    # 86 M of a ViT-B without head, as many in the decoder, and the projector.
    assert known["FLOPs"] == pytest.approx(17.58e9, rel=2e-3)  # mmpretrain's for MAE
    assert known["Parameters"] == 175_575_552


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_written_is_what_the_configs_give(folder: str) -> None:
    pytest.importorskip(
        "torch.nn.attention", reason="torch before 2.3 counts otherwise"
    )
    if folder in DENSE:
        pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
        pytest.importorskip("mmdet")
        pytest.importorskip("mmseg")
    assert written(folder) == metafile_of(folder)


def test_the_index_is_valid() -> None:
    index = load(str(ROOT / "model-index.yml"))
    index.build_models_with_collections()
    assert not index.check(silent=True)
    assert len(index.models) == len(entries())
    assert all(not model.weights for model in index.models)


def test_probes_are_named_after_what_they_judge() -> None:
    assert model_name(CONFIGS / "saim/benchmarks/vit-b_linear_90e_in1k.py") == (
        "saim_vit-b_linear_90e_in1k"
    )


def test_the_papers_figures_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    rows = re.findall(r"^\|.*`([\w./-]+\.py)` \|(.*)\| not run \|$", page, re.MULTILINE)
    shown: dict[str, set[float]] = {}
    for config, cells in rows:
        numbers = re.findall(r"\d+\.\d+", cells)
        shown.setdefault(config, set()).update(map(float, numbers))
    figures = yaml.safe_load((CONFIGS / "figures.yml").read_text())["paper"]
    assert set(figures) - set(shown) <= {"saim/saim_vit-b_1600e_in1k.py"}  # README.md
    for config, numbers in shown.items():
        assert set(figures[config].values()) <= numbers, config
        rounded = {round(number, 1) for number in figures[config].values()}
        # The page's other figures of a config are the same, rounded or quoted.
        quoted = {72.90, 82.70} if "igpt" in config else set()
        assert numbers <= rounded | set(figures[config].values()) | quoted, config
