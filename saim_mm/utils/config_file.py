"""Configs as MMEngine reads them, with errors that name the file."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config


def read_config_file(path: str | Path) -> Config:
    """Runs a config and returns what it sets.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no config, or what it does fails; with what it says.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such config file.")
    try:
        return Config.fromfile(path)
    except (Exception, SystemExit) as error:  # whatever the code of a person raises
        told = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"{path}: does not load as a config of MMEngine: {type(error).__name__}: "
            f"{told}"
        ) from error
