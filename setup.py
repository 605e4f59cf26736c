"""Packaging of saim_mm; all but the licence stands in pyproject.toml."""

from setuptools import setup

# Here, because setuptools before 77, which upstream OpenMMLab builds with, and those
# after it want different forms of it in pyproject.toml.
setup(license="Apache-2.0")
