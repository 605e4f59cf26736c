"""The ADE20K recipe, end to end: train, checkpoint, resume, evaluate, draw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings
from PIL import Image
from tiny import tiny_config

from saim_mm.launch import fit_to_machine

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmseg")

from mmseg.registry import DATASETS  # noqa: E402
from test_segmentor import RECIPE, WIDTH, shrink  # noqa: E402

DATA = os.environ.get("SAIM_MM_DATA")
SIZE = 64
#: Validation images; drawing is slow.
VAL = 4


def small_recipe(root: Path | str) -> Config:
    """The recipe with widths, sizes, lengths and root overridden, and nothing else."""
    cfg = shrink(Config.fromfile(RECIPE), SIZE)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(root)
        for transform in loader.dataset.pipeline:
            if transform.type in ("Resize", "RandomResize"):
                transform.scale = (4 * SIZE, SIZE)
            if transform.type == "RandomCrop":
                transform.crop_size = (SIZE, SIZE)
    cfg.val_dataloader.dataset.indices = cfg.test_dataloader.dataset.indices = VAL
    cfg.train_cfg.update(max_iters=6, val_interval=6)
    cfg.param_scheduler[0].end = cfg.param_scheduler[1].begin = 3
    cfg.default_hooks.checkpoint.interval = 3
    cfg.default_hooks.logger.interval = 1
    fit_to_machine(cfg)
    return cfg


def pretrained(folder: Path) -> Path:
    """A pretraining checkpoint on another grid: 14 x 14 patches."""
    saim = MODELS.build(
        tiny_config(image_size=224, patch_size=16, embed_dims=WIDTH, num_layers=12)
    )
    saim.init_weights()
    path = folder / "epoch_800.pth"
    torch.save(dict(state_dict=saim.state_dict()), path)
    return path


class RateRecorder(Hook):
    """Keeps the rate of the heads at every iteration."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.rates[runner.iter] = max(runner.optim_wrapper.get_lr()["lr"])


def train(
    cfg: Config, work_dir: Path, encoder: Path
) -> tuple[Runner, dict[int, float]]:
    """Trains, and returns the runner and the rate at every iteration."""
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.init_cfg = dict(type="Pretrained", checkpoint=str(encoder))
    runner = Runner.from_cfg(cfg)
    recorder = RateRecorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder.rates


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="SAIM_MM_DATA names no folder of real data")
def test_real_data_through_the_recipe(tmp_path: Path) -> None:
    """Six iterations, the last three of them again, IoUMetric, and pictures."""
    root = Path(DATA or "") / "ade"
    encoder = pretrained(tmp_path)
    _, rates = train(small_recipe(root), tmp_path / "first", encoder)
    assert list(rates) == [0, 1, 2, 3, 4, 5]
    assert max(rates.values()) == pytest.approx(4e-4)
    assert (tmp_path / "first" / "iter_6.pth").exists()

    cfg = small_recipe(root)
    cfg.update(resume=True, load_from=str(tmp_path / "first" / "iter_3.pth"))
    runner, resumed = train(cfg, tmp_path / "second", encoder)
    assert resumed == {iteration: rates[iteration] for iteration in (3, 4, 5)}
    steps = {s["step"].item() for s in runner.optim_wrapper.optimizer.state.values()}
    assert steps == {6}  # three of them from the checkpoint

    metrics, pictures = evaluate_and_draw(tmp_path / "second" / "iter_6.pth", root)
    assert set(metrics) == {"aAcc", "mIoU", "mAcc"}
    assert 0 <= metrics["mIoU"] <= 100
    assert len(pictures) == VAL
    for path in pictures:
        check_picture(path)


def evaluate_and_draw(
    checkpoint: Path, root: Path
) -> tuple[dict[str, float], list[Path]]:
    """What ``tools/test.py CONFIG CHECKPOINT --show-dir FOLDER`` does."""
    folder = checkpoint.parent / "show"
    cfg = small_recipe(root)
    cfg.update(work_dir=str(checkpoint.parent), load_from=str(checkpoint))
    cfg.visualizer.update(name="pictures", save_dir=str(folder))
    cfg.default_hooks.visualization.draw = True
    metrics = Runner.from_cfg(cfg).test()
    return metrics, sorted(folder.rglob("*.png"))


def check_picture(path: Path) -> None:
    """Two photographs under a coat of colours: true labels and predictions."""
    picture = np.asarray(Image.open(path).convert("RGB"), np.float32)
    height, width, _ = picture.shape
    assert (height, width) == (360, 2 * 480)
    for half in (picture[:, : width // 2], picture[:, width // 2 :]):
        assert half.std() > 10  # neither black nor of one colour
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 1000


def made_up_data(root: Path, size: tuple[int, int] = (70, 90)) -> Path:
    """Two training images in ADE20K's layout."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        image = root / "images/training" / f"{name}.jpg"
        labels = root / "annotations/training" / f"{name}.png"
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(image)
        Image.fromarray(rng.integers(0, 151, size, np.uint8)).save(labels)
    return root


def training_set(root: Path) -> Any:
    cfg = small_recipe(root)
    import_modules_from_strings(**cfg.custom_imports)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return DATASETS.build(cfg.train_dataloader.dataset)


def test_labels_reach_the_model_reduced(tmp_path: Path) -> None:
    """0 becomes ignored, 1 to 150 become 0 to 149."""
    dataset = training_set(made_up_data(tmp_path))
    labels = dataset[0]["data_samples"].gt_sem_seg.data
    # Smaller where RandomResize shrank the image; the model pads.
    assert labels.shape[0] == 1 and max(labels.shape[1:]) <= SIZE
    assert set(labels.unique().tolist()) <= {*range(150), 255}


def test_images_without_labels_are_no_error(tmp_path: Path) -> None:
    """All pixels unlabelled, as a photograph of something else is: nothing to learn."""
    root = made_up_data(tmp_path)
    for path in (root / "annotations/training").iterdir():
        Image.fromarray(np.zeros((70, 90), np.uint8)).save(path)
    dataset = training_set(root)
    data = pseudo_collate([dataset[0], dataset[1]])
    cfg = small_recipe(root)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg.model).train()
        data = model.data_preprocessor(data, training=True)
        losses = model(**data, mode="loss")
    assert (data["data_samples"][0].gt_sem_seg.data == 255).all()
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def write_id_151(path: Path) -> None:
    Image.fromarray(np.full((70, 90), 151, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, "does not exist"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "cannot be decoded"),
        (write_id_151, "label id 151"),
    ],
    ids=["missing", "empty", "truncated", "id out of range"],
)
def test_bad_label_map_is_named(harm: Any, message: str, tmp_path: Path) -> None:
    labels = made_up_data(tmp_path) / "annotations/training/a.png"
    harm(labels)
    with pytest.raises(ValueError, match=message) as error:
        training_set(tmp_path)[0]
    assert str(labels) in str(error.value)
    assert "seg_map_path" in str(error.value)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        training_set(tmp_path / "nowhere")
