"""Hooks that look at features: what they find, and what they leave alone.

In one process, in two, and with a sharded model.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from class_folders import write_class_folders
from exact_runs import differing_bytes, on_ranks, run_config, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from tiny import tiny_config, tiny_saim

from saim_mm.datasets import SampleIndex
from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.engine import EffectiveRankHook, OnlineProbeHook, ProbeHook
from saim_mm.evaluation import FeatureExtractor, lidar, rankme, run_probes
from saim_mm.reliability import sharding
from saim_mm.reliability.sharding import is_sharded, whole_state

RANKS = 2
#: Without drop path, which each process draws on its own.
MODEL = tiny_config(num_layers=2, depth=2)
SIZE = (8, 12)
PROBES = [
    dict(type="KNNProbe", k=3),
    dict(type="LinearProbe", recipe=dict(epochs=3)),
    dict(type="LinearProbe", layer="best", recipe=dict(epochs=2)),
    dict(type="AttentiveProbe", parts=2, recipe=dict(epochs=2)),
    dict(type="AttentiveProbe", kind="efficient", parts=4, recipe=dict(epochs=2)),
]
ONLINE = dict(type="OnlineProbeHook", report=2, base_lr=5.0)
RANK = dict(type="EffectiveRankHook", interval=1, images=5, views=3, num_workers=0)
needs_fully_shard = pytest.mark.skipif(
    sharding.fully_shard is None, reason="fully_shard came with torch 2.6"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("images"), train=6, judged=3)


def probe_hook(folders: Path, **options: Any) -> dict[str, Any]:
    return dict(
        type="ProbeHook",
        data_root=str(folders),
        **{"probes": PROBES, "interval": 1, "num_workers": 0, **options},
    )


def config(
    folders: Path,
    work_dir: Path,
    *hooks: dict[str, Any],
    ranks: int = 1,
    sharded: bool = False,
    model: dict[str, Any] | None = None,
    points: tuple[str, ...] = (),
) -> Config:
    """Two epochs of four iterations with labels, a step every other."""
    cfg = run_config(
        "", work_dir, length=2, accumulation=2, ranks=ranks, model=model, points=points
    )
    dataset = cfg.train_dataloader.dataset
    dataset.update(type="CustomDataset", data_root=str(folders), data_prefix="train")
    dataset.pipeline = [dict(type="SeedSample"), *dataset.pipeline]
    cfg.custom_hooks += list(hooks)
    if sharded:
        cfg.model_wrapper_cfg = dict(type="FullyShardedModel")
        cfg.default_hooks.sharding = dict(type="ShardingHook")
    return cfg


@HOOKS.register_module(force=True)
class States(Hook):
    """What the next step meets."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self.states: list[Any] = []

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        model = runner.model
        self.states.append(
            (
                [
                    None if p.grad is None else p.grad.clone()
                    for p in model.parameters()
                ],
                [module.training for module in model.modules()],
                torch.get_rng_state(),
            )
        )


def outcome(cfg: Config, resume_from: Path | None = None) -> dict[str, Any]:
    """What a run came to, and what its hooks found."""
    result = train(copy.deepcopy(cfg), resume_from)
    runner = result["runner"]
    hub = runner.message_hub.log_scalars
    online = [h for h in runner.hooks if isinstance(h, OnlineProbeHook)]
    states = [h.states for h in runner.hooks if isinstance(h, States)]
    return dict(
        rows=result["rows"],
        model=whole_state(result["state"]["model"]),
        sharded=all(is_sharded(p) for p in runner.model.parameters()),
        states=states[0] if states else [],
        found={
            name: buffer.data[0].tolist()
            for name, buffer in hub.items()
            if name.startswith("val/") or "accuracy" in name
        },
        probe=online[0].probe.state_dict() if online else None,
    )


def all_hooks(folders: Path) -> list[dict[str, Any]]:
    return [probe_hook(folders), RANK, ONLINE, dict(type="States")]


@pytest.fixture(scope="module")
def alone(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process with all hooks."""
    folder = tmp_path_factory.mktemp("run")
    cfg = config(folders, folder, *all_hooks(folders), model=MODEL)
    return outcome(cfg) | dict(folder=folder)


def test_training_is_the_same_bit_by_bit_with_and_without(
    folders: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    without = outcome(config(folders, tmp_path, dict(type="States"), model=MODEL))
    assert alone["rows"] == without["rows"]
    assert len(without["rows"]) == 8
    for part in ("model", "states"):
        assert differing_bytes(alone[part], without[part]) == 0
    assert without["states"][0][0]  # gradients wait for a step


def test_figures_are_those_of_the_weights_as_they_are(
    folders: Path, tmp_path: Path
) -> None:
    cfg = config(folders, tmp_path, probe_hook(folders, interval=2), RANK)
    runner = train(cfg)["runner"]
    model = runner.model
    extractor = FeatureExtractor(model.backbone, model.data_preprocessor)
    hook = next(h for h in runner.hooks if isinstance(h, ProbeHook))
    train_set, val_set = split_class_folders(folders, SIZE)
    views = [extractor.extract_views(x, hook._views) for x in (train_set, val_set)]
    for name, figure in run_probes(hook.probes, *views, num_layers=2).items():
        (last,) = runner.message_hub.get_scalar(f"val/{name}").data[0]
        assert last == pytest.approx(figure), name

    crops = [
        runner.train_dataloader.dataset[SampleIndex(i * 18 // 5, seed=0, epoch=view)]
        for i in range(5)
        for view in range(3)
    ]
    images = torch.stack([crop["inputs"] for crop in crops])
    vectors = extractor.extract_tensors(images, torch.zeros(15)).vectors
    expected = dict(rankme=rankme(vectors), lidar=lidar(vectors.unflatten(0, (5, 3))))
    for name, figure in expected.items():
        last = runner.message_hub.get_scalar(f"val/{name}").data[0][-1]
        assert last == pytest.approx(figure, rel=1e-4), name
        assert 1 < figure < 15


def test_what_is_logged(folders: Path, alone: dict[str, Any]) -> None:
    (scalars,) = alone["folder"].rglob("scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    for name in (
        "accuracy/knn",
        "accuracy/linear",
        "accuracy/linear_best",
        "linear_best/layer",
        "linear_best/held_out_layer_00",
        "linear_best/held_out_layer_01",
        "accuracy/attentive",
        "accuracy/efficient",
        "efficient/rate",
        "rankme",
        "lidar",
    ):
        logged = [line for line in lines if name in line]
        assert [line["step"] for line in logged] == [1, 2], name
        assert [line[name] for line in logged] == alone["found"][f"val/{name}"], name
    online = [line for line in lines if OnlineProbeHook.tag in line]
    assert [line["step"] for line in online] == list(range(2, 9))
    assert len(alone["found"][f"train/{OnlineProbeHook.tag}"]) == 4
    pictures = {path.name for path in alone["folder"].rglob("*.png")}
    assert pictures == {"layer_curve_1.png", "layer_curve_2.png"}


# Several processes ------------------------------------------------------------------


@pytest.mark.parametrize(
    "sharded", [False, pytest.param(True, marks=needs_fully_shard)]
)
def test_two_processes_find_what_one_finds(
    folders: Path, alone: dict[str, Any], tmp_path: Path, sharded: bool
) -> None:
    """Nine images to be judged over two processes; sharded, all weights stay parts."""
    options = dict(ranks=RANKS, sharded=sharded, model=MODEL)
    cfg = config(folders, tmp_path, *all_hooks(folders), **options)
    ranks = on_ranks(RANKS, tmp_path, outcome, cfg)
    for rank in ranks:
        assert rank["sharded"] is sharded
        assert rank["found"].keys() == alone["found"].keys()
        for name, figures in alone["found"].items():
            assert rank["found"][name] == pytest.approx(figures, rel=2e-3), name
        for name, weight in alone["probe"].items():
            torch.testing.assert_close(
                rank["probe"][name], weight, atol=1e-3, rtol=1e-3
            )
    assert differing_bytes(ranks[0]["probe"], ranks[1]["probe"]) == 0


@pytest.mark.parametrize(
    "sharded", [False, pytest.param(True, marks=needs_fully_shard)]
)
def test_several_processes_train_the_same_with_and_without(
    folders: Path, tmp_path: Path, sharded: bool
) -> None:
    options = dict(ranks=RANKS, sharded=sharded)
    with_hooks, without = (
        on_ranks(
            RANKS, tmp_path, outcome,
            config(folders, tmp_path / f"{len(hooks)}", *hooks, **options),
        )
        for hooks in (all_hooks(folders), [])
    )  # fmt: skip
    for a, b in zip(with_hooks, without, strict=True):
        assert a["rows"] == b["rows"]
    assert differing_bytes(with_hooks[0]["model"], without[0]["model"]) == 0


# The online probe -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "sharded"),
    [(1, False), (2, False), pytest.param(2, True, marks=needs_fully_shard)],
)
def test_a_resumed_run_has_the_same_probe(
    folders: Path, tmp_path: Path, ranks: int, sharded: bool
) -> None:
    """In mid-epoch, mid-accumulation and between two reports."""
    options = dict(ranks=ranks, sharded=sharded, points=("iter_3",))
    hook = {**ONLINE, "report": 5}
    whole = on_ranks(
        ranks, tmp_path, outcome, config(folders, tmp_path / "a", hook, **options)
    )[0]
    saved = tmp_path / "a" / "iter_3.pth"
    resumed = on_ranks(
        ranks,
        tmp_path,
        outcome,
        config(folders, tmp_path / "b", hook, **options),
        saved,
    )[0]
    assert [row["iteration"] for row in resumed["rows"]] == [3, 4, 5, 6, 7]
    assert resumed["rows"] == whole["rows"][3:]
    for part in ("model", "probe"):
        assert differing_bytes(resumed[part], whole[part]) == 0
    assert resumed["found"] == whole["found"]


def test_a_new_run_from_the_weights_has_a_new_probe(
    folders: Path, tmp_path: Path
) -> None:
    train(config(folders, tmp_path / "a", ONLINE, points=("epoch_2",)))
    found = []
    for load in (None, str(tmp_path / "a" / "epoch_2.pth")):
        cfg = config(folders, tmp_path / "b", ONLINE)
        cfg.load_from = load
        runner = Runner.from_cfg(cfg)
        hook = next(h for h in runner.hooks if isinstance(h, OnlineProbeHook))
        runner.load_or_resume()
        hook.before_train(runner)
        found.append(hook.probe.state_dict())
    assert differing_bytes(*found) == 0


class Batches:
    """As much of a runner as the online probe needs; its SAIM does not learn."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.train_dataloader = self.dataset = self
        self.metainfo = dict(classes=("a", "b", "c"))
        self.message_hub = self
        self.iter = 0
        self.told: list[float] = []

    def update_scalar(self, name: str, value: float) -> None:
        self.told.append(value)


def test_the_probe_learns_and_is_judged_before_it_does() -> None:
    """Against the steps written out."""
    runner = Batches(tiny_saim(image_size=(8, 8)))
    hook = OnlineProbeHook(base_lr=3.0, report=2)
    hook.before_train(runner)
    weight = hook.probe[1].weight.detach().double().clone()
    bias, speed = torch.zeros(3).double(), [0.0, 0.0]
    right = []
    for step in range(6):
        runner.iter = step
        images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 3
        images += labels.float().view(-1, 1, 1, 1) * 2
        samples = [DataSample().set_gt_label(x) for x in labels]
        hook.after_train_iter(runner, step, dict(inputs=images, data_samples=samples))
        x = hook._extractor.extract_tensors(images, labels).vectors.double()
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt()
        scores = x @ weight.T + bias
        right.append((scores.argmax(1) == labels).sum().item())
        error = scores.softmax(1) - torch.nn.functional.one_hot(labels, 3)
        for i, gradient in enumerate((error.T @ x / 6, error.mean(0))):
            speed[i] = 0.9 * speed[i] + gradient
        weight, bias = (
            p - 3.0 * 6 / 256 * v for p, v in zip((weight, bias), speed, strict=True)
        )
    torch.testing.assert_close(
        hook.probe[1].weight.double(), weight, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(hook.probe[1].bias.double(), bias, atol=1e-5, rtol=1e-4)
    pairs = [100 * (a + b) / 12 for a, b in zip(right[::2], right[1::2], strict=True)]
    assert runner.told == pytest.approx(pairs)
    assert not any(p.grad is not None for p in runner.model.parameters())


def test_data_without_labels_are_refused(folders: Path, tmp_path: Path) -> None:
    cfg = config(folders, tmp_path, ONLINE)
    cfg.train_dataloader.dataset.update(type="UnlabeledImages")
    with pytest.raises(
        ValueError, match="UnlabeledImages names no classes.*'ImageNet'"
    ):
        train(cfg)
    cfg.custom_hooks[-1] = dict(ONLINE, num_classes=3)
    with pytest.raises(ValueError, match="batch has no labels.*leave OnlineProbeHook"):
        train(cfg)


# Options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (dict(ONLINE, report=0), "report=0"),
        (dict(ONLINE, base_lr=0), "base_lr=0"),
        (dict(RANK, views=1), "views=1"),
        (dict(RANK, interval=0), "interval=0"),
        (dict(RANK, layer=2), "layer=2 is out"),
        (dict(type="ProbeHook", data_root="", probes=["knm"]), "'knm' is unknown"),
        (dict(type="ProbeHook", data_root="", interval=0), "interval=0"),
    ],
)
def test_bad_options_end_a_run_at_its_start(
    hook: dict[str, Any], message: str, folders: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(config(folders, tmp_path, hook))


def test_an_encoder_that_masks_is_judged_without_its_mask(
    folders: Path, tmp_path: Path
) -> None:
    """MAE's backbone by itself would leave out three quarters of the patches."""
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    model = dict(
        type="MAE",
        backbone=dict(
            type="MAEViT", arch=arch, img_size=8, patch_size=4, mask_ratio=0.75
        ),
        neck=dict(
            type="MAEPretrainDecoder", num_patches=4, patch_size=4, embed_dim=16,
            decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2,
        ),
        head=dict(type="MAEPretrainHead", norm_pix=True, patch_size=4,
                  loss=dict(type="PixelReconstructionLoss", criterion="L2")),
    )  # fmt: skip
    cfg = config(folders, tmp_path, model=model)
    cfg.train_dataloader.dataset.pipeline[2].scale = (8, 8)
    hook = HOOKS.build(probe_hook(folders, probes=PROBES[:1]))
    runner = Runner.from_cfg(cfg)
    hook.before_train(runner)
    found = hook._judge(runner)
    mae = runner.model
    backbone, images = mae.backbone, hook._bank[0]["inputs"][None]
    (features,) = hook._extractor.extract_views([hook._bank[0]], hook._views).values()
    outputs: list[torch.Tensor] = []
    handle = backbone.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output)
    )
    mae.eval()
    with torch.no_grad():
        batch = dict(inputs=images, data_samples=None)
        inputs = mae.data_preprocessor(batch)["inputs"]
        backbone(inputs, mask=None)
    handle.remove()
    assert outputs[0].shape[1] == 5
    torch.testing.assert_close(features.vectors[0], outputs[0][0, 1:].mean(dim=0))
    assert 0 <= found["accuracy/knn"] <= 100


def test_features_that_collapse_lose_no_run(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    hook = HOOKS.build(dict(RANK))
    runner = Runner.from_cfg(config(folders, tmp_path))
    runner.logger.warning = warnings.append
    hook.before_train(runner)
    for value in (0.0, torch.nan):
        with torch.no_grad():
            for parameter in runner.model.backbone.parameters():
                parameter.fill_(value)
        hook._evaluate(runner, 1)
    assert ["alike" in warnings[0], "not finite" in warnings[1]] == [True, True]
    assert isinstance(hook, EffectiveRankHook)
    assert "val/rankme" not in runner.message_hub.log_scalars
