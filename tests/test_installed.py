"""What a user of the wheel, the source archive or an editable install finds.

Each is installed, without network, into an environment of its own. It sees the
packages of the environment that runs the tests by a `.pth` file with their folder.
`.pth` files in there stay unread by that; so saim_mm, if it is there as an editable
install, is not seen. All is built in a copy of the sources and run far from it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCES = (
    *("saim_mm", "configs", "tools"),
    *("saim_mm_start.py", "setup.py", "pyproject.toml", "MANIFEST.in"),
    *("model-index.yml", "README.md", "LICENSE"),
)
NEVER = {"build_mmcv.py", "doctor.py", "run_uv.py", "test_upstream.sh"}
KINDS = ("wheel", "sdist", "editable")


def run(*command: object, cwd: Path, **environment: str) -> str:
    """The standard output of a command that must succeed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**clean, "PYTHONNOUSERSITE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what is built from."""
    folder = tmp_path_factory.mktemp("sources")
    left_out = shutil.ignore_patterns("__pycache__", ".mim")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(kind: str, sources: Path, out: Path) -> Path:
    """Calls the hook that `python -m build` calls; the archive."""
    hook = (
        f"from setuptools.build_meta import build_{kind} as b; print(b({str(out)!r}))"
    )
    return out / run(sys.executable, "-c", hook, cwd=sources).splitlines()[-1]


@pytest.fixture(scope="module")
def archives(
    sources: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("dist")
    return {kind: build(kind, sources, out) for kind in ("wheel", "sdist")}


@pytest.fixture(scope="module", params=KINDS)
def python(
    request: pytest.FixtureRequest,
    sources: Path,
    archives: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The interpreter of an environment in which saim_mm is installed."""
    folder = tmp_path_factory.mktemp(request.param) / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    where = "import site; print(site.getsitepackages()[0])"
    theirs, ours = (run(p, "-c", where, cwd=folder) for p in (sys.executable, python))
    Path(ours.strip(), "packages_of_the_tests.pth").write_text(theirs)
    target = ["--editable", sources]
    if request.param != "editable":
        target = [archives[request.param]]
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    alone = ["--no-index", "--no-deps", "--no-build-isolation"]
    run(*pip, *alone, *target, cwd=folder)
    return python


def shipped(names: list[str]) -> set[str]:
    """The paths below `.mim`, or below the root of a source archive."""
    tops = ("configs", "tools", "model-index.yml")
    below = {name.split("/.mim/")[-1] for name in names}
    return {name for name in below if name.split("/")[0] in tops}


def test_what_the_archives_carry(archives: dict[str, Path]) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix()
        for top in ("configs", "tools")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    } | {"model-index.yml"}
    with tarfile.open(archives["sdist"]) as archive:
        names = [m.name.partition("/")[2] for m in archive if m.isfile()]
        assert wanted <= set(names)
        assert not any("__pycache__" in name or ".mim" in name for name in names)
    with zipfile.ZipFile(archives["wheel"]) as wheel:
        in_mim = {name for name in wheel.namelist() if "/.mim/" in name}
    left_out = wanted - shipped(sorted(in_mim))
    assert {Path(name).name for name in left_out} == {*NEVER, "write_metafiles.py"}
    assert shipped(sorted(in_mim)) <= wanted


TRAIN = """
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.runner import Runner
import saim_mm, sys
assert saim_mm.__file__.startswith(sys.argv[1]), saim_mm.__file__
cfg = get_config("saim_mm::saim/saim_debug.py")
assert type(get_model("saim_mm::saim/saim_debug.py")).__name__ == "SAIM"
child = Config.fromfile("child.py")
assert child.model.neck == cfg.model.neck and child.work_dir == "child"
child.train_dataloader.dataset.num_images = 64
Runner.from_cfg(child).train()
for name in ("coco/mask-rcnn_saim-vit-b_100e_coco.py",
             "ade20k/upernet_saim-vit-b_160k_ade20k-512.py"):
    assert get_config("saim_mm::" + name).model.backbone.type == "SAIMViT"
from mmpretrain import get_model, list_models
assert "saim_vit-b_800e_in1k" in list_models("*saim*")
trained = get_model("saim_debug", pretrained="child/epoch_1.pth")
assert trained._metainfo.config.train_cfg.max_epochs == 1
"""


def test_it_trains_far_from_the_repository(
    python: Path, sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "child.py").write_text(
        "_base_ = 'saim_mm::saim/saim_debug.py'\nwork_dir = 'child'\n"
    )
    (tmp_path / "train.py").write_text(TRAIN)
    of = sources if "editable" in str(python) else python.parents[1]
    run(python, "train.py", of, cwd=tmp_path)
    assert (tmp_path / "child" / "epoch_1.pth").is_file()


def test_the_shipped_tool_gives_the_recorded_losses(
    python: Path, sources: Path, tmp_path: Path
) -> None:
    where = "import saim_mm; print(saim_mm.__path__[0])"
    package = Path(run(python, "-c", where, cwd=tmp_path).splitlines()[-1])
    tool = package / ".mim" / "tools" / "train.py"
    name = "saim_mm::saim/saim_debug.py"
    run(python, tool, name, "--work-dir", "run", cwd=tmp_path)
    (scalars,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    lines = map(json.loads, scalars.read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    record = json.loads((ROOT / "tests/data/saim_debug_losses.json").read_text())
    last_ten = [record["losses"][max(0, n - 9) : n + 1] for n in range(20)]
    logged = [sum(values) / len(values) for values in last_ten]  # MMEngine smooths
    assert losses == pytest.approx(logged, rel=1e-4)


def test_the_command_works(python: Path, tmp_path: Path) -> None:
    command = python.parent / "saim-mm"
    assert "exit codes:" in run(command, "--help", cwd=tmp_path)
    name = "saim_mm::saim/saim_debug.py"
    out = run(command, "doctor", name, "--samples", "4", cwd=tmp_path)
    assert "all 4 samples that were tried load" in out and out.endswith("Ready.\n")
