"""kNN: exact, and features that do not depend on how they were computed."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from class_folders import (
    NORMAL,
    launch,
    unpack_cifar10,
    write_checkpoint,
    write_class_folders,
)
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from PIL import Image
from run_tool import run_tool
from tiny import tiny_backbone, tiny_saim

from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import (
    FeatureExtractor,
    Features,
    build_encoder,
    knn,
    knn_accuracy,
    knn_scores,
)
from saim_mm.utils.model_state import evaluation_mode, random_state_kept
from saim_mm.weights import CheckpointError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/analysis_tools/knn.py"
DATA = os.environ.get("SAIM_MM_DATA")


def slow_scores(
    queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, classes: int, k: int
) -> np.ndarray:
    """DINO's classifier, a query and a neighbour at a time, in float64."""
    votes = np.zeros((len(queries), classes))
    for row, query in enumerate(queries):
        cosine = [
            query @ key / np.linalg.norm(query) / np.linalg.norm(key) for key in bank
        ]
        for index in sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]:
            votes[row, labels[index]] += np.exp(cosine[index] / 0.07)
    return votes / votes.sum(axis=1, keepdims=True)


def random_features(
    number: int, seed: int, classes: int = 5, width: int = 12
) -> Features:
    rng = np.random.default_rng(seed)
    return Features(
        torch.tensor(rng.normal(size=(number, width)), dtype=torch.float32),
        torch.tensor(rng.integers(0, classes, number)),
    )


def frozen_tiny(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(
        tiny_backbone(image_size=(32, 32), patch_size=(8, 8), **options)
    )
    model.init_weights()
    return model


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("k", [1, 10, 20])
def test_scores_equal_the_slow_reference(k, chunk, monkeypatch) -> None:
    bank, queries = random_features(60, 0), random_features(17, 1)
    if chunk:  # 17 queries in threes
        monkeypatch.setattr(knn, "_MAX_SIMILARITIES", chunk * len(bank))
    expected = slow_scores(
        queries.vectors.double().numpy(),
        bank.vectors.double().numpy(),
        bank.labels.numpy(),
        5,
        k,
    )
    scores = knn_scores(queries.vectors, bank, 5, k)
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-6)
    share = (expected.argmax(1) == queries.labels.numpy()).mean()
    assert knn_accuracy(queries, bank, k) == pytest.approx(100 * share)


def test_closer_neighbours_outvote_more_distant_ones() -> None:
    bank = Features(
        torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]]), torch.tensor([1, 0, 0])
    )
    query = torch.tensor([[5.0, 0.1]])
    assert knn_scores(query, bank, 2, k=3).argmax() == 1
    assert knn_scores(query, bank, 2, k=3, temperature=10.0).argmax() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(k=0), "k=0"), (dict(k=61), "60"), (dict(temperature=0), "temperature=0")],
)
def test_bad_options(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        knn_accuracy(random_features(4, 1), random_features(60, 0), **options)


@pytest.mark.parametrize("pool", ["avg", "cls"])
def test_features_are_of_the_last_block_whatever_the_backbone_returns(pool) -> None:
    images = torch.rand(3, 3, 32, 32) * 255
    samples = [_sample(label) for label in (2, 0, 1)]
    found = []
    for options in (dict(out_type="raw"), dict(out_type="cls_token", final_norm=True)):
        backbone = frozen_tiny(**options)
        extractor = FeatureExtractor(backbone, SelfSupDataPreprocessor(**NORMAL), pool)
        found.append(extractor(dict(inputs=images, data_samples=samples)))
    assert torch.equal(found[0].vectors, found[1].vectors)
    assert found[0].labels.tolist() == [2, 0, 1]

    backbone = frozen_tiny(out_type="raw")
    backbone.eval()
    (tokens,) = backbone((images.flip(1) - 120) / 60)
    expected = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(found[0].vectors, expected)


@pytest.mark.parametrize(("layer", "blocks"), [(0, 1), (2, 3), (-2, 3), (-1, 4)])
def test_features_of_an_inner_block_and_no_norm_but_after_the_last(
    layer: int, blocks: int
) -> None:
    """As a backbone that ends there, without its final norm before the end."""
    backbone = frozen_tiny(final_norm=True, num_layers=4)
    shorter = frozen_tiny(final_norm=True, num_layers=blocks, out_type="raw")
    for module in (backbone, shorter):
        torch.nn.init.constant_(module.ln1.bias, 0.5)
    shorter.load_state_dict(backbone.state_dict(), strict=False)
    if blocks < 4:
        shorter.final_norm = False
    shorter.eval()
    images = torch.randn(2, 3, 32, 32)
    extractor = FeatureExtractor(
        backbone, SelfSupDataPreprocessor(), final_norm=True, layer=layer
    )
    with torch.no_grad():
        expected = shorter(images)[-1][:, 1:].mean(dim=1)
    assert torch.equal(extractor.vectors(images), expected)


@pytest.mark.parametrize("layer", [4, -5])
def test_layers_that_do_not_exist(layer: int) -> None:
    backbone = frozen_tiny(num_layers=4)
    with pytest.raises(ValueError, match=f"layer={layer}.*4 layers, 0 to 3"):
        FeatureExtractor(backbone, SelfSupDataPreprocessor(), layer=layer)


def _sample(label: int):
    return DataSample().set_gt_label(label)


def test_features_do_not_depend_on_batches_or_workers(tmp_path: Path) -> None:
    train, _ = split_class_folders(write_class_folders(tmp_path), (32, 32))
    extractor = FeatureExtractor(frozen_tiny(), SelfSupDataPreprocessor(**NORMAL))
    one, many = extractor.extract(train, 12), extractor.extract(train, 5, 2)
    torch.testing.assert_close(one.vectors, many.vectors)
    assert one.labels.tolist() == many.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("final_norm", [False, True])
def test_features_of_images_in_memory(final_norm: bool) -> None:
    """As the encoder run by hand, whatever the batches and the preprocessor."""
    backbone = frozen_tiny(out_type="raw", final_norm=final_norm)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1)  # norms that do something
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(5)
    preprocessor = SelfSupDataPreprocessor([120.0] * 3, [60.0] * 3, to_rgb=False)
    extractor = FeatureExtractor(backbone, preprocessor, final_norm=final_norm)
    found = extractor.extract_tensors(images, labels)
    assert torch.equal(found.labels, labels)
    backbone.eval()
    with torch.no_grad():
        tokens = backbone((images.float() - 120) / 60)[0]
    assert torch.equal(found.vectors, tokens[:, 1:].mean(dim=1))
    by_two = extractor.extract_tensors(images, labels, batch_size=2)
    torch.testing.assert_close(by_two.vectors, found.vectors)
    samples = [_sample(label) for label in range(5)]
    batch = extractor(dict(inputs=images, data_samples=samples))
    assert torch.equal(batch.vectors, found.vectors)


def test_pools_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="'avg', 'cls'"):
        FeatureExtractor(frozen_tiny(), SelfSupDataPreprocessor(), "mean")
    with pytest.raises(ValueError, match="with_cls_token=False"):
        FeatureExtractor(
            frozen_tiny(with_cls_token=False), SelfSupDataPreprocessor(), "cls"
        )
    with pytest.raises(ValueError, match="final_norm=False"):
        backbone = frozen_tiny(final_norm=False)
        FeatureExtractor(backbone, SelfSupDataPreprocessor(), final_norm=True)


def test_evaluation_mode_puts_every_part_back() -> None:
    model = frozen_tiny()
    model.train()
    model.layers[1].eval()
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


def test_random_state_is_kept() -> None:
    def draw() -> tuple:
        return torch.rand(1).item(), np.random.rand(), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    with random_state_kept():
        assert draw() == expected
    assert draw() == expected


def test_the_choice_of_images_never_changes(tmp_path: Path) -> None:
    """Published figures are of these images, on every machine."""
    root = write_class_folders(tmp_path, val=None, train=9)
    split = split_class_folders(root, (32, 32), 0.4, 3, 2)
    train, val = (
        " ".join(
            f"{Path(path).parent.name}/{Path(path).stem}" for path, _ in images.samples
        )
        for images in split
    )
    assert train == "blue/3 blue/4 blue/7 green/1 green/2 green/5 red/0 red/2 red/8"
    assert val == "blue/2 blue/6 green/0 green/3 red/1 red/3"


def test_class_names_need_not_be_utf_8(tmp_path: Path) -> None:
    for name in (b"a", b"\xff\xfe", "\u00e9".encode("latin-1")):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        for index in range(4):
            Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    train, val = split_class_folders(
        tmp_path, (8, 8), val_share=0.5, images_per_class=1
    )
    assert (len(train), len(val), len(train.classes)) == (3, 6, 3)
    assert val[5]["data_samples"].gt_label.item() == 2


def test_folders(tmp_path: Path) -> None:
    """val or test, limits, splits: disjoint and the same in every run."""
    root = write_class_folders(tmp_path / "a", val="test", train=6)
    (root / "train/red/notes.txt").touch()
    (root / "train/.cache").mkdir()
    train, val = split_class_folders(root, (32, 24), images_per_class=3)
    assert (len(train), len(val)) == (9, 6)
    assert train.classes == ("blue", "green", "red")
    assert train[0]["inputs"].shape == (3, 32, 24)
    assert train.samples == split_class_folders(root, (32, 24), None, 3)[0].samples

    only_train = write_class_folders(tmp_path / "b", val=None, train=5)
    for folder in (only_train, only_train / "train"):
        train, val = split_class_folders(folder, (32, 32), val_share=0.4)
        assert (len(train), len(val)) == (9, 6)
        assert not set(train.samples) & set(val.samples)


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (None, dict(), "val or test.*found \\['train'\\].*--val-share"),
        (None, dict(val_share=1.5), "val_share=1.5"),
        (None, dict(val_share=0.5, images_per_class=0), "images_per_class=0"),
        (None, dict(val_share=0.5, crop_ratio=2), "crop_ratio=2"),
        ("train/pink/", dict(val_share=0.5), "no image in \\['pink'\\]"),
        ("val/", dict(val_share=0.5), "has val/ already"),
        ("val/pink/x.png", dict(), "\\['pink'\\].*no folder"),
    ],
)
def test_bad_folders(tmp_path: Path, break_it, options, message) -> None:
    root = write_class_folders(tmp_path, val=None)
    if break_it:
        path = root / break_it
        (path if break_it.endswith("/") else path.parent).mkdir(parents=True)
        if path.suffix:
            path.touch()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        split_class_folders(root, (32, 32), **options)


def test_encoder_is_read_off_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    write_checkpoint(path)
    backbone, preprocessor = build_encoder(path)
    assert backbone.arch_settings["num_heads"] == 2
    assert tuple(backbone.img_size) == (32, 32)
    assert preprocessor.mean.flatten().tolist() == NORMAL["mean"]
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8))
    own = backbone.state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(own[name], tensor), name

    config = tmp_path / "config.py"
    config.write_text(
        "model = dict(backbone=dict(type='SAIMViT', img_size=32, patch_size=8, "
        "arch=dict(embed_dims=16, num_layers=4, num_heads=4, "
        "feedforward_channels=32)))\n"
    )
    backbone, preprocessor = build_encoder(path, config)
    assert backbone.arch_settings["num_heads"] == 4
    assert preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )


def test_checkpoints_that_are_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(dict(model={"blocks.0.attn.q.weight": torch.zeros(2)}), path)
    with pytest.raises(CheckpointError, match=str(path)):
        build_encoder(path)
    config = tmp_path / "config.py"
    config.write_text("model = dict(backbone=dict(type='ResNet'))\n")
    with pytest.raises(ValueError, match="ResNet"):
        build_encoder(path, config)


@pytest.mark.parametrize(
    "own_process", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_tool(own_process: bool, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "epoch_1.pth")
    data = write_class_folders(tmp_path / "data", val="test")
    out = tmp_path / "result.json"
    arguments = [tmp_path / "epoch_1.pth", data, "--workers", 0, "--k", 1, 3]
    arguments += ["--out", out]
    if own_process:
        done = launch(TOOL, *arguments)
        assert done.returncode == 0, done.stderr
    else:
        assert run_tool("analysis_tools.knn", *arguments) == 0
    result = json.loads(out.read_text())
    assert (result["train_images"], result["val_images"]) == (12, 6)
    assert result["accuracy_k3"] == 100  # colours


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["html", "link", "deep"])
def test_a_broken_image_is_one_line(
    damage: str, workers: int, tmp_path: Path, capsys
) -> None:
    root = write_class_folders(tmp_path / "data")
    path = next((root / "train" / "red").iterdir())
    reason = "truncated or no image"
    if damage == "html":
        path.write_bytes(b"<html>")
    elif damage == "deep":
        Image.new("I;16", (8, 8), 999).save(path, "PNG")
        reason = "16-bit values up to 999"
    else:
        path.unlink()
        path.symlink_to("nowhere")
        reason = "No such file or directory"
    write_checkpoint(tmp_path / "epoch_1.pth")
    arguments = [tmp_path / "epoch_1.pth", root, "--workers", workers]
    code = run_tool("analysis_tools.knn", *arguments, "--device", "cpu")
    error = capsys.readouterr().err
    assert code == 1
    (line,) = (text for text in error.splitlines() if text.startswith("error: "))
    assert reason in line and path.name in line
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.skipif(
    not DATA or not Path(DATA, "cifar10.zip").exists(), reason="no cifar10.zip"
)
def test_random_encoder_is_above_chance_on_cifar10(tmp_path: Path) -> None:
    """500 neighbours, 200 queries, 10 classes."""
    root = unpack_cifar10(Path(DATA, "cifar10.zip"), tmp_path, train=50, test=20)
    train, val = split_class_folders(root, (32, 32), crop_ratio=1)
    torch.manual_seed(0)
    backbone = MODELS.build(
        tiny_backbone(image_size=(32, 32), patch_size=(4, 4), embed_dims=64)
    )
    backbone.init_weights()
    extractor = FeatureExtractor(backbone, SelfSupDataPreprocessor(**NORMAL))
    accuracy = knn_accuracy(extractor.extract(val), extractor.extract(train))
    print(f"\nkNN of a random encoder on CIFAR-10, 500/200: {accuracy:.1f} %")
    assert (len(train), len(val)) == (500, 200)
    assert accuracy > 15
