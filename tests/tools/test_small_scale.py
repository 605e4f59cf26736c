"""The small-scale suite: its images, rows, trainer, figures, records and command."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from class_folders import launch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image
from torch import Tensor

from saim_mm.models import SAIM

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools/small_scale.py"
PARTS = ("chart", "images", "judging", "results", "rows", "scheduling", "statistics",
         "table", "training")  # fmt: skip


@pytest.fixture(scope="module")
def suite() -> Iterator[SimpleNamespace]:
    """The modules of the suite, which lie beside a script and not in a package."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield SimpleNamespace(
            **{name: import_module(f"small_scale.{name}") for name in PARTS}
        )
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def tiny(suite: SimpleNamespace) -> Any:
    return suite.rows.PRESETS["tiny"]


def write_folder(root: Path, classes: int = 2, train: int = 15, test: int = 10) -> Path:
    """Classes of one colour each, of images that can be told apart."""
    rng = np.random.default_rng(0)
    for folder, number in (("train", train), ("test", test)):
        for label in range(classes):
            path = root / folder / f"class{label}"
            path.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 100, (32, 32, 3)) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(path / f"{i:02}.png")
    return root


# Images ----------------------------------------------------------------------------


def ramp(batch: int) -> Tensor:
    """Images (B, 3, 32, 32) whose value is the place: column, row, one."""
    place = (torch.arange(32) + 0.5) / 32 * 200
    column, row = place.expand(32, 32), place[:, None].expand(32, 32)
    return torch.stack([column, row, torch.full((32, 32), 7.0)]).expand(
        batch, -1, -1, -1
    )


def test_crops_keep_area_and_ratio_and_stay_inside(suite: SimpleNamespace) -> None:
    """On a ramp, the inner values of a crop tell its sides and corners."""
    views = suite.images.crop_and_flip(ramp(500), torch.Generator().manual_seed(0))
    # Slopes are per pixel of the crop; borders are left out (bicubic looks beyond).
    width = (views[:, 0, 16, 20] - views[:, 0, 16, 12]) / 8 * 32 / 200
    height = (views[:, 1, 20, 16] - views[:, 1, 12, 16]) / 8 * 32 / 200
    share, ratio = (width * height).abs(), (width / height).abs()
    # A crop that would be wider than the image is cut to its width.
    assert share.min() > 0.6 and share.max() <= 1 + 1e-4
    assert 0.66 < share.median() < 1
    assert ratio.min() > 0.72 and ratio.max() < 1.38  # torch's bicubic bends a ramp
    assert (height > 0).all()
    assert 0.4 < (width < 0).float().mean() < 0.6  # flipped
    left = views[:, 0, 16, 16] / 200 - width / 2 / 32
    assert (left - width.abs() / 2).min() > -0.01
    assert (left + width.abs() / 2).max() < 1.01
    assert torch.allclose(views[:, 2], torch.tensor(7.0), atol=1e-3)


def test_the_whole_image_is_the_image_or_its_mirror(suite: SimpleNamespace) -> None:
    images = torch.rand(20, 3, 32, 32) * 255
    views = suite.images.crop_and_flip(
        images, torch.Generator().manual_seed(0), area=(1, 1), ratio=(1, 1)
    )
    same = (views - images).flatten(1).abs().max(dim=1).values
    mirrored = (views - images.flip(3)).flatten(1).abs().max(dim=1).values
    assert torch.minimum(same, mirrored).max() < 0.05
    assert same.min() < 0.05 and mirrored.min() < 0.05


def test_normalises_as_any_other_run_does(suite: SimpleNamespace) -> None:
    """The configs read BGR and turn it round; here it is RGB from the start."""
    config = Config.fromfile(ROOT / "configs/_base_/datasets/in1k_224.py")
    preprocessor = dict(config.data_preprocessor, type="SelfSupDataPreprocessor")
    rgb = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    expected = MODELS.build(preprocessor)(
        dict(inputs=rgb.flip(1), data_samples=None), True
    )["inputs"]
    torch.testing.assert_close(suite.images.normalise(rgb), expected)


def test_batches_are_epochs_without_repetition(suite: SimpleNamespace) -> None:
    labels = torch.arange(10)
    images = suite.images.Images(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), labels)
    batches = list(
        suite.images.augmented_batches(images, 4, 3, torch.Generator().manual_seed(0))
    )
    assert len(batches) == 6  # the rest of two images is dropped, each epoch
    for epoch in range(3):
        seen = torch.cat([found for _, found in batches[2 * epoch : 2 * epoch + 2]])
        assert len(set(seen.tolist())) == 8


def test_parts_are_disjoint_balanced_and_always_the_same(
    suite: SimpleNamespace, tmp_path: Path
) -> None:
    root = write_folder(tmp_path)
    split = suite.images.load_split(root, 32, train=20, held_out=10, test=20)
    again = suite.images.load_split(root, 32, train=20, held_out=10, test=20)
    seen = set()
    for name, size in (("train", 20), ("held_out", 10), ("test", 20)):
        part, other = getattr(split, name), getattr(again, name)
        assert part.pixels.shape == (size, 3, 32, 32)
        assert part.labels.bincount().tolist() == [size // 2] * 2
        assert torch.equal(part.pixels, other.pixels)
        seen |= {image.numpy().tobytes() for image in part.pixels}
        assert (part.pixels.float().mean((1, 2, 3)) > 100).long().equal(part.labels)
    assert len(seen) == 50


def test_folders_that_do_not_fit_are_refused(
    suite: SimpleNamespace, tmp_path: Path
) -> None:
    load = suite.images.load_split
    with pytest.raises(ValueError, match="must hold train/CLASS"):
        load(tmp_path, 32, 20, 10, 20)
    root = write_folder(tmp_path / "folder")
    with pytest.raises(ValueError, match="15 images and 20 are wanted"):
        load(root, 32, 30, 10, 20)
    with pytest.raises(ValueError, match="multiples of the number of classes"):
        load(root, 32, 21, 10, 20)
    with pytest.raises(ValueError, match=r"\(32, 32\) pixels and all must have"):
        load(root, 16, 20, 10, 20)


# Rows ------------------------------------------------------------------------------


def options_of(model: SAIM) -> tuple[Any, ...]:
    taps = getattr(model.head.blur, "taps", None)
    smoothing = None
    if taps is not None:
        middle = len(taps) // 2
        sigma = (2 * math.log(taps[middle] / taps[middle - 1])) ** -0.5
        smoothing = (len(taps), round(sigma, 3))
    return (
        model.order.kind, len(model.neck.layers), model.neck.coupled, smoothing,
        model.head.loss_kind, model.head.norm_pix, model.query_share,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "saim": ("stochastic", 4, False, (9, 1.0), "l2", True, 1),
        "raster": ("raster", 0, False, None, "l2", True, 1),
        "raster-decoder": ("raster", 4, False, None, "l2", True, 1),
        "stochastic": ("stochastic", 4, False, None, "l2", True, 1),
        "coupled": ("stochastic", 0, True, None, "l2", True, 1),
        "decoder-half": ("stochastic", 2, False, None, "l2", True, 1),
        "decoder-1": ("stochastic", 1, False, None, "l2", True, 1),
        "smooth-3": ("stochastic", 4, False, (3, 1.0), "l2", True, 1),
        "smooth-3-half": ("stochastic", 4, False, (3, 0.5), "l2", True, 1),
        "mse": ("stochastic", 4, False, (9, 1.0), "l2", False, 1),
        "l1": ("stochastic", 4, False, (9, 1.0), "l1", False, 1),
        "query-half": ("stochastic", 4, False, (9, 1.0), "l2", True, 0.5),
        "query-quarter": ("stochastic", 4, False, (9, 1.0), "l2", True, 0.25),
        "segments": ("segments", 4, False, None, "l2", True, 1),
    }.items(),
)
def test_row_is_what_its_title_says(
    suite: SimpleNamespace, tiny: Any, name: str, expected: tuple[Any, ...]
) -> None:
    scale = replace(tiny, depth=4)
    config = suite.rows.model_config(suite.rows.ROWS[name], scale)
    assert options_of(suite.training.build(config)) == expected


def test_an_option_that_nobody_reads_is_refused(
    suite: SimpleNamespace, tiny: Any
) -> None:
    row = replace(suite.rows.ROWS["saim"], options=dict(smothing=None))
    with pytest.raises(TypeError, match="smothing"):
        suite.training.build(suite.rows.model_config(row, tiny))


def test_settings_go_through_json_and_the_command_line(
    suite: SimpleNamespace, tiny: Any
) -> None:
    scale = tiny.changed(["pretrain_epochs=7", "rates=(1e-3,)"])
    assert (scale.pretrain_epochs, scale.rates, scale.width) == (7, (1e-3,), 16)
    assert suite.rows.Scale.from_json(json.loads(json.dumps(scale.as_json()))) == scale
    with pytest.raises(ValueError, match="'epochs=7' names none of"):
        tiny.changed(["epochs=7"])
    with pytest.raises(ValueError, match="no value that Python could read"):
        tiny.changed(["width=wide"])


# Training and judging --------------------------------------------------------------


@pytest.fixture
def coloured(suite: SimpleNamespace) -> Any:
    """40 images of two classes, dark and bright."""
    labels = torch.arange(40) % 2
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 100, (40, 3, 32, 32), generator=generator)
    pixels = noise + 120 * labels[:, None, None, None]
    return suite.images.Images(pixels.to(torch.uint8), labels)


@pytest.mark.parametrize("name", ["saim", "raster", "mae", "simmim", "supervised"])
def test_training_lowers_the_loss_of_every_kind(
    suite: SimpleNamespace, tiny: Any, coloured: Any, name: str
) -> None:
    scale = replace(tiny, pretrain_epochs=6)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    row = suite.rows.ROWS[name]
    trained = suite.training.pretrain(row, scale, 4e-3, coloured, generator)
    assert trained.images_seen == 6 * 40
    assert len(trained.losses) == 20
    assert sum(trained.losses[-4:]) < 0.95 * sum(trained.losses[:4])


def test_same_seed_same_figures_and_another_seed_others(
    suite: SimpleNamespace, tiny: Any, coloured: Any
) -> None:
    data = suite.images.DataSplit(coloured, coloured, coloured)
    row = suite.rows.ROWS["stochastic"]
    runs = [
        suite.judging.judge(row, tiny, seed, 1e-3, data, tuning=True)
        for seed in (0, 0, 1)
    ]
    assert runs[0]["losses"] == runs[1]["losses"] != runs[2]["losses"]
    assert runs[0]["linear"] == runs[1]["linear"]


def test_judging_takes_the_test_images_and_tuning_those_held_out(
    suite: SimpleNamespace, tiny: Any, coloured: Any
) -> None:
    """Labels turned round make one of the two hopeless."""
    wrong = suite.images.Images(coloured.pixels, 1 - coloured.labels)
    row = suite.rows.ROWS["random"]
    for tuning in (False, True):
        good, bad = (wrong, coloured) if tuning else (coloured, wrong)
        data = suite.images.DataSplit(coloured, bad, good)
        figures = suite.judging.judge(row, tiny, 0, None, data, tuning)
        assert figures["knn"] > 90 and figures["linear"] > 90
        assert ("finetune" in figures) is not tuning
        assert "losses" not in figures  # nothing was trained


@pytest.mark.parametrize("name", ["saim", "mae", "simmim", "supervised"])
def test_encoder_is_the_one_that_was_trained(
    suite: SimpleNamespace, tiny: Any, coloured: Any, name: str
) -> None:
    """And keeps the final norm exactly where pretraining had one."""
    generator = torch.Generator().manual_seed(0)
    row = suite.rows.ROWS[name]
    encoder, trained = suite.judging._encoder(row, tiny, 1e-3, coloured, generator)
    source = trained.model.backbone.state_dict()
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, source[key]), key
    assert encoder.final_norm == (name in ("mae", "simmim"))


def test_features_are_means_of_the_patches(
    suite: SimpleNamespace, tiny: Any, coloured: Any
) -> None:
    config = suite.rows.encoder_config(tiny, out_type="raw", final_norm=True)
    encoder = suite.training.build(config)
    encoder.eval()
    features = suite.judging.frozen_features(encoder, coloured)
    tokens = encoder(suite.images.normalise(coloured.pixels))[0]
    assert tokens.shape == (40, 65, 16)
    torch.testing.assert_close(features.vectors, tokens[:, 1:].mean(dim=1))


def test_an_encoder_of_another_depth_is_refused(
    suite: SimpleNamespace, tiny: Any
) -> None:
    build, config = suite.training.build, suite.rows.encoder_config
    deep, shallow = build(config(replace(tiny, depth=3))), build(config(tiny))
    with pytest.raises(ValueError, match="lacks.*layers.2"):
        suite.training.copy_encoder(shallow, deep)


def test_simmim_hides_blocks_as_its_generator_does(
    suite: SimpleNamespace, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = suite.rows.model_config(suite.rows.ROWS["simmim"], tiny)
    model = suite.training.build(config)
    masks = []

    def loss(images: Tensor, samples: list) -> dict[str, Tensor]:
        masks.extend(sample.mask for sample in samples)
        return dict(loss=images.sum())

    monkeypatch.setattr(model, "loss", loss)
    suite.training._simmim_loss(model, torch.zeros(50, 3, 32, 32), None)
    mask = torch.stack(masks)
    assert mask.shape == (50, 8, 8)
    blocks = mask.view(50, 4, 2, 4, 2)
    assert torch.equal(blocks.amax((2, 4)), blocks.amin((2, 4)))
    assert (mask.sum((1, 2)) == 4 * math.ceil(0.6 * 16)).all()
    assert len({one.numpy().tobytes() for one in mask}) > 40


def test_schedule_warms_up_and_falls_along_a_cosine(suite: SimpleNamespace) -> None:
    rates = [suite.training._schedule(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


# Statistics, records and table -----------------------------------------------------


@pytest.mark.parametrize("count", range(2, 11))
def test_interval_is_student_s(suite: SimpleNamespace, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(count).normal(50, 3, count)
    found = suite.statistics.estimate(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-3)


def test_one_seed_has_no_interval_and_none_no_mean(suite: SimpleNamespace) -> None:
    one = suite.statistics.estimate([3.0])
    assert (str(one), one.half_width) == ("3.0", None)
    with pytest.raises(ValueError, match="0 values"):
        suite.statistics.estimate([])


def test_differences_are_paired_by_seed(suite: SimpleNamespace) -> None:
    """Seeds differ much and the difference hardly: only pairing sees it."""
    gain = suite.statistics.paired_difference(
        {0: 11.0, 1: 51.1, 2: 30.9, 7: 99.0}, {0: 10.0, 1: 50.0, 2: 30.0, 8: 0.0}
    )
    assert gain.count == 3
    assert gain.mean == pytest.approx(1.0)
    assert gain.half_width < 0.3
    assert gain.signed().startswith("+1.0")
    assert suite.statistics.paired_difference({0: 1.0}, {1: 1.0}) is None


def test_plan_tunes_before_what_needs_it_and_pairs_seeds(
    suite: SimpleNamespace, tiny: Any
) -> None:
    names = [run.name for run in suite.scheduling.plan(["stochastic", "mae"], 2, tiny)]
    assert names == [
        "saim_seed0_tune_0.001", "saim_seed0_tune_0.002", "stochastic_seed0",
        "mae_seed0_tune_0.001", "mae_seed0_tune_0.002", "mae_seed0",
        "stochastic_seed1", "mae_seed1",
    ]  # fmt: skip


def test_the_best_rate_on_held_out_images_is_taken(
    suite: SimpleNamespace, tiny: Any, tmp_path: Path
) -> None:
    records = suite.results.Records(tmp_path, tiny)
    saim, mse = suite.rows.ROWS["saim"], suite.rows.ROWS["mse"]
    counting = suite.results.Run(mse, 0)
    for rate, linear in ((1e-3, 40.0), (2e-3, 50.0)):
        assert not records.is_ready(counting)
        run = suite.results.Run(saim, 0, rate)
        records.write(run, dict(rate=rate, linear=linear))
    assert records.is_ready(counting)
    assert records.best_rate(mse) == 2e-3
    # A run that counts, on test images, does not choose.
    records.write(suite.results.Run(saim, 1), dict(rate=1e-3, linear=99.0))
    assert records.best_rate(mse) == 2e-3


def test_records_of_another_scale_are_refused(
    suite: SimpleNamespace, tiny: Any, tmp_path: Path
) -> None:
    suite.results.Records(tmp_path, tiny)
    with pytest.raises(ValueError, match="give another --out"):
        suite.results.Records(tmp_path, replace(tiny, width=32))
    with pytest.raises(ValueError, match="holds no records"):
        suite.results.Records.open(tmp_path / "elsewhere")


def test_a_file_is_never_seen_half_written(
    suite: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    suite.results.write_json(path, [1])

    def fail(self: Path, text: str) -> None:
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError):
        suite.results.write_json(path, [2])
    assert json.loads(path.read_text()) == [1]


def test_table_says_what_was_not_run(suite: SimpleNamespace, tiny: Any) -> None:
    records = [
        dict(row=name, seed=seed, tuning=False, rate=1e-3, train_seconds=5.0,
             knn=30.0 + seed, linear=40.0 + gain + seed, finetune=50.0)
        for name, gain in (("stochastic", 2.0), ("raster-decoder", 0.0))
        for seed in range(3)
    ]  # fmt: skip
    text = suite.table.markdown(records, tiny.as_json())
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()
            if line.startswith("|")}  # fmt: skip
    assert "31.0 ± 2.5" in rows["`stochastic`"] and "43.0 ± 2.5" in rows["`stochastic`"]
    assert rows["`mae`"].count("not run") == 3
    claim = rows["stochastic order, not raster"]
    assert "+2.0 ± 0.0" in claim and "not run" not in claim
    assert "not run" in rows["SAIM, not MAE"]
    summary = suite.table.summarise(records, tiny.as_json(), [])
    gain = summary["claims"]["stochastic order, not raster"]["linear"]
    assert gain == dict(mean=2.0, half_width=0.0, count=3)


def test_chart_has_the_rows_with_an_interval(
    suite: SimpleNamespace, tiny: Any, tmp_path: Path
) -> None:
    def content(seeds: int, rate: float, linear: float) -> dict[str, Any]:
        runs = [
            dict(row=name, seed=seed, tuning=False, rate=rate, train_seconds=5.0,
                 knn=30.0 + seed, linear=linear + gain + seed, finetune=50.0)
            for name, gain in (("mae", 3), ("saim", 0), ("l1", 9))
            for seed in range(1 if name == "l1" else seeds)
        ]  # fmt: skip
        return suite.table.summarise(runs, tiny.as_json(), [])

    contents = [content(3, 1e-3, 40.0), content(2, 8e-3, 42.0)]
    rows = suite.chart.chart_rows(contents)
    paper = "SAIM as in the paper (smoothing 9/1)"
    labels = ["MAE, rate 0.008", "MAE", f"{paper}, rate 0.008", paper]
    assert [label for label, _ in rows] == labels
    assert [figures["linear"].count for _, figures in rows] == [2, 3, 2, 3]
    picture = tmp_path / "chart.png"
    suite.chart.draw(contents, picture)
    with Image.open(picture) as image:
        assert image.width == 9 * 160
    with pytest.raises(ValueError, match="run more seeds"):
        suite.chart.draw([content(1, 1e-3, 40.0)], picture)


# Command ---------------------------------------------------------------------------


class Inline:
    """A pool that does each task at once, in this process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable, *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)
        return future


@pytest.fixture
def todo(
    suite: SimpleNamespace, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, list[str]]]:
    """Plans and does two rows with a stand-in for the judging; failed and done runs."""
    done: list[str] = []

    def judge(row: Any, _: Any, seed: int, rate: float | None, *__: Any) -> dict:
        if rate == judge.fails:
            raise ValueError("diverged")
        done.append(f"{row.name} {seed} {rate}")
        return dict(linear=100 * (rate or 0), seconds=1.0)

    def do(fails: float = -1.0, minutes: float = 1) -> tuple[int, list[str]]:
        done.clear()
        judge.fails = fails
        records = suite.results.Records(tmp_path / "out", tiny)
        runs = suite.scheduling.plan(["random", "mae"], 2, tiny)
        runs = [run for run in runs if not records.has(run)]
        failed = suite.scheduling.run_all(runs, tiny, place, 2, minutes)
        return failed, list(done)

    place = suite.scheduling.Place(tmp_path, "cpu", tmp_path / "out")
    monkeypatch.setattr(suite.scheduling, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(suite.scheduling, "judge", judge)
    monkeypatch.setitem(suite.scheduling._loaded, place, None)
    return do


def test_runs_are_done_once_with_the_tuned_rate(todo: Callable) -> None:
    everything = ["random 0 None", "mae 0 0.001", "mae 0 0.002", "mae 0 0.002",
                  "random 1 None", "mae 1 0.002"]  # fmt: skip
    assert todo() == (0, everything)
    assert todo() == (0, [])


def test_a_failure_stops_only_what_builds_on_it(todo: Callable) -> None:
    failed, done = todo(fails=0.002)
    assert done == ["random 0 None", "mae 0 0.001", "random 1 None"]
    assert failed == 3  # the tuning, and two runs that lack a rate
    assert todo() == (0, ["mae 0 0.002", "mae 0 0.002", "mae 1 0.002"])


def test_none_is_begun_after_the_time_is_up(
    todo: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert todo(minutes=0) == (0, [])
    assert "No time for 6 runs" in capsys.readouterr().out


def test_page_gets_the_table_of_the_record(
    suite: SimpleNamespace, tiny: Any, tmp_path: Path
) -> None:
    record, page = tmp_path / "record.json", tmp_path / "page.md"
    summary = suite.table.summarise([], tiny.as_json(), [])
    record.write_text(json.dumps(summary))
    page.write_text("before\n<!-- small-scale -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        suite.table.fill_page(page, record)
        text = page.read_text()
        assert text.startswith("before\n<!-- small-scale -->\n\nViT of 2 layers")
        assert text.endswith("<!-- end -->\nafter\n") and "old" not in text
    page.write_text("no markers")
    with pytest.raises(ValueError, match="<!-- small-scale -->"):
        suite.table.fill_page(page, record)


def test_docs_show_the_committed_record(suite: SimpleNamespace, tmp_path: Path) -> None:
    records = sorted((ROOT / "benchmarks").glob("small_scale_*.json"))
    if not records:
        pytest.skip("no small-scale run is recorded")
    page = tmp_path / "experiments.md"
    page.write_text((ROOT / "docs/experiments.md").read_text())
    suite.table.fill_page(page, records[0])
    assert page.read_text() == (ROOT / "docs/experiments.md").read_text()


@pytest.mark.slow
def test_command_runs_and_reports(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    ran = launch(TOOL, "run", "--data", data, "--out", out, "--preset", "tiny",
                 "--device", "cpu", "--rows", "random", "--seeds", "2")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count(" s\n") == 2
    reported = launch(TOOL, "report", "--out", out, "--name", tmp_path / "sum")
    assert reported.returncode == 0, reported.stderr
    summary = json.loads((tmp_path / "sum.json").read_text())
    assert summary["rows"]["random"]["linear"]["count"] == 2
    (begun,) = summary["circumstances"]
    assert "small_scale.py run" in begun["command"]
    assert "| `random` |" in (tmp_path / "sum.md").read_text()
