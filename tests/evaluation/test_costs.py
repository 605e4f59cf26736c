"""The table of costs says what the configs give, and torch counts the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny import tiny_config

from saim_mm.evaluation.costs import CostRow, counted_share, pretraining_flops
from tools.analysis_tools import pretraining_costs
from tools.analysis_tools.pretraining_costs import BEGIN, END, ROOT, SYSTEMS

PIPELINE = [dict(type="LoadImage")]
VIEWS = [
    dict(type="LoadImage"),
    dict(
        type="MultiView",
        num_views=[2, 3],
        transforms=[[dict(type="Crop", scale=16)], [dict(type="Crop", scale=8)]],
    ),
]


def written(folder: Path, model: dict[str, Any], pipeline: list[Any]) -> Path:
    """A config with a model and a pipeline, and no more."""
    loader = dict(dataset=dict(pipeline=pipeline))
    path = folder / "config.py"
    Config(dict(default_scope="mmpretrain", model=model, train_dataloader=loader)).dump(
        path
    )
    return path


MEMBERS: dict[str, dict[str, Any]] = {
    "prefix": dict(reading=dict(type="PrefixReading"), depth=0, order="raster"),
    "cut": dict(reading=dict(type="CutReading", asked=2)),
    "registers": dict(type="RegisterViT", num_registers=2),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_torch_counts_what_the_closed_form_says(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    path = written(tmp_path, tiny_config(**MEMBERS[name]), PIPELINE)
    assert counted_share(path) == pytest.approx(1, abs=0.01)


def test_so_it_does_of_several_crops(tmp_path: Path) -> None:
    pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    model = dict(
        type="DINOPretraining",
        backbone=dict(type="VisionTransformer", arch=arch, img_size=16, patch_size=4),
        neck=dict(type="DINOProjector", in_channels=16, out_channels=10),
        head=dict(type="DINOHead", out_channels=10),
    )
    path = written(tmp_path, model, VIEWS)
    assert counted_share(path) == pytest.approx(1, abs=0.01)  # its loss has products
    assert pretraining_flops(path).target * 2 < pretraining_flops(path).step


def test_a_wrong_closed_form_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    path = written(tmp_path, tiny_config(), PIPELINE)
    monkeypatch.setattr("saim_mm.evaluation.flops._target", lambda *_: 0)
    assert counted_share(path) > 1.01


def test_the_tool_writes_the_page_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch.nn.attention", reason="torch before 2.3")
    config = str(written(tmp_path, tiny_config(), PIPELINE))
    monkeypatch.setattr(pretraining_costs, "SYSTEMS", {"tiny": config})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert pretraining_costs.main(["--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"|\n\n{END}\nafter\n")
    assert f"| tiny | `{config}` | 0.0 | 0 | " in text and "old" not in text


@pytest.mark.parametrize("text", ["", f"{END}\n{BEGIN}\n", BEGIN])
def test_a_page_without_its_marks_is_refused_at_once(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert pretraining_costs.main(["--page", str(page)]) == 1
    said = capsys.readouterr()
    assert not said.out and said.err.startswith(
        f"error: {page} needs the lines {BEGIN}"
    )
    assert page.read_text() == text


@pytest.mark.slow
def test_the_page_has_the_figures_of_the_configs() -> None:
    """The closed forms anew; the counter's share is that of the run that wrote it."""
    page = (ROOT / "docs/experiments.md").read_text()
    lines = page.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    assert len(lines) == len(SYSTEMS)
    for line, (name, config) in zip(lines, SYSTEMS.items(), strict=True):
        counted = float(line.split("|")[-2])
        assert counted == pytest.approx(1, abs=1e-3)
        flops = pretraining_flops(ROOT / "configs" / config)
        assert line == str(CostRow(name, config, flops, counted))
