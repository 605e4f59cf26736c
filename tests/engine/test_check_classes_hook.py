"""Class lists that differ between the data of a run, or from the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from class_folders import COLOURS, write_class_folders
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from saim_mm.engine import CheckClassesHook

RUNTIME = Path(__file__).parents[2] / "configs/_base_/runtime.py"


def folders(root: Path, split: str, **options: Any) -> Any:
    options = dict(type="CustomDataset", data_root=str(root / split), **options)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build(options)


def check(model: dict[str, int] | None = None, **datasets: Any) -> None:
    """Runs the hook with these datasets, of train, val, test, bank."""
    loaders = {k: SimpleNamespace(dataset=d) for k, d in datasets.items()}
    loops: dict[str, Any] = {
        f"_{k}_loop": SimpleNamespace(dataloader=loaders[k]) if k in loaders else {}
        for k in ("train", "val", "test")
    }
    if "bank" in loaders:
        loops["_test_loop"].bank_dataloader = loaders["bank"]
    module = nn.Module()
    for name, number in (model or {}).items():
        part = nn.Module()
        part.num_classes = number
        module.add_module(name, part)
    CheckClassesHook().before_run(SimpleNamespace(model=module, **loops))


def test_the_same_folders_pass(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    train, val = folders(tmp_path, "train"), folders(tmp_path, "val")
    check(dict(head=3, data_preprocessor=3), train=train, val=val)
    check(train=SimpleNamespace())  # a dataset that knows no classes
    # Names that folders do not have, as ImageNet's.
    named = dict(metainfo=dict(classes=("sky", "grass", "fire")))
    check(
        train=folders(tmp_path, "train", **named), val=folders(tmp_path, "val", **named)
    )


@pytest.mark.parametrize(
    "pair", [("train", "val"), ("train", "test"), ("bank", "test")]
)
def test_folders_that_validation_lacks(pair: tuple[str, str], tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    shutil.rmtree(tmp_path / "val/green")
    sets = [folders(tmp_path, "train"), folders(tmp_path, "val")]
    message = r"(test|val)'s dataloader .* differ in \['green'\].*empty folder"
    with pytest.raises(ValueError, match=message):
        check(**dict(zip(pair, sets, strict=True)))
    # The remedy: the labels are right again.
    (tmp_path / "val/green").mkdir()
    val = folders(tmp_path, "val")
    check(**dict(zip(pair, (sets[0], val), strict=True)))
    assert {i["gt_label"] for i in map(val.get_data_info, range(len(val)))} == {0, 2}


def test_as_many_folders_of_other_names(tmp_path: Path) -> None:
    """mmpretrain counts folders, which are as many as the classes here."""
    write_class_folders(tmp_path)
    (tmp_path / "val/green").rename(tmp_path / "val/white")
    names = dict(metainfo=dict(classes=("a", "b", "c")))
    sets = [folders(tmp_path, split, **names) for split in ("train", "val")]
    with pytest.raises(ValueError, match=r"differ in \['green', 'white'\]"):
        check(train=sets[0], val=sets[1])


def test_classes_in_another_order_than_the_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    turned = dict(metainfo=dict(classes=tuple(COLOURS)[::-1]))
    with pytest.raises(ValueError, match="differ in their order.* sorted"):
        check(train=folders(tmp_path, "train", **turned))


def test_a_string_is_no_list_of_classes() -> None:
    dataset = SimpleNamespace(metainfo=dict(classes="disc"))
    with pytest.raises(ValueError, match=r"classes='disc' is a string.*\('disc',\)"):
        check(train=dataset)


@pytest.mark.parametrize("part", ["head", "decode_head", "auxiliary_head"])
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("split", ["train", "test"])
def test_another_number_of_classes_than_the_head(
    part: str, number: int, split: str, tmp_path: Path
) -> None:
    write_class_folders(tmp_path)
    dataset = folders(tmp_path, "train")
    with pytest.raises(ValueError, match=rf"3 classes.*{part}.num_classes is {number}"):
        check({part: number}, **{split: dataset})


def test_labels_of_a_list_that_the_head_has_not(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    lines = tmp_path / "list.txt"
    lines.write_text("blue/0.png 0\nred/0.png 3\n")
    dataset = folders(tmp_path, "train", ann_file=str(lines))
    with pytest.raises(ValueError, match=r"4 classes.*head.num_classes is 3"):
        check(dict(head=3), train=dataset)
    check(dict(head=5), train=dataset)


def test_a_run_stops_before_its_first_step(tmp_path: Path) -> None:
    """Through Runner, with the hooks that configs have."""
    write_class_folders(tmp_path / "data", size=32)
    cfg = Config.fromfile(RUNTIME)
    assert cfg.default_hooks.classes == dict(type="CheckClassesHook")
    pipeline = [dict(type="LoadImage"), dict(type="PackInputs")]
    data = dict(type="CustomDataset", pipeline=pipeline)
    loader = dict(batch_size=2, sampler=dict(type="DefaultSampler"), num_workers=0)
    backbone = dict(type="LeNet5")
    cfg.update(
        work_dir=str(tmp_path / "run"),
        default_hooks=dict(classes=cfg.default_hooks.classes),
        model=dict(
            type="ImageClassifier",
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=2, in_channels=120),
        ),
        train_dataloader={
            **loader, "dataset": {**data, "data_root": str(tmp_path / "data/train")}
        },
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="set it and the dataset's metainfo"):
        Runner.from_cfg(cfg).train()
