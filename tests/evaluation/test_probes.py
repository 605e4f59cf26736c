"""Probes of layers and patches: what they read, how they choose, what they find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from class_folders import NORMAL, write_checkpoint, write_class_folders
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS, TASK_UTILS
from PIL import Image
from run_tool import run_tool
from tiny import tiny_backbone, tiny_saim

from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import (
    AttentiveRecipe,
    FeatureExtractor,
    Features,
    ProbeRecipe,
    View,
    attentive_probe,
    best_layer_probe,
    build_encoder,
    build_probes,
    features,
    hold_out,
    judge,
    knn_accuracy,
    linear_probe,
    rankme,
    run_probes,
    views_of,
)
from saim_mm.evaluation.attentive_probe import choose_rate
from saim_mm.evaluation.probes import (
    AttentiveProbe,
    LinearProbe,
    curves_of,
    named_probes,
)
from saim_mm.models.probing.attentive_pool import AttentivePool, EfficientPool

QUICK = dict(epochs=3)


def classes(number: int, seed: int, noise: float, width: int = 8) -> Features:
    """Three classes around three centres."""
    centres = torch.randn(3, width, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    vectors = centres[labels] + noise * torch.randn(number, width, generator=generator)
    return Features(vectors, labels)


def marked_patches(number: int, seed: int) -> Features:
    """One patch of ten is the class's; the others are the same mixture for all.

    The mean of the patches hardly tells; a pooling that looks for the mark does.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % 3
    patches = 3 * torch.randn(number, 10, 8, generator=generator)
    where = torch.randint(10, (number,), generator=generator)
    mark = 2 * torch.eye(8)[labels]
    mark[:, 7] = 12  # by which it is found
    patches[:, :, 7] = 0
    patches[torch.arange(number), where] = mark
    return Features(patches, labels)


# Views ------------------------------------------------------------------------------


def extractor(**options) -> FeatureExtractor:
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8))
    return FeatureExtractor(
        model.backbone, SelfSupDataPreprocessor(**NORMAL), **options
    )


def test_views_are_the_encoder_run_by_hand(tmp_path) -> None:
    train, _ = split_class_folders(write_class_folders(tmp_path), (32, 32))
    wanted = [View((i,)) for i in range(4)]
    wanted += [View((1, 3), "patches"), View((2,), "cls"), View((0, 3))]
    reader = extractor()
    found = reader.extract_views(train, wanted, batch_size=5)

    images = torch.stack([train[i]["inputs"] for i in range(len(train))])
    x = (images.flip(1).float() - 120) / 60
    backbone = reader.backbone
    backbone.eval()
    backbone.out_type, backbone.out_indices = "raw", [0, 1, 2, 3]
    with torch.no_grad():
        layers = backbone(x)
    for view, of_view in found.items():
        tokens = torch.stack([layers[i] for i in view.layers]).mean(dim=0)
        expected = dict(
            avg=tokens[:, 1:].mean(dim=1), cls=tokens[:, 0], patches=tokens[:, 1:]
        )[view.pool]
        torch.testing.assert_close(of_view.vectors, expected)
        assert of_view.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_final_norm_is_the_last_layers_alone() -> None:
    """Not of a mean of several, nor of layers before it."""
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8))
    normed = MODELS.build(
        tiny_backbone(image_size=(32, 32), patch_size=(8, 8), final_norm=True)
    )
    normed.load_state_dict(model.backbone.state_dict(), strict=False)
    torch.nn.init.normal_(normed.ln1.weight)
    images, labels = torch.rand(3, 3, 32, 32) * 255, torch.arange(3)
    views = [View((3,)), View((3,), "patches"), View((2,)), View((2, 3))]
    preprocessor = SelfSupDataPreprocessor(**NORMAL)
    plain, found = (
        FeatureExtractor(*parts).view_tensors(images, labels, views)
        for parts in ((model.backbone, preprocessor),
                      (normed, preprocessor, "avg", True))
    )  # fmt: skip
    for view in views[2:]:
        assert torch.equal(found[view].vectors, plain[view].vectors)
    patches = normed.ln1(plain[views[1]].vectors)
    torch.testing.assert_close(found[views[1]].vectors, patches)
    torch.testing.assert_close(found[views[0]].vectors, patches.mean(dim=1))


def test_of_several_views_the_first_is_read() -> None:
    """As the batches of DINO and MoCo v3 have them."""
    reader = extractor()
    first, second = torch.rand(2, 3, 3, 32, 32) * 255
    batch = dict(inputs=[first, second], data_samples=None)
    alone = reader.vectors_of(dict(inputs=first))
    torch.testing.assert_close(reader.vectors_of(batch), alone)


def test_a_layer_is_an_option() -> None:
    images, labels = torch.rand(3, 3, 32, 32) * 255, torch.arange(3)
    last, third = (extractor(layer=i).extract_tensors(images, labels) for i in (-1, 2))
    both = extractor().view_tensors(images, labels, [View((2,)), View((3,))])
    assert torch.equal(last.vectors, both[View((3,))].vectors)
    assert torch.equal(third.vectors, both[View((2,))].vectors)
    with pytest.raises(ValueError, match="layer=4 is out of range"):
        extractor(layer=4)


def test_more_patches_than_memory_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(features, "_MOST_BYTES", 16 * 16 * 4 * 99)
    reader = extractor()  # 16 patches of 16 channels
    reader.check_views([View((3,), "patches")], 99)
    reader.check_views([View((3,), "avg")], 1000)
    with pytest.raises(ValueError, match="attentive_in1k"):
        reader.check_views([View((3,), "patches")], 100)


# Best layer -------------------------------------------------------------------------


def test_hold_out_takes_a_share_of_each_class_and_repeats() -> None:
    labels = torch.tensor([0] * 20 + [1] * 9 + [2] * 2 + [3])
    before = torch.get_rng_state()
    held = hold_out(labels, 0.25)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(held, hold_out(labels, 0.25))
    assert torch.bincount(labels[held], minlength=4).tolist() == [5, 2, 1, 0]
    assert not torch.equal(held, hold_out(labels, 0.25, seed=1))
    with pytest.raises(ValueError, match="share=1"):
        hold_out(labels, 1)


def test_the_best_layer_is_chosen_without_the_images_to_be_judged() -> None:
    """On those another layer is perfect; it must not be taken."""
    train = [classes(60, i, noise) for i, noise in enumerate((4.0, 0.3, 4.0))]
    val = [classes(30, 9, noise) for noise in (0.0, 0.3, 0.0)]
    curve = best_layer_probe(train, val)
    assert curve.best == 1
    assert max(curve.held_out) == curve.held_out[1]
    assert curve.accuracy == linear_probe(train[1], val[1]).accuracy
    held = hold_out(train[0].labels, 0.1)
    for layer, found in zip(train, curve.held_out, strict=True):
        rest, judged = (
            Features(layer.vectors[m], layer.labels[m]) for m in (~held, held)
        )
        assert found == linear_probe(rest, judged).accuracy


# Attentive --------------------------------------------------------------------------


_LONG = AttentiveRecipe(epochs=100, batch_size=60, base_lr=0.02)


@pytest.mark.parametrize("pool", [AttentivePool(8, 2), EfficientPool(8, 4)])
def test_attention_finds_what_the_mean_hides(pool) -> None:
    train, val = marked_patches(600, 0), marked_patches(300, 1)
    result = attentive_probe(pool, train, val, _LONG)
    mean = linear_probe(
        *(Features(x.vectors.mean(dim=1), x.labels) for x in (train, val))
    )
    assert result.accuracy > 95
    assert mean.accuracy < 75


def test_the_rate_is_chosen_on_held_out_training_images() -> None:
    train, pool = marked_patches(120, 0), EfficientPool(8, 4)
    rates, recipe = (1e-6, 0.3, 0.02), AttentiveRecipe(epochs=20, batch_size=30)
    held = hold_out(train.labels, 0.1)
    rest, judged = (Features(train.vectors[m], train.labels[m]) for m in (~held, held))
    found = [
        attentive_probe(pool, rest, judged, replace(recipe, base_lr=rate)).accuracy
        for rate in rates
    ]
    assert max(found) > found[0]
    chosen = choose_rate(pool, train, rates, recipe)
    assert chosen == replace(recipe, base_lr=rates[found.index(max(found))])
    assert choose_rate(pool, train, [7.0], recipe).base_lr == 7.0


def test_a_probe_repeats_whatever_its_weights_and_the_random_stream() -> None:
    train, val = marked_patches(60, 0), marked_patches(30, 1)
    recipe = AttentiveRecipe(epochs=2)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pool = AttentivePool(8, 2)
        before = torch.get_rng_state()
        attentive_probe(pool, train, val, recipe)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(pool.key.weight.detach().clone())
    assert torch.equal(*found)


def test_bad_numbers() -> None:
    with pytest.raises(ValueError, match="least 2 and 1"):
        attentive_probe(AttentivePool(8, 2), marked_patches(1, 0), marked_patches(3, 1))


# A row of probes --------------------------------------------------------------------


def test_a_row_gives_what_each_of_them_gives() -> None:
    layers = [classes(60, i, noise) for i, noise in enumerate((2.0, 1.0, 3.0))]
    judged = [classes(30, 5 + i, noise) for i, noise in enumerate((2.0, 1.0, 3.0))]
    train, val = ({View((i,)): x for i, x in enumerate(part)}
                  for part in (layers, judged))  # fmt: skip
    patches = View((2,), "patches")
    train[patches], val[patches] = marked_patches(60, 0), marked_patches(30, 1)
    probes = build_probes(
        [
            dict(type="KNNProbe", k=3),
            dict(type="LinearProbe", recipe=QUICK),
            dict(type="LinearProbe", layer=0, recipe=QUICK),
            dict(type="LinearProbe", layer="best", recipe=QUICK),
            dict(type="AttentiveProbe", blocks=1, parts=2, rates=[3e-3], recipe=QUICK),
            dict(
                type="AttentiveProbe",
                kind="efficient",
                parts=4,
                rates=[1e-7, 0.1],
                recipe=QUICK,
            ),
            "rankme",
        ]
    )
    assert views_of(probes, 3) == set(train)
    found = run_probes(probes, train, val, 3)
    recipe, slow = ProbeRecipe(**QUICK), AttentiveRecipe(**QUICK)
    fast = AttentiveRecipe(**QUICK, base_lr=0.1)
    curve = best_layer_probe(layers, judged, recipe)
    assert found == {
        "accuracy/knn": knn_accuracy(judged[2], layers[2], 3),
        "accuracy/linear": linear_probe(layers[2], judged[2], recipe).accuracy,
        "accuracy/linear_layer0": linear_probe(layers[0], judged[0], recipe).accuracy,
        "accuracy/linear_best": curve.accuracy,
        "linear_best/layer": curve.best,
        **{f"linear_best/held_out_layer_0{i}": x for i, x in enumerate(curve.held_out)},
        "accuracy/attentive": attentive_probe(
            AttentivePool(8, 2), train[patches], val[patches], slow
        ).accuracy,
        "accuracy/efficient": attentive_probe(
            EfficientPool(8, 4), train[patches], val[patches], fast
        ).accuracy,
        "attentive/rate": 3e-3,
        "efficient/rate": 0.1,
        "rankme": rankme(layers[2].vectors),
    }
    assert curves_of(found) == {"linear_best": list(curve.held_out)}


def test_what_is_read_by_default() -> None:
    assert AttentiveProbe().views(12) == [View((6, 7, 8, 9, 10, 11), "patches")]
    assert AttentiveProbe().views(4) == [View((0, 1, 2, 3), "patches")]
    assert AttentiveProbe(kind="efficient").views(4) == [View((3,), "patches")]
    assert LinearProbe(layer="best").views(2) == [View((0,)), View((1,))]
    assert TASK_UTILS.get("saim_mm.KNNProbe") is TASK_UTILS.get("KNNProbe")


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        ([], "probes is empty"),
        (["knm"], "'knm' is unknown.*'attentive'"),
        ([dict(type="LinearProbe", layer="last")], "layer='last'"),
        ([dict(type="LinearProbe", held_out_share=1)], "held_out_share=1"),
        ([dict(type="AttentiveProbe", kind="ep")], "kind='ep'"),
        ([dict(type="AttentiveProbe", blocks=0)], "blocks=0"),
        ([dict(type="AttentiveProbe", rates=[])], "rates=\\[\\]"),
        ([dict(type="AttentiveProbe", rates=[0.1, 0])], "rates=\\[0.1, 0\\]"),
        ([dict(type="LinearProbe", recipe=dict(epochs=0))], "epochs=0"),
    ],
)
def test_bad_probes(probes, message) -> None:
    with pytest.raises(ValueError, match=message):
        build_probes(probes)


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'knn', 'knn'.*same name"):
        build_probes([dict(type="KNNProbe", k=1), dict(type="KNNProbe", k=3)])
    both = build_probes(["knn", dict(type="KNNProbe", pool="cls", layer=2)])
    assert [probe.name for probe in both] == ["knn", "knn_layer2_cls"]


# From files -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "epoch_1.pth")
    return folder / "epoch_1.pth", write_class_folders(folder / "data")


def test_tool_prints_and_draws(files, tmp_path: Path, capsys) -> None:
    out, curve = tmp_path / "result.json", tmp_path / "curve.png"
    arguments = [*files, "--workers", 0, "--out", out, "--curve", curve, "--device"]
    arguments += ["cpu", "--probe", "linear", "linear-best", "efficient", "rankme"]
    assert run_tool("analysis_tools.probe", *arguments) == 0
    result = json.loads(out.read_text())
    assert capsys.readouterr().out.startswith(json.dumps(result, indent=1))
    assert (result["train_images"], result["val_images"]) == (12, 6)
    assert result["accuracy/linear"] == 100  # colours
    assert 0 <= result["linear_best/layer"] <= 3
    assert result["accuracy/linear_best"] == 100
    assert 0 <= result["accuracy/efficient"] <= 100
    assert 1 <= result["rankme"] <= 12
    assert Image.open(curve).size[0] > 500


def test_layer_and_pool_are_those_of_the_library(files) -> None:
    checkpoint, data = files
    probes = named_probes(["rankme", "efficient"], pool="cls", layer=1)
    features = judge.frozen_features(
        checkpoint, data, pool="cls", workers=0, probes=probes
    )
    found = judge.judge_by_probes(features, probes).figures
    backbone, preprocessor = build_encoder(checkpoint)
    train, _ = split_class_folders(data, (32, 32))
    reader = FeatureExtractor(backbone, preprocessor, "cls", layer=1)
    expected = rankme(reader.extract(train).vectors)
    assert found["rankme_layer1_cls"] == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--probe", "linear", "--curve", "x.png"], "--curve draws"),
        (["--probe", "attentive", "--pool", "cls"], "pool='cls'"),
        (["--layer", "7"], "layer=7 is out of range"),
        (["--probe", "knn"], "k=20"),
    ],
)
def test_tool_says_what_is_wrong(files, options, message, capsys) -> None:
    assert run_tool("analysis_tools.probe", *files, "--workers", 0, *options) == 1
    assert message in capsys.readouterr().err
