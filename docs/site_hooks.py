"""What MkDocs builds the site from: pages where they lie, and one for each package.

The pages keep their places in the repository, so that their links to each other are the
same on GitHub and in the site. What else of the repository they link to comes along.
"""

from __future__ import annotations

import ast
import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md")
#: Packages that have a page.
PACKAGES = (
    "api", "models", "models.baselines", "models.dense", "datasets", "weights",
    "reliability", "engine", "evaluation", "visualization", "parity",
)  # fmt: skip
_LINK = re.compile(r"\]\(([^)#:\s]+)")
#: reStructuredText's roles, which docstrings have and Markdown does not know.
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills in the pages of packages, and guides that the file does not order."""
    sections = {k: v for entry in config.nav for k, v in entry.items()}
    ordered = [page for pages in sections.values() for page in pages]
    sections["Guides"] += [page for page in _guides() if page not in ordered]
    sections["API"][:] = [f"api/{name}.md" for name in PACKAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Takes the repository's files in place of those that MkDocs found in ``docs``."""
    for file in [file for file in files if file.src_dir == config.docs_dir]:
        files.remove(file)  # the rest is the theme's
    for path in dict.fromkeys(_sources()):
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    contents = {f"api/{name}.md": _api(name) for name in PACKAGES}
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        contents |= _notebook(path)
    for name, content in contents.items():
        files.append(File.generated(config, name, content=content))
    return files


def _notebook(path: Path) -> dict[str, str | bytes]:
    """The page of a notebook as it was executed, and its pictures."""
    page, files = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        is_code = cell["cell_type"] == "code"
        page.append(f"```python\n{source}\n```" if is_code else source)
        for output in cell.get("outputs", ()):
            picture = _picture(output.get("data", {}))
            if picture is None:
                page.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            else:
                kind, content = picture
                name = f"{path.stem}_{len(files) + 1}.{kind}"
                files[f"docs/{name}"] = content
                page.append(f"![]({name})")
    return {f"docs/{path.stem}.md": "\n\n".join(page), **files}


def _picture(data: Mapping[str, str | list[str]]) -> tuple[str, bytes] | None:
    """Suffix and content of a picture among the forms of an output."""
    for kind in ("png", "jpeg"):
        if f"image/{kind}" in data:
            return kind, base64.b64decode("".join(data[f"image/{kind}"]))
    return None


def _api(name: str) -> str:
    """The page of a package: what its ``__init__.py`` hands on, or else its modules.

    What a package with a page of its own has stands there.
    """
    folder = ROOT / "saim_mm" / Path(*name.split("."))
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    public = {
        alias.name: f"{name}.{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.level == 1
        if f"{name}.{(node.module or '').split('.')[0]}" not in PACKAGES
        for alias in node.names
    }
    modules = (path.stem for path in folder.glob("*.py") if path.stem[0] != "_")
    paths = [public[key] for key in sorted(public, key=str.lower)]
    paths = paths or [f"{name}.{module}" for module in sorted(modules)]
    blocks = [f"::: saim_mm.{path}" for path in paths]
    return "\n\n".join([f"# saim_mm.{name}", ast.get_docstring(tree) or "", *blocks])


def _sources() -> Iterator[str]:
    """Pages, and the files that they link to."""
    pages = [page for page in (*PAGES, *_guides()) if (ROOT / page).is_file()]
    yield from pages
    yield "docs/site.css"
    for page in pages:
        for link in _LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            target = (ROOT / page).parent.joinpath(link).resolve()
            if target.is_file() and target.is_relative_to(ROOT):
                yield target.relative_to(ROOT).as_posix()


def _guides() -> list[str]:
    """Pages of ``docs``; those of notebooks are made of them."""
    paths = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    return sorted(f"docs/{path.stem}.md" for path in paths)


def on_page_content(html: str, **_: object) -> str:
    """Takes the roles off the docstrings."""
    return _ROLE.sub("", html)
