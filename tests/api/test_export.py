"""An exported encoder gives what the encoder gives, by the lines of its own card."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_files import photo
from mmpretrain.registry import MODELS
from tiny import randomise, tiny_backbone, tiny_saim

import saim_mm
from saim_mm._stack import FIRST_TORCH_WITH_DERIVED_DIMS, parse
from saim_mm.api import _export_graph
from saim_mm.api._model_card import escaped
from saim_mm.weights import write_state_dict

SIZE, PATCH = (32, 48), (16, 16)
OLD_TORCH = parse(torch.__version__) < FIRST_TORCH_WITH_DERIVED_DIMS
needs_pt2 = pytest.mark.skipif(OLD_TORCH, reason="its torch.export is too old")
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def write_encoder(
    folder: Path, cfg: str = "", channels: int = 3, **options: Any
) -> Path:
    """A tiny encoder, all of its weights random; returns its file."""
    backbone = tiny_backbone(
        SIZE, PATCH, channels, 2, embed_dims=64, num_heads=1, **options
    )
    model = MODELS.build(backbone)
    randomise(model, 0)
    path = folder / "encoder.pth"
    write_state_dict(path, model.state_dict(), meta=dict(cfg=cfg))
    return path


def normalisation(to_rgb: bool = True, mean: Any = MEAN, std: Any = STD) -> str:
    return f"data_preprocessor = dict(mean={mean}, std={std}, to_rgb={to_rgb})\n"


def pixels(rows: int, columns: int, count: int = 2, channels: int = 3) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1], RGB."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, rows, columns, generator=generator)


def normalised(images: torch.Tensor, to_rgb: bool = True) -> torch.Tensor:
    """What the encoder reads, from the definition: numbers belong to its channels."""
    images = 255 * (images if to_rgb else images[:, [2, 1, 0]])
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def run_card(card: Path, monkeypatch, **names: Any) -> dict[str, Any]:
    """Runs the lines with which the card says that the file is loaded."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    monkeypatch.chdir(card.parent if card.name != "README.md" else card.parents[1])
    with torch.no_grad():
        exec(code, names)  # noqa: S102
    return names


def run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes())
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("pool", ["avg", "cls", "map"])
def test_onnx_by_its_card(pool: str, to_rgb: bool, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    source = write_encoder(tmp_path, normalisation(to_rgb))
    done = saim_mm.export(source, tmp_path / "a.onnx", pool=pool)
    assert done.certificate.passed and set(done.certificate.differences) == {
        "1 x 32 x 48", "2 x 32 x 48", "3 x 32 x 48"
    }  # fmt: skip
    images = pixels(*SIZE, count=5)  # a batch that was not certified
    names = run_card(done.card, monkeypatch, images=images.numpy())
    encoder = saim_mm.load_encoder(source)
    expected = encoder.features(normalised(images, to_rgb), pool)
    found = torch.from_numpy(names["features"])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@needs_pt2
@pytest.mark.slow
def test_torch_export_by_its_card(tmp_path: Path, monkeypatch) -> None:
    source = write_encoder(tmp_path, normalisation())
    done = saim_mm.export(source, tmp_path / "a.pt2", dynamic_size=True, pool="map")
    encoder = saim_mm.load_encoder(source)
    images = pixels(80, 32, count=1)  # neither batch nor size were certified together
    names = run_card(done.card, monkeypatch, images=images)
    expected = encoder.features(normalised(images), "map")
    assert expected.shape == (1, 64, 5, 2)
    torch.testing.assert_close(names["features"], expected, rtol=0, atol=1e-5)
    extra = {"saim_mm.json": ""}
    torch.export.load(io.BytesIO(done.path.read_bytes()), extra_files=extra)
    assert "RGB in [0, 1]" in json.loads(extra["saim_mm.json"])["input"]


def test_dynamic_size_interpolates_the_positions(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = write_encoder(tmp_path, normalisation())
    done = saim_mm.export(source, tmp_path / "a.onnx", dynamic_size=True)
    assert len(done.certificate.differences) == 9  # three sizes, three batches
    encoder = saim_mm.load_encoder(source)
    for rows, columns in [SIZE, (16, 16), (64, 32), (80, 112)]:
        images = pixels(rows, columns)
        expected = encoder.features(normalised(images))
        found = run_onnx(done.path, images)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # That is no matter of course: positions do change the features.
    with torch.no_grad():
        encoder.backbone.pos_embed.zero_()
    assert (encoder.features(normalised(images)) - found).abs().max() > 0.1


def test_facts_are_in_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    done = saim_mm.export(write_encoder(tmp_path), tmp_path / "a.onnx")
    model = onnx.load(str(done.path))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert "float32 (B, 3, 32, 48), RGB in [0, 1]" in facts["input"]
    assert facts["normalisation"].startswith("included")
    assert model.opset_import[0].version == 17


@pytest.mark.parametrize(
    "variant",
    [
        dict(final_norm=True),
        dict(cfg="model = dict(backbone=dict(visible='causal'))", visible="causal"),
        dict(type="RotaryViT", qk_norm="plain"),
        dict(layer_scale_init_value=0.1),
    ],
    ids=["norm", "causal", "rotary", "scale"],
)
def test_variants_in_their_own_size(variant: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = write_encoder(tmp_path, variant.pop("cfg", ""), **variant)
    assert saim_mm.export(source, tmp_path / "a.onnx").certificate.passed


def windowed(folder: Path) -> dict[str, Any]:
    """An encoder with windows, and its config."""
    options = tiny_backbone(
        SIZE, PATCH, num_layers=2, embed_dims=64, num_heads=1,
        with_cls_token=False, window_size=2, global_attn_indexes=[1],
    )  # fmt: skip
    config = folder / "config.py"
    config.write_text(f"model = dict(backbone={options})\n")
    model = MODELS.build(options)
    randomise(model, 0)
    write_state_dict(folder / "encoder.pth", model.state_dict())
    return dict(encoder=folder / "encoder.pth", config=config)


def test_windows_in_their_own_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    given = windowed(tmp_path)
    assert saim_mm.export(**given, out=tmp_path / "a.onnx").certificate.passed


def test_other_channels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    cfg = normalisation(mean=[1.0], std=[2.0])
    source = write_encoder(tmp_path, cfg, channels=5)
    done = saim_mm.export(source, tmp_path / "a.onnx")
    assert "noise" in done.certificate.images
    images = pixels(*SIZE, channels=5)  # as stored: no 255, no colours to exchange
    expected = saim_mm.load_encoder(source).features((images - 1) / 2)
    torch.testing.assert_close(run_onnx(done.path, images), expected, rtol=0, atol=1e-5)


def test_timm_by_its_card(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("safetensors")
    source = write_encoder(tmp_path, normalisation())
    done = saim_mm.export(source, tmp_path / "a.safetensors", format="timm")
    images = normalised(pixels(*SIZE))
    tokens = run_card(done.card, monkeypatch, images=images)["tokens"]
    expected = saim_mm.load_encoder(source).features(images)
    torch.testing.assert_close(tokens[:, 1:].mean(1), expected, rtol=0, atol=1e-5)
    assert "**not included**: subtract [100.0, 110.0, 120.0]" in done.card.read_text()


def test_hugging_face_by_its_card(tmp_path: Path, monkeypatch) -> None:
    """Of a pretraining checkpoint, with the decoder's norm, as ViTModel needs one."""
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    model = tiny_saim(image_size=SIZE, patch_size=PATCH, embed_dims=64, num_heads=1)
    source = tmp_path / "saim.pth"
    write_state_dict(source, model.state_dict())
    done = saim_mm.export(source, tmp_path / "vit", format="hf")
    assert done.card == tmp_path / "vit" / "README.md"
    images = normalised(pixels(*SIZE))
    tokens = run_card(done.card, monkeypatch, images=images)["tokens"]
    with torch.no_grad():
        expected = model.eval().neck.norm(model.backbone(images)[-1])
    torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)


def test_a_narrow_decoder_has_no_norm_for_hugging_face(tmp_path: Path) -> None:
    """Not even where it is as wide as the encoder; the remedy named works."""
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    pytest.importorskip("timm")
    model = tiny_saim(
        image_size=SIZE,
        patch_size=PATCH,
        embed_dims=64,
        num_heads=1,
        neck=dict(
            _delete_=True, type="CrossMAENeck", depth=1, width=64, decoder_heads=1
        ),
    )
    source = tmp_path / "saim.pth"
    write_state_dict(source, model.state_dict())
    with pytest.raises(ValueError, match="export such an encoder for timm"):
        saim_mm.export(source, tmp_path / "vit", format="hf")
    assert not (tmp_path / "vit").exists()
    done = saim_mm.export(source, tmp_path / "timm.safetensors", format="timm")
    assert done.certificate.passed


def test_hugging_face_prepares_images_as_we_do(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    model = tiny_saim(image_size=(64, 64), patch_size=PATCH, embed_dims=64, num_heads=1)
    source, folder = tmp_path / "saim.pth", tmp_path / "vit"
    write_state_dict(source, model.state_dict(), meta=dict(cfg=normalisation()))
    saim_mm.export(source, folder, format="hf")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    image = photo(90, 120)
    encoder, again = saim_mm.load_encoder(source), saim_mm.load_encoder(folder)
    expected = encoder.transform([image, image.convert("L")])
    given = processor([image, image.convert("L")], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.transform(image), expected[:1])


def test_hugging_face_does_not_know_bgr(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    model = tiny_saim(image_size=SIZE, patch_size=PATCH, embed_dims=64, num_heads=1)
    source, folder = tmp_path / "saim.pth", tmp_path / "vit"
    cfg = normalisation(to_rgb=False)
    write_state_dict(source, model.state_dict(), meta=dict(cfg=cfg))
    saim_mm.export(source, folder, format="hf")
    assert not (folder / "preprocessor_config.json").exists()


@pytest.mark.parametrize("smoothing", [dict(kernel_size=5, sigma=0.7), None])
def test_official_by_its_card(smoothing: Any, tmp_path: Path, monkeypatch) -> None:
    model = tiny_saim(
        image_size=SIZE, patch_size=PATCH, embed_dims=64, num_heads=1,
        smoothing=smoothing,
    )  # fmt: skip
    source = tmp_path / "saim.pth"
    cfg = f"model = dict(head=dict(smoothing={smoothing}))"
    write_state_dict(source, model.state_dict(), meta=dict(cfg=cfg))
    done = saim_mm.export(source, tmp_path / "release.pth", format="official")
    state = run_card(done.card, monkeypatch)["state"]
    assert torch.equal(state["pos_embed"], model.backbone.pos_embed)
    kernel = state.get("gaussian_blur.weight")
    assert (kernel is None) == (smoothing is None)
    assert kernel is None or kernel.shape[-1] == 5


def test_images_of_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        photo(50, 70, seed=i).save(folder / f"{i}.png")
    done = saim_mm.export(write_encoder(tmp_path), tmp_path / "a.onnx", images=folder)
    assert done.certificate.images == "2 of the 2 in the given folder"


def test_nothing_is_written_if_it_is_too_far(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    run = _export_graph.run_onnx

    def wrong(content: bytes):
        runner = run(content)
        return lambda images: runner(images) * 1.001

    monkeypatch.setattr(_export_graph, "run_onnx", wrong)
    source = write_encoder(tmp_path)
    with pytest.raises(ValueError, match=r"nothing written[^$]*FAILED"):
        saim_mm.export(source, tmp_path / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pth"]


def test_a_card_is_not_written_over(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx.md").write_text("licence: mine")
    with pytest.raises(FileExistsError, match="may have been filled in"):
        saim_mm.export(write_encoder(tmp_path), tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx.md").read_text() == "licence: mine"


@pytest.mark.parametrize(
    ("name", "options"), [("a.onnx", {}), ("vit/config.json", dict(format="hf"))]
)
def test_nothing_is_written_over(name: str, options: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("transformers")
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    out = mine.parent if options else mine
    with pytest.raises(FileExistsError, match=f"{out}: is there already; remove it"):
        saim_mm.export(tmp_path / "none.pth", out, **options)
    assert mine.read_text() == "mine"


def test_the_card_tells_the_training_and_nothing_of_a_file_is_markup(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    hostile = "x`|\n---\nlicense: mit\n---\n# Good <script>$load [a](http://b)"
    cfg = normalisation() + (
        "model = dict(type='SAIM')\n"
        f"train_dataloader = dict(batch_size=64, dataset=dict(data_root={hostile!r}))\n"
        "train_cfg = dict(max_epochs=800)\n"
    )
    done = saim_mm.export(write_encoder(tmp_path, cfg), tmp_path / "a.onnx")
    lines = done.card.read_text().splitlines()
    (row,) = [line for line in lines if line.startswith("| trained on")]
    assert "model `SAIM`" in row and "epochs `800`" in row
    assert "`x'/ --- license: mit --- # Good <script>$load [a](http://b)`" in row
    assert lines[0] == "# `a.onnx`" and "---" not in lines and "# Good" not in lines


def test_escaped_is_one_span_of_code() -> None:
    for text in ("a`b", "``", "a\r\n# b", "a|b", " ", "`" * 500):
        shown = escaped(text)
        assert shown[0] == shown[-1] == "`" and shown.count("`") == 2
        assert "\n" not in shown and "|" not in shown and len(shown) < 220


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("a.bin", {}, "ending '.bin' does not tell"),
        ("a.safetensors", {}, "format='timm'"),
        ("a.onnx", dict(format="timm"), "written to .safetensors"),
        ("a.onnx", dict(format="tflite"), "choose one of"),
        ("a.onnx", dict(pool="max"), "pool='max'"),
        ("a.pth", dict(format="official"), "neither"),
        ("a.safetensors", dict(format="timm", dynamic_size=True), "is of graphs"),
        ("a.onnx", dict(images="EMPTY"), "holds no image"),
        ("a.onnx", dict(opset=3), "cannot be exported by ONNX"),
        ("hf", dict(format="hf"), "no final norm"),
    ],
)
def test_wrong_arguments(
    out: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    source = write_encoder(tmp_path)
    (tmp_path / "empty").mkdir()
    if options.get("images"):
        options = dict(images=tmp_path / "empty")
    with pytest.raises(ValueError, match=re.escape(said)):
        saim_mm.export(source, tmp_path / out, **options)
    assert not (tmp_path / out).is_file()


@pytest.mark.parametrize(
    ("encoder", "options", "said"),
    [
        (dict(with_cls_token=False), dict(pool="cls"), "needs a class token"),
        (dict(type="RotaryViT"), dict(dynamic_size=True), "has rotary positions"),
        (dict(channels=5), {}, "3 values and the encoder 5 channels"),
    ],
)
def test_encoders_that_cannot(
    encoder: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=said):
        saim_mm.export(
            write_encoder(tmp_path, **encoder), tmp_path / "a.onnx", **options
        )


def test_windows_have_one_size_and_no_place_in_timm(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("timm")
    given = windowed(tmp_path)
    with pytest.raises(ValueError, match="attends within windows"):
        saim_mm.export(**given, out=tmp_path / "a.onnx", dynamic_size=True)
    with pytest.raises(ValueError, match="compute something else"):
        saim_mm.export(**given, out=tmp_path / "a.safetensors", format="timm")


def test_heads_that_nothing_tells(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = MODELS.build(tiny_backbone(SIZE, PATCH, embed_dims=48, num_heads=3))
    write_state_dict(tmp_path / "encoder.pth", model.state_dict())
    with pytest.raises(ValueError, match="number of heads"):
        saim_mm.export(tmp_path / "encoder.pth", tmp_path / "a.onnx")
    done = saim_mm.export(tmp_path / "encoder.pth", tmp_path / "a.onnx", num_heads=3)
    assert done.certificate.passed


def test_missing_and_unwritable(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError):
        saim_mm.export(tmp_path / "none.pth", tmp_path / "a.onnx")
    source = write_encoder(tmp_path)
    with pytest.raises(OSError):  # a file where a folder would have to be
        saim_mm.export(source, source / "a.onnx")


def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'saim_mm\[export\]'"):
        saim_mm.export(write_encoder(tmp_path), tmp_path / "a.onnx")


def test_a_fixed_batch_is_one_image(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = write_encoder(tmp_path)
    done = saim_mm.export(source, tmp_path / "a.onnx", dynamic_batch=False)
    assert list(done.certificate.differences) == ["1 x 32 x 48"]
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        run_onnx(done.path, pixels(*SIZE))
    assert np.isfinite(run_onnx(done.path, pixels(*SIZE, count=1)).numpy()).all()
