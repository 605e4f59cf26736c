"""Experiments around SAIM; each runs as ``python -m projects.NAME``."""
