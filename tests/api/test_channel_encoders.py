"""An encoder of images that are no photographs, by every line that takes encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bands import BANDS, hazy, npy_of, tiff_of, write_kinds
from image_files import encoded, photo, write
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_backbone, tiny_saim

import saim_mm
from saim_mm import api
from saim_mm._stack import FIRST_TORCH_WITH_DERIVED_DIMS, parse
from saim_mm.evaluation.image_transform import ImageTransform
from saim_mm.parity import convert_files
from saim_mm.weights import CheckpointError, write_state_dict

RESNET = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
MEAN, STD = 5000.0, 100.0
OLD_TORCH = parse(torch.__version__) < FIRST_TORCH_WITH_DERIVED_DIMS


def normalisation(channels: int, kind: str = "ChannelDataPreprocessor") -> str:
    mean, std = [MEAN + c for c in range(channels)], [STD + c for c in range(channels)]
    return f"data_preprocessor = dict(type={kind!r}, mean={mean}, std={std})\n"


def write_encoder(folder: Path, channels: int = BANDS, cfg: str | None = None) -> Path:
    """A random encoder of 32 x 32 pixels, with its config."""
    options = tiny_backbone((32, 32), (8, 8), channels, embed_dims=64, num_heads=1)
    model = MODELS.build(options)
    randomise(model, 0)
    path = folder / "encoder.pth"
    cfg = normalisation(channels) if cfg is None else cfg
    write_state_dict(path, model.state_dict(), meta=dict(cfg=cfg))
    return path


def normalised(values: np.ndarray) -> torch.Tensor:
    """An image (H, W, C) as the encoder reads it (1, C, H, W), by the definition."""
    number = np.arange(values.shape[2])
    images = (values.astype(np.float32) - (MEAN + number)) / (STD + number)
    return torch.tensor(images, dtype=torch.float32).permute(2, 0, 1)[None]


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_the_transform_takes_files_and_values(channels: int, tmp_path: Path) -> None:
    """Of images of the encoder's own size, nothing is resampled."""
    pytest.importorskip("tifffile")
    encoder = saim_mm.load_encoder(write_encoder(tmp_path, channels))
    values = hazy(0, 1)[..., :channels]
    wanted = normalised(values)
    options = dict(planarconfig="contig") if channels > 1 else {}
    files = [
        write(tmp_path / "a.npy", npy_of(values)),
        write(tmp_path / "a.tif", tiff_of(values, **options)),
    ]
    planes = torch.tensor(values.astype(np.float32)).permute(2, 0, 1)
    # no margin that is cut off
    encoder.transform = ImageTransform((32, 32), encoder.preprocessor, crop_ratio=1)
    for given in [*files, str(files[0]), values, values.astype(float), planes]:
        torch.testing.assert_close(encoder.transform(given), wanted)
    both = encoder.transform([values, files[1]])
    assert encoder.features(both).shape == (2, 64)
    if channels == 1:
        torch.testing.assert_close(encoder.transform(values[..., 0]), wanted)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((32, 32, 12)), "no image of 13 channels"),
        (np.full((32, 32, 13), np.nan), "are NaN or infinite"),
        (np.zeros((32, 32, 13), complex), "neither integers nor floats"),
        (torch.zeros(12, 32, 32), "no image of 13 channels"),
        (photo(), "no image of 13 channels"),
    ],
)
def test_the_transform_refuses(given: Any, said: str, tmp_path: Path) -> None:
    encoder = saim_mm.load_encoder(write_encoder(tmp_path))
    with pytest.raises(ValueError, match=said):
        encoder.transform(given)


def test_embed_leaves_out_what_is_no_such_image(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    data = write_kinds(tmp_path / "data") / "train" / "kind0"
    write(data / "photograph.png", encoded("PNG", photo()))
    write(data / "bands.npy", npy_of(hazy(0, 1)[..., :12]))
    source = write_encoder(tmp_path)
    out = tmp_path / "features.npz"
    options = dict(workers=0, crop_ratio=1, max_broken_share=0.5)
    done = saim_mm.embed(source, data, out, **options)
    assert sorted(done.broken) == ["bands.npy", "photograph.png"]
    assert all("no image of 13 channels" in reason for reason in done.broken.values())
    with np.load(out) as file:
        names, features = file["names"].tolist(), torch.tensor(file["features"])
        about = json.loads(str(file["about"]))
    assert names == ["0000.tif", "0001.npy", "0002.tif", "0003.npy"]
    encoder = saim_mm.load_encoder(source)
    images = torch.cat([normalised(hazy(0, 3 * i, haze=0)) for i in range(4)])
    expected = encoder.features(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    assert about["mean"] == [MEAN + c for c in range(BANDS)]
    with pytest.raises(Exception, match="are broken"):
        saim_mm.embed(source, data, tmp_path / "b.npz", workers=0)


def test_knn_and_probe(tmp_path: Path) -> None:
    """Without haze the spectra tell the kinds apart, even by a random encoder."""
    pytest.importorskip("tifffile")
    data = write_kinds(tmp_path / "data", train=6)
    source = write_encoder(tmp_path)
    knn = saim_mm.knn(source, data, k=(1,), workers=0)
    probe = saim_mm.probe(source, data, workers=0, epochs=20)
    assert knn.figures["accuracy_k1"] == 100 and probe.figures["accuracy"] == 100
    write(data / "val" / "kind1" / "other.npy", npy_of(np.zeros((32, 32, 4))))
    with pytest.raises(ValueError, match="other.npy.*no image of 13 channels"):
        saim_mm.knn(source, data, k=(1,), workers=0)


@pytest.mark.parametrize(
    ("channels", "ending"),
    [
        (1, "onnx"),
        (3, "onnx"),
        (13, "onnx"),
        pytest.param(3, "pt2", marks=pytest.mark.slow),
        pytest.param(13, "pt2", marks=pytest.mark.slow),
    ],
)
def test_export_takes_values_as_stored(
    channels: int, ending: str, tmp_path: Path
) -> None:
    """Three channels, too: they are no RGB in [0, 1]."""
    pytest.importorskip("tifffile")
    if ending == "onnx":
        pytest.importorskip("onnxruntime")
    elif OLD_TORCH:
        pytest.skip("its torch.export is too old")
    source = write_encoder(tmp_path, channels)
    data = tmp_path / "images"
    for i in range(3):
        write(data / f"{i}.npy", npy_of(hazy(i, i)[..., :channels]))
    out = tmp_path / f"a.{ending}"
    done = saim_mm.export(source, out, images=data)
    assert done.certificate.passed
    assert done.certificate.images == "3 of the 3 in the given folder"
    assert "values as stored in training" in done.card.read_text()
    values = hazy(1, 7)[..., :channels]
    images = torch.tensor(values.astype(np.float32)).permute(2, 0, 1)[None]
    found = _run(out, images)
    expected = saim_mm.load_encoder(source).features(normalised(values))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    again = saim_mm.export(source, tmp_path / f"b.{ending}")
    assert "noise" in again.certificate.images


def _run(path: Path, images: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images).detach()
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes())
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def test_export_refuses_photographs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    write(tmp_path / "images" / "a.png", encoded("PNG", photo()))
    with pytest.raises(ValueError, match="a.png.*no image of 13 channels"):
        images = tmp_path / "images"
        saim_mm.export(write_encoder(tmp_path), tmp_path / "a.onnx", images=images)
    assert not (tmp_path / "a.onnx").exists()


def test_weights_of_others(tmp_path: Path) -> None:
    """timm and transformers have a number of channels; the certificate runs them."""
    pytest.importorskip("safetensors")
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    source = write_encoder(tmp_path)
    done = saim_mm.export(source, tmp_path / "a.safetensors", format="timm")
    assert done.certificate.passed and done.certificate.arch.in_channels == 13
    card = done.card.read_text()
    assert "in_chans=13" in card and "in the units of the images (as stored)" in card
    model = tiny_saim(
        channels=13, image_size=(32, 32), patch_size=(8, 8), embed_dims=64, num_heads=1
    )
    cfg = normalisation(13)
    write_state_dict(tmp_path / "s.pth", model.state_dict(), meta=dict(cfg=cfg))
    for kind, out in (("hf", "folder"), ("official", "a.pth")):
        done = saim_mm.export(tmp_path / "s.pth", tmp_path / out, format=kind)
        assert done.certificate.passed and done.certificate.arch.in_channels == 13
    # And the way back.
    options = dict(smoothing=(9, 1.0), decoder_depth=None, num_heads=1)
    back = convert_files.convert_release_to_saim(
        tmp_path / "a.pth", tmp_path / "b.pth", **options
    )
    assert back.passed


def test_a_config_of_other_channels(tmp_path: Path) -> None:
    source = write_encoder(tmp_path, cfg=normalisation(12))
    with pytest.raises(CheckpointError, match="13 channels, and its config normalises"):
        saim_mm.load_encoder(source)


@pytest.mark.parametrize("cfg", ["", "data_preprocessor = dict(mean=[1], std=[2])"])
def test_channels_that_no_loader_gives(cfg: str, tmp_path: Path) -> None:
    """Tensors of one's own go in; of files nothing says how they are read."""
    pytest.importorskip("tifffile")
    encoder = saim_mm.load_encoder(write_encoder(tmp_path, cfg=cfg))
    assert encoder.features(torch.zeros(1, 13, 32, 32)).shape == (1, 64)
    data = write_kinds(tmp_path / "data")
    said = "data_preprocessor is a ChannelDataPreprocessor"
    for use in (
        lambda: saim_mm.embed(encoder, data, tmp_path / "a.npz", workers=0),
        lambda: saim_mm.knn(encoder, data, workers=0),
        lambda: saim_mm.probe(encoder, data, workers=0),
    ):
        with pytest.raises(ValueError, match=said):
            use()


@pytest.mark.parametrize("channels", [3, 13])
def test_recipes_for_photographs_refuse(channels: int, tmp_path: Path) -> None:
    data = write_kinds(tmp_path / "data")
    with pytest.raises(ValueError, match="judge it by knn or probe"):
        saim_mm.finetune(write_encoder(tmp_path, channels), data, tmp_path / "out")
    with pytest.raises(ValueError, match="with MultiLevelViT as its backbone"):
        api.adapt(RESNET, write_encoder(tmp_path, channels))
