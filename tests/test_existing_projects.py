"""docs/existing_projects.md, run: SAIMViT in configs that nobody here wrote.

Each case is a config as mmdet, mmseg and mmpretrain install it, and below it, as child
configs, recipes cut out of the document. Only sizes are shrunk.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample
from tiny import randomise, tiny_config
from torch import Tensor, nn

pytest.importorskip("mmcv.ops", reason="mmcv has no compiled ops")
pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

DOCUMENT = Path(__file__).parents[1] / "docs" / "existing_projects.md"
RECIPES = {
    block.split("\n", 1)[0].removeprefix("# recipe: "): block
    for block in re.findall(
        r"```python\n(# recipe: .*?)```", DOCUMENT.read_text(), re.DOTALL
    )
}
WIDTH, LAYERS = 64, 12
SIZE = (64, 96)


class Case(NamedTuple):
    """A config of an installed package, and the recipes that lead to SAIM in it."""

    package: str
    config: str
    recipes: tuple[str, ...]
    fast: bool = False

    @property
    def path(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        assert spec is not None and spec.origin is not None
        return Path(spec.origin).parent / ".mim" / "configs" / self.config


CASES = [
    Case("mmdet", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", ("dense", "fpn")),
    Case("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", ("dense", "fpn")),
    Case(
        "mmdet", "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", ("dense", "fpn")
    ),
    Case(
        "mmdet",
        "retinanet/retinanet_r50_fpn_1x_coco.py",
        ("dense", "fpn-from-stride-8"),
        True,
    ),
    Case(
        "mmdet",
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        ("dense", "fpn-from-stride-8", "rgb"),
    ),
    Case(
        "mmdet",
        "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        ("dense", "mask2former"),
    ),
    Case("mmdet", "dino/dino-4scale_r50_8xb2-12e_coco.py", ("dense", "dino")),
    Case(
        "mmseg",
        "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py",
        ("dense", "upernet"),
        True,
    ),
    Case("mmseg", "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py", ("dense", "fcn")),
    Case(
        "mmseg",
        "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
        ("dense", "segformer"),
    ),
    Case(
        "mmseg",
        "setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py",
        ("dense", "setr"),
    ),
    Case(
        "mmpretrain",
        "vision_transformer/vit-base-p16_64xb64_in1k.py",
        ("class-token",),
        True,
    ),
    Case("mmpretrain", "resnet/resnet50_8xb32_in1k.py", ("pooled",), True),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining checkpoint: encoder, decoder and head, as CheckpointHook saves."""
    saim = MODELS.build(
        tiny_config(
            image_size=224,
            patch_size=16,
            embed_dims=WIDTH,
            num_layers=LAYERS,
            depth=2,
        )
    )
    randomise(saim, seed=0)
    path = tmp_path_factory.mktemp("pretraining") / "epoch_800.pth"
    torch.save(dict(state_dict=saim.state_dict(), meta=dict(epoch=800)), path)
    return path


def shrunk(recipe: str, checkpoint: Path) -> str:
    """The text of a recipe with a narrow encoder of twelve layers."""
    arch = dict(
        embed_dims=WIDTH, num_layers=LAYERS, num_heads=2, feedforward_channels=2 * WIDTH
    )
    text = re.sub(r'arch="\w+"', f"arch={arch}", recipe)
    text = text.replace("9, 14, 19, 23", "3, 5, 7, 11").replace("768", str(WIDTH))
    return text.replace('"encoder.pth"', repr(str(checkpoint)))


def child_config(case: Case, checkpoint: Path, folder: Path) -> Config:
    """The config at the end of a chain of children, a recipe each."""
    base = case.path
    for number, name in enumerate([*case.recipes, "optimizer"]):
        text = re.sub("^_base_.*$", "", shrunk(RECIPES[name], checkpoint), flags=re.M)
        child = folder / f"child_{number}.py"
        child.write_text(f"_base_ = {str(base)!r}\n{text}")
        base = child
    return shrink_heads(Config.fromfile(base))


def shrink_heads(cfg: Config) -> Config:
    """Sizes that no recipe sets: heads made for 768 or 1024 channels, what is slow."""
    model = cfg.model
    if model.get("decode_head", {}).get("type", "").startswith("SETR"):
        for head in (model.decode_head, *model.auxiliary_head):
            head.in_channels = WIDTH
    if model.type == "EncoderDecoder":
        model.data_preprocessor.size = SIZE
    if cfg.default_scope == "mmpretrain":
        model.head.in_channels = WIDTH
    if model.type == "DINO":
        model.num_queries = 60  # 900, and the small pyramid has no more anchors
        model.encoder.num_layers = model.decoder.num_layers = 2
    if model.type == "Mask2Former":
        model.data_preprocessor.batch_augments = None  # pads to 1024 x 1024
    return cfg


def detection_batch(with_mask: bool) -> dict[str, Any]:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size=2,
        image_shapes=[(3, *SIZE), (3, SIZE[0] - 7, SIZE[1])],
        num_items=[2, 1],
        num_classes=80,
        with_mask=with_mask,
    )


def segmentation_batch() -> dict[str, Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def sample() -> SegDataSample:
        labels = torch.randint(0, 150, (1, *SIZE))
        meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE)
        return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=meta)

    images = [torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8) for _ in range(2)]
    return dict(inputs=images, data_samples=[sample() for _ in images])


def classification_batch() -> dict[str, Any]:
    images = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8)
    samples = [DataSample().set_gt_label(label) for label in (3, 7)]
    return dict(inputs=images, data_samples=samples)


def batch_for(case: Case, cfg: Config) -> dict[str, Any]:
    if case.package == "mmseg":
        return segmentation_batch()
    if case.package == "mmpretrain":
        return classification_batch()
    text = str(cfg.model)
    return detection_batch(with_mask="mask_head" in text or "Mask2Former" in text)


def build(cfg: Config) -> nn.Module:
    """As Runner does in one process."""
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    model.init_weights()
    if cfg.default_scope == "mmpretrain":
        # The ViT head starts at zero, so the first gradient of the backbone is zero.
        randomise(model.head, seed=0)
    return model


def step(model: nn.Module, cfg: Config, batch: dict[str, Any]) -> None:
    """One optimiser step; every parameter of the backbone takes part in it."""
    wrapper_cfg = copy.deepcopy(cfg.optim_wrapper)
    wrapper = build_optim_wrapper(model, wrapper_cfg)
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    loss, _ = model.parse_losses(model(**data, mode="loss"))
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    before = weights(model)
    wrapper.step()
    after = weights(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert all(tensor.isfinite().all() for tensor in after.values())


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.backbone.named_parameters()}


@torch.no_grad()
def predict(model: nn.Module, batch: dict[str, Any]) -> list[Any]:
    model.eval()
    data = model.data_preprocessor(copy.deepcopy(batch), training=False)
    return model(**data, mode="predict")


def check_prediction(case: Case, batch: dict[str, Any], results: list[Any]) -> None:
    assert len(results) == len(batch["inputs"])
    for result in results:
        if case.package == "mmseg":
            assert result.pred_sem_seg.data.shape == (1, *SIZE)
            assert result.seg_logits.data.isfinite().all()
        elif case.package == "mmdet":
            assert result.pred_instances.scores.isfinite().all()
        else:
            assert result.pred_score.isfinite().all()


def check_one_row_of_patches(model: nn.Module, batch: dict[str, Any]) -> None:
    for shape in [(16, 80), (70, 9)]:
        image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
        sample = type(batch["data_samples"][0])()
        sample.set_metainfo(dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        (result,) = predict(model, dict(inputs=[image], data_samples=[sample]))
        assert result.pred_sem_seg.data.shape == (1, *shape)
        assert result.seg_logits.data.isfinite().all()


def check_loaded(model: nn.Module, checkpoint: Path) -> None:
    """The encoder's tensors are those of the file, all of them."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, tensor in model.backbone.state_dict().items():
        key = f"neck.norm.{name[4:]}" if name.startswith("ln1.") else f"backbone.{name}"
        assert torch.equal(tensor, state[key]), name


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.package}-{Path(case.config).stem}",
            marks=() if case.fast else pytest.mark.slow,
        )
        for case in CASES
    ],
)
def test_saim_in_an_existing_config(
    case: Case, checkpoint: Path, tmp_path: Path
) -> None:
    cfg = child_config(case, checkpoint, tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build(cfg)
        assert type(model.backbone).__name__ == "SAIMViT"
        check_loaded(model, checkpoint)
        batch = batch_for(case, cfg)
        step(model, cfg, batch)
        check_prediction(case, batch, predict(model, batch))
        if case.package == "mmseg":
            check_one_row_of_patches(model, batch)


def test_every_recipe_of_the_document_is_tested() -> None:
    tested = {name for case in CASES for name in case.recipes}
    assert tested | {"optimizer"} == set(RECIPES)
