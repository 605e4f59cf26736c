"""Packaging of saim_mm; exact, tested versions are in requirements/tested.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Read ``__version__`` without importing the package, which needs its stack."""
    text = (ROOT / "saim_mm" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('saim_mm/version.py must hold a line __version__ = "..."')
    return match.group(1)


# The OpenMMLab packages are extras, not requirements: each exists under two names
# with the same import name (mmengine and onedl-mmengine), and requiring one would
# install it over the other. saim_mm checks on import that one line is there.
# What they import and do not declare is written out: onedl-mmengine imports torch
# and cv2; onedl-mmpretrain imports torch, torchvision, PIL, mmengine and mmcv.
ONEDL = [
    "onedl-mmengine>=0.10.8,<1",
    "onedl-mmcv>=2.3,<2.4",
    "onedl-mmpretrain>=1.3,<2",
    "opencv-python",  # by the name that onedl-mmcv asks for
]
UPSTREAM = [
    "mmengine>=0.10.7,<1",
    "mmcv>=2.1,<2.2",  # upstream's mmdet and mmseg refuse 2.2
    "mmpretrain>=1.2,<2",
]

setup(
    name="saim_mm",
    version=read_version(),
    description="Stochastic Autoregressive Image Modeling (SAIM) for OpenMMLab",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["saim_mm", "saim_mm.*"]),
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.1,<3",
        "torchvision>=0.16",
        "numpy",
        "pillow",
    ],
    extras_require={
        "onedl": ONEDL,
        "upstream": UPSTREAM,
        "demo": ["scikit-image", "scikit-learn", "matplotlib"],
        "downstream": [
            "onedl-mmdetection>=3.5,<4",
            "onedl-mmsegmentation>=1.4,<2",
            "ftfy",
            "regex",
        ],
        "convert": ["safetensors", "timm", "transformers>=4.53,<5"],
        "speed": ["simplejpeg>=1.9,<2"],
        "test": ["pytest", "scipy"],
    },
)
