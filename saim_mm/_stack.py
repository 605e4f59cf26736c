"""Check that torch and the OpenMMLab packages are there and new enough."""

import contextlib
import importlib
import importlib.metadata
import io
import re
from dataclasses import dataclass

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One package of the stack.

    Attributes:
        module: Name it is imported by.
        at_least: Oldest version that works.
        below: First version that is no longer expected to work.
        install: Command that installs the tested version, of the OneDL line
            where OpenMMLab is concerned. The pins repeat
            ``requirements/tested.txt``, which an installed wheel does not have;
            a test keeps the two equal.
    """

    module: str
    at_least: str
    below: str
    install: str


# Built in an environment of its own, where its setup.py finds no torch, mmcv leaves
# its compiled ops out: that takes seconds, and SAIM needs no more. pip must not cache
# that wheel: asked for the ops later, it would hand it out again.
STACK = (
    Part("torch", "2.1", "3", "pip install torch==2.11.0 torchvision==0.26.0"),
    Part("mmengine", "0.10.7", "1", "pip install onedl-mmengine==0.10.12"),
    Part("mmcv", "2.1.0", "3", "pip install --no-cache-dir onedl-mmcv==2.3.6"),
    Part("mmpretrain", "1.2.0", "2", "pip install onedl-mmpretrain==1.3.6"),
)

# Ranges that `tools/doctor.py` looks at besides. What an import of the package needs
# stands above; `install` is advice here.
PYTHON = Part(
    "python", "3.10", "3.13", "Python 3.10, 3.11 and 3.12 were tested; use one of them"
)
#: For mmpretrain, which imports it where it is there.
TRANSFORMERS = Part("transformers", "0", "5", "pip install 'transformers<5'")
#: For upstream's mmdet and mmseg.
UPSTREAM_MMCV = Part(
    "mmcv",
    "2.0",
    "2.2",
    "pip install 'mmcv>=2.1,<2.2', or the OneDL line: see README.md",
)
#: For a torch below 2.3, which was built for it.
OLD_NUMPY = Part(
    "numpy", "0", "2", "pip install 'numpy<2' 'opencv-python-headless<4.12'"
)
FIRST_TORCH_WITH_NUMPY_2 = (2, 3, 0)
#: torch.export with sizes that are multiples of a patch, saved and loaded.
FIRST_TORCH_WITH_DERIVED_DIMS = (2, 5, 0)

#: Import name -> names of its distributions, the OneDL line first.
LINES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}

# Import names that differ from the name that pip knows.
_DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "importlib_metadata": "importlib-metadata",
}


def check_stack(parts: tuple[Part, ...] = STACK) -> None:
    """Import parts of the stack, the first ones first, and compare their versions.

    Raises:
        ImportError: For the first part that is missing, fails to import, or is too
            old or too new; it names the part, what was found, the range that is
            needed and the command that mends it.
    """
    for part in parts:
        # Any exception counts: a part that dislikes another's version asserts, and
        # one that was built for another torch may raise an OSError.
        try:
            module = importlib.import_module(part.module)
        except Exception as error:
            state, remedy = _diagnose(part, error)
        else:
            version = str(getattr(module, "__version__", "unknown"))
            if in_range(version, part):
                continue
            state, remedy = f"is version {version}", _install_command(part)
        raise ImportError(
            f"saim_mm needs {part.module}>={part.at_least},<{part.below}, but it "
            f"{state}.\nTo mend it, run:\n    {remedy}"
        ) from None


def import_quietly(module: str) -> None:
    """Imports what prints: OneDL's mmpretrain, that a package is missing.

    Nobody needs that, and what a command prints is for others to read.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(module)


def in_range(version: str, part: Part) -> bool:
    """Tell whether ``version`` lies in the range that ``part`` accepts."""
    if not re.match(r"\d", version):
        return False
    return parse(part.at_least) <= parse(version) < parse(part.below)


def torchvision_for(torch: str) -> Part:
    """The torchvision that a version of torch 2 belongs to: 0.(n + 15) to 2.n."""
    minor = parse(torch)[1] + 15
    return Part(
        "torchvision",
        f"0.{minor}",
        f"0.{minor + 1}",
        f"pip install 'torchvision==0.{minor}.*'",
    )


def parse(version: str) -> Version:
    """Read the release numbers off a version: '2.11.0+cu130' gives (2, 11, 0).

    Hand-made because it must run before anything is known to be installed.
    """
    numbers = [int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3]]
    major, minor, patch = (numbers + [0, 0, 0])[:3]
    return major, minor, patch


def _diagnose(part: Part, error: Exception) -> tuple[str, str]:
    """Describe a failed import, and choose the command that mends its cause."""
    cause = str(error)
    state = f"fails to import ({type(error).__name__}: {cause})"
    missing = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name.split(".")[0]
    if missing == part.module:
        return "is not installed", _install_command(part)
    if missing and missing not in {other.module for other in STACK}:
        # Undeclared by the part, so that installing the part again is no use.
        return state, f"pip install {_DISTRIBUTIONS.get(missing, missing)}"
    if "libGL" in cause or "libgthread" in cause:
        return state, (
            "pip uninstall -y opencv-python && "
            "pip install --force-reinstall --no-deps opencv-python-headless"
        )
    if "transformers" in cause:
        # Some of mmpretrain's models import it; later ones lack what they ask for, or
        # refuse the torch that is there. Upstream was tested with 4.46.
        return state, "pip install 'transformers<4.47'"
    # 'MMCV==2.9.0 is used but incompatible', says mmpretrain: mmcv is to blame.
    blamed = [
        other
        for other in STACK
        if other.module == missing or f"{other.module}==" in cause.lower()
    ]
    return state, _install_command((blamed or [part])[0])


def _install_command(part: Part) -> str:
    """Return the command that installs ``part``, in place of upstream's if need be.

    OneDL and upstream share their import names, so that installing one over the
    other would mix their files.
    """
    if part.module == "torch" or installed(part.module) is None:
        return part.install
    return f"pip uninstall -y {part.module} && {part.install}"


def installed(distribution: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
