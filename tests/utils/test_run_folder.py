"""Folders of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from saim_mm.utils.run_folder import RunFolderError, run_folder


def test_two_runs_never_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda _: "now")
    with run_folder(tmp_path) as folder:
        (folder / "log").touch()
    with pytest.raises(RunFolderError, match="File exists"), run_folder(tmp_path):
        pass
    assert (tmp_path / "now" / "log").exists()


def test_a_run_that_is_stopped_takes_its_folder_with_it(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt, KeyError):
        with pytest.raises(error), run_folder(tmp_path / "out", KeyError) as folder:
            (folder / "log").touch()
            raise error
        assert not (tmp_path / "out").exists()


def test_what_an_unforeseen_error_leaves_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError), run_folder(tmp_path, KeyError) as folder:
        raise ValueError
    assert folder.is_dir()
