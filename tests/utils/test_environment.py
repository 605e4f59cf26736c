"""What records say of the machine, also where there is no git or no installation."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from saim_mm.utils import environment as module
from saim_mm.utils.environment import cpu_name, environment


def test_says_what_a_figure_needs() -> None:
    found = environment(["torch", "saim_mm"])
    assert found["versions"]["torch"] == f"torch {version('torch')}"
    assert found["threads"] == torch.get_num_threads()
    assert found["hardware"] == cpu_name()
    assert len(found["load_average"]) == 3
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_only_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "packages_distributions", dict)
    assert environment(["saim_mm"])["versions"]["saim_mm"] == "not installed"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True
    )
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the module in it, which believes to lie there."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "saim_mm/utils"
    folder.mkdir(parents=True)
    (folder / "environment.py").write_text("")
    git(tmp_path, "init")
    monkeypatch.setattr(module, "__file__", str(folder / "environment.py"))
    return tmp_path


def test_commit_and_changes(repository: Path) -> None:
    assert environment([])["commit"] == "unknown"  # somebody else's repository
    git(repository, "add", ".")
    git(repository, "commit", "-m", "all")
    records, code = repository / "benchmarks/new.json", repository / "benchmarks/a.py"
    records.parent.mkdir()
    records.write_text("")
    found = environment([])
    assert found["commit"] == git(repository, "rev-parse", "HEAD")
    assert found["uncommitted_changes"] is False
    code.write_text("")
    assert environment([])["uncommitted_changes"] is True


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    found = environment([])
    assert (found["commit"], found["uncommitted_changes"]) == ("unknown", False)


def test_the_command_names_no_folder_of_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "package_for_a_test").mkdir()
    for file in ("tool.py", "package_for_a_test/__main__.py"):
        (tmp_path / file).write_text(
            "from saim_mm.utils.environment import environment\n"
            "print(environment([])['command'])\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["", "--a", "b c"])
    runpy.run_path("tool.py", run_name="__main__")
    runpy.run_module("package_for_a_test", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out == (
        "python tool.py --a 'b c'\npython -m package_for_a_test --a 'b c'\n"
    )
