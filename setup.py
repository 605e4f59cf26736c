"""Packaging of saim_mm; pyproject.toml has all but the licence and `saim_mm/.mim`.

OpenMMLab looks for a package's configs and tools in its folder `.mim`: an installed
package has copies there, an editable one links to the repository's.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ("configs", "tools", "model-index.yml")
#: They work on the repository, or, as doctor.py (`saim-mm doctor`), find it by path.
LEFT_OUT = (
    "build_mmcv.py",
    "doctor.py",
    "run_uv.py",
    "test_upstream.sh",
    "write_metafiles.py",
)


class BuildWithMim(build_py):
    """Adds `saim_mm/.mim`, to the wheel or, for an editable install, to the sources."""

    def run(self) -> None:
        """Builds what setuptools builds, then `.mim`."""
        super().run()
        if self.editable_mode:
            link(ROOT / "saim_mm" / ".mim")
        else:
            copy(Path(self.build_lib) / "saim_mm" / ".mim")


def copy(mim: Path) -> None:
    """Fills `.mim` anew: a build folder may still hold what is no longer shipped."""
    shutil.rmtree(mim, ignore_errors=True)
    mim.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", *LEFT_OUT)
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, mim / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, mim / name)


def link(mim: Path) -> None:
    """Links `.mim` to the repository, relatively, so that it may be moved."""
    mim.mkdir(exist_ok=True)
    for name in SHIPPED:
        (mim / name).unlink(missing_ok=True)
        (mim / name).symlink_to(Path("..", "..", name))


setup(
    # Here, because setuptools before 77, which upstream OpenMMLab builds with, and
    # those after it want different forms of it in pyproject.toml.
    license="Apache-2.0",
    cmdclass={"build_py": BuildWithMim},
)
