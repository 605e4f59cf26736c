"""The ImageNet benchmarks: golden tables, schedules, and a run of each, shrunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from class_folders import COLOURS, write_class_folders
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.models.utils import SelfSupDataPreprocessor
from mmpretrain.registry import DATASETS, MODELS, PARAM_SCHEDULERS
from run_tool import run_tool
from tiny import tiny_saim

from saim_mm.datasets.class_folders import split_class_folders
from saim_mm.evaluation import FeatureExtractor, build_encoder, knn_accuracy
from saim_mm.launch import fit_to_machine
from saim_mm.weights import CheckpointError

FOLDER = Path(__file__).parents[1] / "configs/saim/benchmarks"
TRAINED = sorted(p.stem for p in FOLDER.glob("*.py") if "knn" not in p.stem)
SIZE, PATCH, WIDTH, DEPTH = 32, 8, 16, 4


def load(name: str) -> Config:
    return Config.fromfile(FOLDER / f"{name}.py")


def float32_wrapper(model: torch.nn.Module, cfg: Config):
    wrapper = cfg.optim_wrapper
    wrapper.type = "OptimWrapper"
    wrapper.pop("loss_scale", None)
    return build_optim_wrapper(model, wrapper)


def build_full(cfg: Config) -> torch.nn.Module:
    cfg.model.backbone.init_cfg = None
    with torch.device("meta"):
        return MODELS.build(cfg.model)


# Recipe ----------------------------------------------------------------------------


def test_finetuning_is_table_7() -> None:
    cfg = load("vit-b_finetune_100e_in1k")
    optimizer, backbone = cfg.optim_wrapper.optimizer, cfg.model.backbone
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert "clip_grad" not in cfg.optim_wrapper
    assert optimizer.type == "AdamW"
    assert optimizer.lr == pytest.approx(2e-3)
    assert tuple(optimizer.betas) == (0.9, 0.99)
    assert optimizer.weight_decay == 0.05
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_cfg.max_epochs == 100
    assert backbone.drop_path_rate == 0.1
    assert (backbone.out_type, backbone.final_norm) == ("cls_token", True)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [dict(a) for a in cfg.model.train_cfg.augments] == [
        dict(type="Mixup", alpha=0.8),
        dict(type="CutMix", alpha=1.0),
    ]
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert [transform.type for transform in pipeline] == [
        "SeedSample",
        "LoadRandomResizedCrop",
        "RandAugment",
        "RandomErasing",
        "PackInputs",
    ]
    crop, randaug, erasing = pipeline[1:4]
    assert tuple(crop.crop_ratio_range) == (0.08, 1.0)
    assert crop.flip_prob == 0.5
    assert (randaug.magnitude_level, randaug.magnitude_std) == (9, 0.5)
    assert (randaug.policies, randaug.num_policies) == ("timm_increasing", 2)
    assert randaug.hparams.pad_val == [104, 116, 124]  # BGR
    assert (erasing.erase_prob, erasing.mode) == (0.25, "rand")


def test_linear_probing_is_the_release() -> None:
    cfg = load("vit-b_linear_90e_in1k")
    assert dict(cfg.optim_wrapper.optimizer) == dict(
        type="SGD", lr=0.8, momentum=0.9, weight_decay=0.0
    )
    assert cfg.auto_scale_lr.base_batch_size == 2048
    assert cfg.train_dataloader.batch_size * 32 == 2048
    assert cfg.train_cfg.max_epochs == 90
    assert [s.type for s in cfg.param_scheduler] == ["CosineAnnealingLR"]  # no warm-up
    types = [transform.type for transform in cfg.train_dataloader.dataset.pipeline]
    assert types == ["SeedSample", "LoadRandomResizedCrop", "PackInputs"]
    assert "train_cfg" not in cfg.model
    assert "drop_path_rate" not in cfg.model.backbone

    model = build_full(cfg)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "head.layers.head.weight",
        "head.layers.head.bias",
    }
    assert (model.neck.bn.affine, model.neck.bn.eps) == (False, 1e-6)


def test_attentive_probing_is_aim_s_as_xtra_trains_it() -> None:
    cfg = load("vit-b_attentive_in1k")
    assert dict(cfg.optim_wrapper.optimizer) == dict(
        type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.1
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=3.0)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_epochs == 100
    types = [transform.type for transform in cfg.train_dataloader.dataset.pipeline]
    assert {"RandAugment", "RandomErasing"} <= set(types)
    assert (
        "train_cfg" not in cfg.model and "save_best" not in cfg.default_hooks.checkpoint
    )

    model = build_full(cfg)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == {
        "head.pool.query", "head.pool.key.weight", "head.pool.value.weight",
        "head.fc.weight",
    }  # fmt: skip
    assert sum(p.numel() for p in trained.values()) == 2 * 768**2 + 768 + 768 * 1000
    assert (model.head.pool.num_heads, model.head.pool.norm.affine) == (12, False)
    assert tuple(model.backbone.out_indices) == (6, 7, 8, 9, 10, 11)
    assert not model.backbone.final_norm


def test_attentive_schedule() -> None:
    """Warm-up of ten epochs from 0, and a cosine to 0."""
    cfg = load("vit-b_attentive_in1k")
    wrapper = float32_wrapper(torch.nn.Linear(2, 2), cfg)
    for iteration, found in enumerate(rates(cfg, wrapper, 3)):
        expected = 1e-3 * iteration / 30
        if iteration >= 30:
            expected = 5e-4 * (1 + math.cos(math.pi * (iteration - 30) / 270))
        # MMEngine ends the warm-up one iteration early.
        assert found == pytest.approx(
            [expected] * len(found), abs=4e-5 if iteration < 30 else 1e-9
        )


def test_the_best_layer_is_chosen_on_training_images_that_are_held_out() -> None:
    cfg, linear = (load(f"vit-b_linear{x}_90e_in1k") for x in ("-best-layer", ""))
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "test_dataloader",
                "test_evaluator"):  # fmt: skip
        assert cfg[key] == linear[key], key
    train, val, test = (
        cfg[f"{x}_dataloader"].dataset for x in ("train", "val", "test")
    )
    assert (train.type, train.split, train.held_out) == ("ImageNetPart", "train", False)
    assert (val.type, val.split, val.held_out) == ("ImageNetPart", "train", True)
    assert (test.type, test.split) == ("ImageNet", "val")
    assert val.pipeline == test.pipeline
    assert train.pipeline == linear.train_dataloader.dataset.pipeline
    assert cfg.default_hooks.checkpoint.save_best == "accuracy/best_layer"
    assert len(build_full(cfg).head.probes) == 12


def test_parts_of_the_training_images(tmp_path: Path) -> None:
    write_class_folders(tmp_path)
    options = dict(
        data_root=str(tmp_path),
        split="train",
        metainfo=dict(classes=("blue", "green", "red")),
        pipeline=[],
    )
    whole = DATASETS.build(dict(type="ImageNet", **options))
    kept, held = (
        DATASETS.build(dict(type="ImageNetPart", every=5, held_out=part, **options))
        for part in (False, True)
    )
    paths = [[d.get_data_info(i)["img_path"] for i in range(len(d))]
             for d in (whole, kept, held)]  # fmt: skip
    assert paths[2] == paths[0][::5]
    assert paths[1] == [path for path in paths[0] if path not in paths[2]]
    with pytest.raises(ValueError, match="every=1"):
        DATASETS.build(dict(type="ImageNetPart", every=1, **options))


@pytest.mark.parametrize("name", [*TRAINED, "vit-b_knn_in1k"])
def test_evaluation_is_resize_256_and_crop_224_bicubic(name: str) -> None:
    cfg = load(name)
    for key in ("val_dataloader", "test_dataloader"):
        if not cfg.get(key):
            continue
        _, resize, crop, _ = cfg[key].dataset.pipeline
        assert (resize.scale, resize.edge) == (256, "short")
        assert (resize.backend, resize.interpolation) == ("pillow", "bicubic")
        assert crop.crop_size == 224


# Golden tables ---------------------------------------------------------------------


def golden(name: str) -> tuple[float, float]:
    """Rate scale and weight decay of a parameter, by the recipe's formula."""
    layer = 13
    if name.startswith("backbone.layers."):
        layer = int(name.split(".")[2]) + 1
    elif name.startswith(
        ("backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed")
    ):
        layer = 0
    matrices = ("attn.qkv", "attn.proj", "layers.0.0", "layers.1", "projection")
    decays = name.endswith(tuple(f"{m}.weight" for m in (*matrices, "layers.head")))
    return 0.65 ** (13 - layer), 0.05 if decays else 0.0


@pytest.mark.parametrize(
    "name", ["vit-b_finetune_100e_in1k", "vit-b_finetune-avgpool_100e_in1k"]
)
def test_golden_parameter_groups(name: str) -> None:
    cfg = load(name)
    model = build_full(cfg)
    wrapper = float32_wrapper(model, cfg)
    names = {id(p): n for n, p in model.named_parameters()}
    table = {
        names[id(p)]: (group["lr"] / 2e-3, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }
    assert set(table) == set(names.values())
    for parameter, (scale, decay) in table.items():
        assert scale == pytest.approx(golden(parameter)[0]), parameter
        assert decay == golden(parameter)[1], parameter
    # A few in figures, so that the formula above is not its own witness.
    norm = "backbone.ln2.weight" if "avgpool" in name else "backbone.ln1.weight"
    for parameter, rate, decay in (
        ("backbone.cls_token", 7.391e-6, 0.0),
        ("backbone.pos_embed", 7.391e-6, 0.0),
        ("backbone.patch_embed.projection.weight", 7.391e-6, 0.05),
        ("backbone.patch_embed.projection.bias", 7.391e-6, 0.0),
        ("backbone.layers.0.attn.qkv.weight", 1.137e-5, 0.05),
        ("backbone.layers.11.ffn.layers.1.weight", 1.3e-3, 0.05),
        ("backbone.layers.11.ln1.weight", 1.3e-3, 0.0),
        (norm, 2e-3, 0.0),
        ("head.layers.head.weight", 2e-3, 0.05),
        ("head.layers.head.bias", 2e-3, 0.0),
    ):
        assert table[parameter][0] * 2e-3 == pytest.approx(rate, rel=1e-3), parameter
        assert table[parameter][1] == decay, parameter


def rates(cfg: Config, wrapper, length: int) -> Iterator[list[float]]:
    """The rate of every group at every iteration."""
    epochs = cfg.train_cfg.max_epochs
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler.setdefault("end", epochs)  # as Runner does
        kind = PARAM_SCHEDULERS.get(scheduler.pop("type"))
        assert scheduler.pop("convert_to_iter_based")
        schedulers.append(
            kind.build_iter_from_epoch(wrapper, **scheduler, epoch_length=length)
        )
    for _ in range(epochs * length):
        yield [group["lr"] for group in wrapper.optimizer.param_groups]
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


class TwoLayers(torch.nn.Module):
    """One parameter per depth of the backbone: ids 0, 1, 2 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torch.nn.Module()
        for name in ("cls_token", "pos_embed"):
            setattr(self.backbone, name, torch.nn.Parameter(torch.zeros(1, 1, 2)))
        self.backbone.layers = torch.nn.ModuleList(
            torch.nn.Linear(2, 2, bias=False) for _ in range(2)
        )
        self.backbone.get_layer_depth = self._depth
        self.head = torch.nn.Linear(2, 2, bias=False)

    @staticmethod
    def _depth(name: str, prefix: str) -> tuple[int, int]:
        name = name.removeprefix(prefix)
        if name.startswith("layers."):
            return int(name.split(".")[1]) + 1, 4
        return (3 if name.startswith("head") else 0), 4


def test_finetuning_schedule_of_every_group() -> None:
    """Warm-up from 0 and a cosine to 1e-6, both times the group's scale."""
    cfg = load("vit-b_finetune_100e_in1k")
    wrapper = float32_wrapper(TwoLayers(), cfg)
    scales = [group["lr_scale"] for group in wrapper.optimizer.param_groups]
    assert sorted(scales) == pytest.approx([0.65**3, 0.65**2, 0.65, 1])
    length = 5
    for iteration, found in enumerate(rates(cfg, wrapper, length)):
        epoch = iteration / length
        expected = 2e-3 * epoch / 20
        if epoch >= 20:
            half = 0.5 * (1 + math.cos(math.pi * (epoch - 20) / 80))
            expected = 1e-6 + (2e-3 - 1e-6) * half
        # MMEngine ends the warm-up one iteration early: 1 in 20 epochs' worth.
        slack = 1.01 * 2e-3 / (20 * length) if epoch < 20 else 1e-9
        for rate, scale in zip(found, scales, strict=True):
            assert rate == pytest.approx(expected * scale, abs=slack * scale)
    last = [group["lr"] for group in wrapper.optimizer.param_groups]
    # One iteration short of the end the cosine is still 3 % above its floor.
    assert last == pytest.approx([1e-6 * scale for scale in scales], rel=0.04)


def test_linear_probing_schedule() -> None:
    cfg = load("vit-b_linear_90e_in1k")
    wrapper = float32_wrapper(torch.nn.Linear(2, 2), cfg)
    for iteration, (rate,) in enumerate(rates(cfg, wrapper, 3)):
        expected = 0.4 * (1 + math.cos(math.pi * iteration / 270))
        assert rate == pytest.approx(expected, abs=1e-9)


# Runs ------------------------------------------------------------------------------


class Watch(Hook):
    """Keeps the model as it was before the first step, and the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def before_train(self, runner: Runner) -> None:
        state = runner.model.state_dict()
        self.before = {name: tensor.clone() for name, tensor in state.items()}

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        self.losses.append(outputs["loss"].item())


def shrink_loader(loader: dict, root: Path) -> None:
    loader.update(batch_size=4, num_workers=0, persistent_workers=False)
    loader.dataset.data_root = str(root)
    loader.dataset.metainfo = dict(classes=tuple(COLOURS))
    for transform in loader.dataset.pipeline:
        if transform.type == "LoadRandomResizedCrop":
            transform.scale = SIZE
        elif transform.type == "ResizeEdge":
            transform.scale = 36
        elif transform.type == "CenterCrop":
            transform.crop_size = SIZE


def shrink(name: str, root: Path, checkpoint: Path | None) -> Config:
    """Only sizes, classes and root."""
    cfg = load(name)
    cfg.work_dir = str(root / "run")
    cfg.log_level = "ERROR"
    backbone = cfg.model.backbone
    backbone.update(
        arch=dict(
            embed_dims=WIDTH,
            num_layers=DEPTH,
            num_heads=2,
            feedforward_channels=2 * WIDTH,
        ),
        img_size=SIZE,
        patch_size=PATCH,
    )
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if cfg.get(key):
            shrink_loader(cfg[key], root)
    if "knn" in name:
        cfg.model.neck.depth = DEPTH
        shrink_loader(cfg.test_cfg.bank_dataloader, root)
        return cfg
    if "frozen_stages" in backbone:
        backbone.frozen_stages = DEPTH
        if cfg.model.get("neck"):
            cfg.model.neck.input_features = WIDTH
    cfg.model.head.update(num_classes=len(COLOURS), in_channels=WIDTH)
    if "attentive" in name:
        backbone.out_indices, cfg.model.head.parts = [2, 3], 2
    if "best-layer" in name:
        backbone.out_indices = list(range(DEPTH))
        cfg.model.head.num_layers = DEPTH
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            loader.dataset.every = 3
    cfg.data_preprocessor.num_classes = len(COLOURS)
    if checkpoint:
        backbone.init_cfg.checkpoint = str(checkpoint)
    cfg.train_cfg.max_epochs = 1
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if evaluator.type == "Accuracy":
            evaluator.topk = (1, 2)
    cfg.param_scheduler = cfg.param_scheduler[-1:]  # the warm-up's rate is almost 0
    cfg.param_scheduler[0].begin = 0
    return cfg


@pytest.fixture(autouse=True)
def unformatted_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine formats a config seven times a run, which takes most of a tiny one."""
    monkeypatch.setattr(Config, "pretty_text", property(lambda cfg: "a = 1\n"))


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A pretraining checkpoint, and beside it ``train`` and ``val``."""
    write_class_folders(tmp_path)
    model = tiny_saim(
        image_size=(SIZE, SIZE), patch_size=(PATCH, PATCH), embed_dims=WIDTH
    )
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "pretrained.pth")
    return tmp_path / "pretrained.pth"


def run(cfg: Config) -> tuple[Runner, Watch]:
    fit_to_machine(cfg)
    runner = Runner.from_cfg(cfg)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    return runner, watch


@pytest.mark.parametrize("name", TRAINED)
def test_shrunk_benchmark_trains_and_evaluates(name: str, pretrained: Path) -> None:
    scratch = "scratch" in name
    cfg = shrink(name, pretrained.parent, None if scratch else pretrained)
    runner, watch = run(cfg)
    best_layer = "best-layer" in name
    assert len(watch.losses) == (2 if best_layer else 3)  # a third is held out
    assert all(math.isfinite(loss) for loss in watch.losses)
    figure = "best_layer" if best_layer else "top1"
    top1, _ = runner.message_hub.get_scalar(f"val/accuracy/{figure}").data
    assert 0 <= top1[-1] <= 100
    saved = list((pretrained.parent / "run").glob(f"best_accuracy_{figure}*.pth"))
    assert bool(saved) == ("attentive" not in name)

    weights = torch.load(pretrained, weights_only=True)["state_dict"]
    start = {n: t for n, t in watch.before.items() if n.startswith("backbone.")}
    loaded = [n for n, t in start.items() if torch.equal(t, weights.get(n, t + 1))]
    own = {"backbone.ln1.weight", "backbone.ln1.bias"}
    own |= {"backbone.ln2.weight", "backbone.ln2.bias"}
    if scratch:
        assert len(loaded) < len(start) / 2
    else:
        assert set(start) - set(loaded) <= own
    if "backbone.ln1.weight" in start and not scratch:
        assert torch.equal(
            start["backbone.ln1.weight"], weights["neck.norm.weight"]
        )  # as the release

    changed = {
        name
        for name, tensor in runner.model.state_dict().items()
        if not torch.equal(tensor, watch.before[name])
    }
    if "linear-best" in name:
        assert {part.split(".")[1] for part in changed} <= {"probes", "best"}
        assert len(changed - {"head.best"}) == 5 * DEPTH
    elif "attentive" in name:
        assert {part.split(".")[0] for part in changed} == {"head"}
        assert len(changed) == 3 + 4  # statistics, query, keys, values, linear
    elif "linear" in name:
        assert changed == {
            "neck.bn.running_mean",
            "neck.bn.running_var",
            "neck.bn.num_batches_tracked",
            "head.layers.head.weight",
            "head.layers.head.bias",
        }
    else:
        assert {"backbone.pos_embed", "backbone.cls_token"} <= changed


def test_the_best_layer_judges_the_images_that_are_left(pretrained: Path) -> None:
    """The checkpoint that was chosen on held-out images predicts by its layer."""
    cfg = shrink("vit-b_linear-best-layer_90e_in1k", pretrained.parent, pretrained)
    cfg.train_cfg.max_epochs = 3
    runner, _ = run(cfg)
    found = {
        name.removeprefix("val/accuracy/"): history.data[0]
        for name, history in runner.message_hub.log_scalars.items()
        if name.startswith("val/accuracy/")
    }
    layers = [found[f"layer_0{i}"] for i in range(DEPTH)]
    assert found["best_layer"].tolist() == [max(x) for x in zip(*layers, strict=True)]
    (file,) = (pretrained.parent / "run").glob("best_accuracy_best_layer*.pth")
    state = torch.load(file, weights_only=True)["state_dict"]
    epoch = int(file.stem.rpartition("_")[2]) - 1
    accuracies = [x[epoch] for x in layers]
    assert max(accuracies) == max(found["best_layer"])
    assert state["head.best"] == accuracies.index(max(accuracies))

    cfg.load_from, cfg.model.backbone.init_cfg = str(file), None
    judged = Runner.from_cfg(cfg)
    top1 = judged.test()["accuracy/top1"]
    model = judged.model
    with torch.no_grad():
        model.head.best.fill_((state["head.best"] + 1) % DEPTH)
    dataset = judged.test_dataloader.dataset
    right = 0
    for sample in (dataset[i] for i in range(len(dataset))):
        batch = dict(inputs=[sample["inputs"]], data_samples=[sample["data_samples"]])
        (answer,) = model.test_step(batch)
        right += (answer.pred_by_layer[state["head.best"]] == answer.gt_label).item()
    assert top1 == pytest.approx(100 * right / len(dataset))


@pytest.mark.parametrize("name", ["vit-b_finetune_100e_in1k", "vit-b_linear_90e_in1k"])
def test_without_an_encoder_nothing_trains(name: str, pretrained: Path) -> None:
    cfg = shrink(name, pretrained.parent, checkpoint=None)
    with pytest.raises(CheckpointError, match="names no checkpoint.*init_cfg=None"):
        run(cfg)


@pytest.mark.parametrize("kind", ["pretraining", "bare encoder"])
def test_knn_config_judges_a_checkpoint(kind: str, pretrained: Path) -> None:
    """Both kinds give the number of the library."""
    weights = torch.load(pretrained, weights_only=True)["state_dict"]
    if kind == "bare encoder":
        weights = {
            name.removeprefix("backbone."): tensor
            for name, tensor in weights.items()
            if name.startswith("backbone.")
        }
        torch.save(weights, pretrained)
    cfg = shrink("vit-b_knn_in1k", pretrained.parent, None)
    cfg.load_from = str(pretrained)
    cfg.test_cfg.k = 3
    cfg.test_evaluator.topk = (1, 2)
    fit_to_machine(cfg)
    metrics = Runner.from_cfg(cfg).test()

    bank, queries = split_class_folders(
        pretrained.parent, (SIZE, SIZE), crop_ratio=SIZE / 36
    )
    backbone, _ = build_encoder(pretrained, num_heads=2)
    preprocessor = SelfSupDataPreprocessor(
        mean=cfg.data_preprocessor.mean, std=cfg.data_preprocessor.std, to_rgb=True
    )
    extractor = FeatureExtractor(backbone, preprocessor)
    expected = knn_accuracy(extractor.extract(queries), extractor.extract(bank), k=3)
    assert metrics["accuracy/top1"] == pytest.approx(expected)
    assert metrics["accuracy/top2"] >= metrics["accuracy/top1"]


def test_the_tool_names_a_broken_image(pretrained: Path, tmp_path, capsys) -> None:
    cfg = shrink("vit-b_knn_in1k", pretrained.parent, None)
    cfg.test_cfg.k = 3
    cfg.test_cfg.bank_dataloader.num_workers = 1
    lines = (f"{name} = {value!r}\n" for name, value in cfg.to_dict().items())
    (tmp_path / "knn.py").write_text("".join(lines))
    broken = next((pretrained.parent / "train").glob("*/*"))
    broken.write_bytes(b"no image")
    work = ["--work-dir", str(tmp_path / "work")]
    assert run_tool("test", tmp_path / "knn.py", pretrained, *work) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: '{broken}': ")
    assert told.endswith("; mend or remove this image")


def test_knn_config_refuses_another_layout(pretrained: Path) -> None:
    """MMEngine alone would judge random weights."""
    torch.save({"blocks.0.norm1.weight": torch.zeros(2)}, pretrained)
    cfg = shrink("vit-b_knn_in1k", pretrained.parent, None)
    cfg.load_from = str(pretrained)
    cfg.test_cfg.k = 3
    fit_to_machine(cfg)
    with pytest.raises(CheckpointError, match="no encoder"):
        Runner.from_cfg(cfg).test()
