"""An encoder by a line: its pixels are the recipe's, its features the extractor's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from class_folders import write_checkpoint
from mmengine.config import Config
from mmengine.dataset import Compose
from mmpretrain.apis.model import ModelHub
from mmpretrain.registry import MODELS, TRANSFORMS
from modelindex.load_model_index import load as load_index
from PIL import Image
from tiny import tiny_backbone, tiny_saim

from saim_mm.api import load_encoder
from saim_mm.datasets import BrokenImageError
from saim_mm.evaluation.frozen_encoder import FrozenEncoder
from saim_mm.weights import write_state_dict

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs/saim/benchmarks/vit-b_knn_in1k.py"


@pytest.fixture
def encoder(tmp_path: Path) -> FrozenEncoder:
    write_checkpoint(tmp_path / "epoch_1.pth")
    return load_encoder(tmp_path / "epoch_1.pth")


def photo(path: Path, size: tuple[int, int] = (61, 47), mode: str = "RGB") -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8)
    smooth = Image.fromarray(noise, "RGBA").resize((size[0] // 4, size[1] // 4))
    smooth.resize(size, Image.BICUBIC).convert(mode).save(path)
    return path


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("size", [(61, 47), (300, 451), (224, 224)])
def test_pixels_are_those_of_the_recipe(kind: str, size, tmp_path: Path) -> None:
    """As tools/test.py reads them with the config of kNN, to the last bit."""
    config = Config.fromfile(RECIPE)
    steps = config.test_dataloader.dataset.pipeline
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    path = photo(tmp_path / f"a.{kind}", size)
    raw = pipeline(dict(img_path=str(path)))["inputs"]
    model = tiny_saim(image_size=(224, 224), patch_size=(32, 32))
    write_state_dict(tmp_path / "encoder.pth", model.backbone.state_dict())
    encoder = load_encoder(tmp_path / "encoder.pth", num_heads=2)
    normal = config.data_preprocessor
    mean, std = (torch.tensor(normal[k]).view(3, 1, 1) for k in ("mean", "std"))
    expected = (raw.flip(0).float() - mean) / std
    assert torch.equal(encoder.transform(path)[0], expected)
    # Both decode JPEG by libjpeg-turbo, but need not be of one version.
    with Image.open(path) as image:
        torch.testing.assert_close(
            encoder.transform(image)[0], expected, rtol=0, atol=0.05
        )


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1"])
def test_every_way_to_hold_an_image_gives_the_same(mode, encoder, tmp_path) -> None:
    """Of PNG, whose values are exact: a file, Pillow, an array, tensors."""
    path = photo(tmp_path / "a.png", mode=mode)
    with Image.open(path) as image:
        image.load()
    expected = encoder.transform(str(path))
    assert expected.shape == (1, 3, 32, 32)
    array = np.asarray(image.convert("RGB"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for given in (image, array, tensor, tensor / 255):
        assert torch.equal(encoder.transform(given), expected)
    batch = encoder.transform([path, image, array, tensor])
    assert torch.equal(batch, expected.expand(4, -1, -1, -1))
    assert torch.equal(encoder.transform(np.stack([array, array])), batch[:2])


def test_cameras_that_were_turned(encoder, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    with Image.open(photo(tmp_path / "a.png")) as image:
        image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        found = encoder.transform(turned)
    assert torch.equal(found, encoder.transform(tmp_path / "turned.png"))
    assert not torch.equal(found, encoder.transform(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\).*\(H, W, 3\)"),
        (np.zeros((8, 8, 3), np.float32), "type float32; give uint8"),
        (torch.zeros(8, 8, 3), r"shape \(8, 3, 8\)"),
        (torch.full((3, 8, 8), 2.0), r"beyond \[0, 1\].*to features"),
        (torch.full((3, 8, 8), float("nan")), r"beyond \[0, 1\]"),
        (Image.new("I;16", (8, 8)), "'I;16' has values of more than 8 bits"),
        ([], "no image"),
    ],
)
def test_what_is_no_image(image, message, encoder) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.transform(image)


def test_files_that_are_no_images(encoder, tmp_path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    with pytest.raises(BrokenImageError, match="a.png"):
        encoder.transform(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        encoder.transform(tmp_path / "none.png")


def test_features_are_the_models(encoder, tmp_path) -> None:
    """Of the backbone as it was trained: by hand, from the checkpoint's own model."""
    model = tiny_saim(image_size=(32, 32), patch_size=(8, 8)).backbone
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=False)["state_dict"]
    model.load_state_dict({k: state[f"backbone.{k}"] for k in model.state_dict()})
    model.eval()
    pixels = encoder.transform(photo(tmp_path / "a.png"))
    with torch.no_grad():
        tokens = model(pixels)[-1]
    patches = tokens[:, 1:]
    assert torch.equal(encoder.features(pixels), patches.mean(dim=1))
    assert torch.equal(encoder(pixels), patches.mean(dim=1))
    assert torch.equal(encoder.features(pixels, "cls"), tokens[:, 0])
    chart = encoder.features(pixels, "map")
    assert chart.shape == (1, 16, 4, 4)
    assert torch.equal(chart[0, :, 1, 2], patches[0, 6])  # row 1, column 2
    inner = encoder.features(pixels, layer=0)
    assert not torch.equal(inner, patches.mean(dim=1))
    assert torch.equal(inner, encoder.features(pixels, layer=-4))
    assert torch.equal(
        inner, encoder.features(pixels, "map", layer=0).flatten(2).mean(dim=2)
    )


def test_what_it_says_of_itself(encoder) -> None:
    assert encoder.embed_dims == 16 and not encoder.training
    assert (encoder.patch_size, encoder.image_size) == ((8, 8), (32, 32))
    about = encoder.identity()
    assert about["mean"] == [120.0] * 3 and about["num_heads"] == 2
    with torch.no_grad():
        encoder.backbone.cls_token[0, 0, 3] += 1e-3
    changed = encoder.identity()
    assert changed.pop("encoder_sha256") != about.pop("encoder_sha256")
    assert changed == about


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.zeros(2, 3, 32, 32), dict(pool="mean"), "pool='mean'"),
        (torch.zeros(2, 3, 32, 32), dict(layer=4), "layer=4 .*4 layers, 0 to 3"),
        (torch.zeros(2, 3, 32, 32), dict(pool="map", layer=-5), "layer=-5"),
        (torch.zeros(3, 32, 32), dict(), r"\(B, 3, H, W\).*what transform makes"),
        (torch.zeros(2, 1, 32, 32), dict(), "what transform makes"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), dict(), "wants float images"),
        ("a.png", dict(), "got str"),
    ],
)
def test_features_of_what_is_none(images, options, message, encoder) -> None:
    with pytest.raises(ValueError, match=message):
        encoder.features(images, **options)


def test_an_encoder_without_class_token(tmp_path: Path) -> None:
    options = tiny_backbone((32, 32), (8, 8), with_cls_token=False)
    model = MODELS.build(options)
    write_state_dict(tmp_path / "aim.pth", model.state_dict())
    encoder = load_encoder(tmp_path / "aim.pth", num_heads=2)
    pixels = torch.randn(1, 3, 32, 32)
    chart = encoder.features(pixels, "map")
    assert torch.equal(chart.flatten(2).mean(dim=2), encoder.features(pixels))
    with pytest.raises(ValueError, match="with_cls_token=False; use pool='avg'"):
        encoder.features(pixels, "cls")


def test_a_rotary_encoder_has_an_identity_too(tmp_path: Path) -> None:
    """One of its buffers has no elements, and is one of the weights all the same."""
    found = set()
    for qk_norm in ("off", "plain"):
        torch.manual_seed(0)
        options = tiny_backbone((32, 32), (8, 8), qk_norm=qk_norm, type="RotaryViT")
        write_state_dict(tmp_path / "nepa.pth", MODELS.build(options).state_dict())
        encoder = load_encoder(tmp_path / "nepa.pth")
        assert encoder.backbone.arch_settings["num_heads"] == 2
        found.add(encoder.identity()["encoder_sha256"])
    assert len(found) == 2


def test_names_of_models_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there are weights, the error says what to do instead."""
    index = load_index(str(ROOT / "model-index.yml"))
    ours = {model.name: model for model in index.models}
    monkeypatch.setattr(ModelHub, "has", lambda name: name in ours)
    monkeypatch.setattr(ModelHub, "get", ours.get)
    with pytest.raises(ValueError, match="no weights were published. Pretrain it"):
        load_encoder("saim_vit-b_800e_in1k")
    monkeypatch.setattr(ours["saim_vit-b_800e_in1k"], "weights", "https://x.org/a.pth")
    with pytest.raises(ValueError, match="Download https://x.org/a.pth"):
        load_encoder("saim_vit-b_800e_in1k")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_encoder("saim_vit-z")
