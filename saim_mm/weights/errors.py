"""The error of all that reads, checks or converts weights."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file or a state dict is not what is needed; the message says what to do."""
