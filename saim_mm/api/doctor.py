"""Examines the installation, the machine and a config's data."""

from .._doctor import doctor

__all__ = ["doctor"]
