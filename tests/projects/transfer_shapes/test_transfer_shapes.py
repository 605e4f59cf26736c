"""The transfer demo: properties of its images and labels, and a launch in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")

from projects.transfer_shapes import files, report, shapes  # noqa: E402

ROOT = Path(__file__).parents[3]
SIZE = 64
SEEDS = range(30)
#: A user stands in the clone; here, in an empty folder.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def maker() -> shapes.SceneMaker:
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (100, 150, 3), dtype=np.uint8) for _ in range(3)]
    return shapes.SceneMaker(photos, SIZE)


@pytest.fixture(scope="module")
def scenes(maker: shapes.SceneMaker) -> list:
    return [maker.make((seed,), files.FEW) for seed in SEEDS]


def test_boxes_are_tight_around_masks(scenes: list) -> None:
    for scene in scenes:
        for (x, y, width, height), mask in zip(scene.boxes(), scene.masks, strict=True):
            inside = np.zeros_like(mask)
            inside[y : y + height, x : x + width] = True
            assert not (mask & ~inside).any()
            cut = mask[y : y + height, x : x + width]
            assert cut[0].any() and cut[-1].any()
            assert cut[:, 0].any() and cut[:, -1].any()


def test_objects_do_not_overlap_and_differ_from_the_background(
    maker: shapes.SceneMaker, scenes: list
) -> None:
    counts = {len(scene.classes) for scene in scenes}
    assert counts == {1, 2}
    for scene in scenes:
        assert scene.image.shape == (SIZE, SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.masks.any(axis=(1, 2)).all()
        assert len(scene.classes) == len(scene.masks)


def test_the_same_seed_gives_the_same_scene(maker: shapes.SceneMaker) -> None:
    first, again, other = (
        maker.make(seed, files.FEW) for seed in [(3, 1), (3, 1), (3, 2)]
    )
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)
    assert first.classes == again.classes
    assert not np.array_equal(first.image, other.image)


def test_a_class_needs_both_its_shape_and_its_texture() -> None:
    pairs = list(shapes.CLASSES.values())
    assert len(set(pairs)) == len(pairs) == 8
    for part in (0, 1):
        names = [pair[part] for pair in pairs]
        assert all(names.count(name) == 2 for name in names)


def test_colours_tell_no_class(maker: shapes.SceneMaker) -> None:
    """Between two classes the mean colour differs less than within one."""
    means = np.array(
        [
            [
                scene.image[scene.masks[0]].mean(axis=0)
                for seed in range(20)
                for scene in [maker.make((label, seed), files.ONE, name)]
            ]
            for label, name in enumerate(shapes.CLASSES)
        ]
    )
    assert means.mean(axis=1).std(axis=0).max() < 0.5 * means.std(axis=1).mean()


def test_a_given_class_is_that_of_all_objects(maker: shapes.SceneMaker) -> None:
    for name in shapes.CLASSES:
        assert set(maker.make((0,), files.FEW, name).classes) == {name}


@pytest.mark.parametrize("side", [None, SIZE - 1])
def test_photographs_of_no_use(side: int | None) -> None:
    photos = [] if side is None else [np.zeros((200, side, 3), np.uint8)]
    with pytest.raises(ValueError, match=f"smaller than size={SIZE}"):
        shapes.SceneMaker(photos, SIZE)


def test_label_map_and_coco_say_what_the_scene_says(scenes: list) -> None:
    from pycocotools import mask as rle

    coco = files.coco_annotations(scenes)
    assert [image["id"] for image in coco["images"]] == list(range(len(scenes)))
    names = {entry["id"]: entry["name"] for entry in coco["categories"]}
    found = iter(coco["annotations"])
    for i, scene in enumerate(scenes):
        segments = files.label_map(scene)
        assert (segments[~scene.masks.any(axis=0)] == 1).all()
        for name, mask in zip(scene.classes, scene.masks, strict=True):
            assert set(segments[mask]) == {files.SEGMENTS.index(name) + 1}
            annotation = next(found)
            assert annotation["image_id"] == i
            assert names[annotation["category_id"]] == name
            assert annotation["area"] == mask.sum()
            assert np.array_equal(rle.decode(annotation["segmentation"]), mask)
            assert list(rle.toBbox(annotation["segmentation"])) == annotation["bbox"]
    assert next(found, None) is None


def test_class_names_of_the_configs() -> None:
    from mmengine.config import Config

    folder = ROOT / "configs/demo_transfer"
    for name, classes in {
        "mask-rcnn_shapes.py": files.SCENE_CLASSES,
        "upernet_shapes.py": files.SEGMENTS,
    }.items():
        cfg = Config.fromfile(folder / name, import_custom_modules=False)
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            assert tuple(loader.dataset.metainfo.classes) == classes


def test_files_and_the_labels_of_a_seed(
    maker: shapes.SceneMaker, tmp_path: Path
) -> None:
    sizes = files.Sizes(4, labelled=5, judged=2, scenes=3, judged_scenes=1)
    files.write_data(maker, tmp_path, sizes)
    assert len(list((tmp_path / "unlabelled").iterdir())) == 4
    assert len(list((tmp_path / "classes/train").rglob("*.jpg"))) == 5 * 8
    assert len(list((tmp_path / "classes/val").rglob("*.jpg"))) == 2 * 8
    coco = json.loads((tmp_path / "scenes/instances_training.json").read_text())
    for image in coco["images"]:
        path = tmp_path / "scenes/images/training" / image["file_name"]
        assert cv2.imread(str(path)).shape == (image["height"], image["width"], 3)

    chosen = files.choose_labels(tmp_path, seed=0, per_class=2)
    lines = (tmp_path / "classes/labels_0.txt").read_text().split("\n")[:-1]
    images = sorted((tmp_path / "classes/train").rglob("*.jpg"))
    order = list(shapes.CLASSES)
    images.sort(key=lambda path: (order.index(path.parent.name), path.name))
    for index, line in zip(chosen, lines, strict=True):
        name, label = line.split()
        assert images[index] == tmp_path / "classes/train" / name
        assert order[int(label)] == images[index].parent.name
    assert chosen == files.choose_labels(tmp_path, seed=0, per_class=2)
    assert chosen != files.choose_labels(tmp_path, seed=1, per_class=2)


def test_train_and_test_set_number_the_classes_alike(
    maker: shapes.SceneMaker, tmp_path: Path
) -> None:
    """One reads a list, the other folders, which count in alphabetical order."""
    from mmengine.config import Config
    from mmengine.registry import DATASETS, DefaultScope

    sizes = files.Sizes(1, labelled=1, judged=1, scenes=1, judged_scenes=1)
    files.write_data(maker, tmp_path, sizes)
    files.choose_labels(tmp_path, seed=0, per_class=1)
    cfg = Config.fromfile(ROOT / "configs/demo_transfer/classifier_shapes.py")
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    train.data_root = str(tmp_path / "classes/train")
    train.ann_file = str(tmp_path / "classes/labels_0.txt")
    test.data_root = str(tmp_path / "classes/val")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        numbers = [
            {
                Path(info["img_path"]).parent.name: info["gt_label"]
                for info in map(dataset.get_data_info, range(len(dataset)))
            }
            for dataset in map(DATASETS.build, (train, test))
        ]
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0].values())) == len(shapes.CLASSES)


def test_table() -> None:
    results = report.Results()
    for before, after in [(10, 21), (20, 30), (30, 29)]:
        results.add("probe", report.RANDOM, before)
        results.add("probe", report.PRETRAINED, after)
    assert results.table().split("\n")[-1] == (
        "| probe | 20.0 +- 10.0 | 26.7 +- 4.9 | 2 of 3 |"
    )
    assert not results.wins_clearly("probe")
    results.rows["probe"][report.PRETRAINED] = [31, 32, 33]
    assert results.wins_clearly("probe")


@pytest.mark.slow
def test_everything_in_small(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    short = ["train_cfg.max_iters=2", "param_scheduler.0.end=1"]
    short += ["param_scheduler.1.begin=1"]
    command = [sys.executable, "-m", "projects.transfer_shapes"]
    numbers = dict(unlabelled=8, labelled=3, judged=2, scenes=8)
    numbers |= {"judged-scenes": 3, "labels-per-class": 2}
    command += ["--seeds", "0", "1", *(f"--{k}={v}" for k, v in numbers.items())]
    for name in ("classify", "detect", "segment"):
        command += [f"--{name}-options", *short]
    command += ["--pretrain-options", *short, "train_dataloader.batch_size=4"]
    command += ["train_dataloader.num_workers=0"]
    command += ["train_dataloader.persistent_workers=False"]
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "work_dirs/demo_transfer"
    table = (out / "table.md").read_text()
    assert table.strip() in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert len(results["percent"]) == len(table.strip().split("\n")) - 2 == 7
    for columns in results["percent"].values():
        for values in columns.values():
            assert len(values) == 2
            assert all(-1 <= value <= 100 for value in values)
    assert cv2.imread(str(out / "predictions.png")).shape[2] == 3
    assert (out / "encoder.pth").is_file()


@pytest.mark.slow
def test_more_labels_than_images_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "projects.transfer_shapes"]
    done = subprocess.run(
        [*command, "--labels-per-class", "5", "--labelled", "4"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--labels-per-class=5" in done.stderr
    assert "--labelled=4" in done.stderr
    assert not (tmp_path / "work_dirs").exists()
