"""The documentation builds as a site, without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from saim_mm import api, engine

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="pip install saim_mm[docs]")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_with_its_drawings(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        built = (site / "docs" / page.stem / "index.html").read_text(encoding="utf-8")
        drawings = page.read_text(encoding="utf-8").count("```mermaid\n")
        assert built.count('<pre class="mermaid">') == drawings, page.name
    assert (site / "index.html").is_file() and (site / "CHANGELOG").is_dir()


@pytest.mark.slow
def test_links_of_a_page_lead_to_pages_and_files(site: Path) -> None:
    speed = (site / "docs" / "speed" / "index.html").read_text(encoding="utf-8")
    for link in ("../../benchmarks/", "../data/", "../experiments/"):
        assert re.search(rf'href="{link}"', speed), link
    assert (site / "docs" / "images" / "small_scale_cifar10_cpu.png").is_file()


@pytest.mark.slow
def test_the_docstrings_are_there(site: Path) -> None:
    pages = [path.read_text(encoding="utf-8") for path in site.glob("api/*/index.html")]
    headings = set(re.findall(r'<h2 id="saim_mm\.[\w.]*\.(\w+)"', "".join(pages)))
    assert headings >= {*api.__all__, *engine.__all__}
    assert not [page for page in pages if re.search(r":(class|func|mod):", page)]
