"""Pip's settings, handed on to uv."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTING = """\
:env:.cert='/variables.pem'
global.cert='/global.pem'
global.extra-index-url='https://one.example/simple\\nhttps://two.example/simple'
global.find-links='/wheels https://three.example/wheels'
global.index-url='https://mirror.example/simple'
global.timeout='60'
install.index-url="https://install.example/simple"
install.no-index='true'
download.index-url='https://download.example/simple'
user.name='unknown'
"""


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location(
        "run_uv", ROOT / "tools" / "run_uv.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(tool, monkeypatch):
    """Every process that the tool starts, as (command, environment)."""
    started = []

    def run(command, env=None, **_):
        started.append((command, env))
        listing = "global.index-url='https://mirror.example/simple'\n"
        if "config" in command:
            return subprocess.CompletedProcess(command, 0, listing, "")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool, "is_tested_uv", lambda: True)
    for name, _ in tool.SETTINGS.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tool.sys, "argv", ["run_uv.py", "pip", "install", "x"])
    return started


def test_settings_are_translated(tool):
    settings = tool.parse_settings(LISTING)
    assert settings["no-index"] == "true"
    assert tool.to_variables(settings) == {
        "UV_DEFAULT_INDEX": "https://install.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels,https://three.example/wheels",
        "SSL_CERT_FILE": "/variables.pem",
        "UV_HTTP_TIMEOUT": "60",
    }


def test_no_settings_are_no_variables(tool):
    assert tool.parse_settings("") == {}
    assert tool.to_variables({}) == {}


def test_pip_is_understood(tool, monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://mirror.example/it's\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "/one /two")
    settings = tool.read_pip_settings()
    assert settings["index-url"] == "https://mirror.example/it's"
    assert settings["find-links"] == "/one /two"


def test_broken_settings_are_an_error(tool, monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("no section\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    with pytest.raises(RuntimeError, match="pip cannot read its settings"):
        tool.read_pip_settings()


def test_uv_gets_them(tool, calls):
    assert tool.main() == 0
    command, environment = calls[-1]
    assert command[1:] == ["-m", "uv", "pip", "install", "x"]
    assert environment["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert environment["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_uv_s_own_variables_win(tool, calls, monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    tool.main()
    assert calls[-1][1]["UV_DEFAULT_INDEX"] == "https://own.example/simple"


def test_uv_is_installed_first(tool, calls, monkeypatch):
    monkeypatch.setattr(tool, "is_tested_uv", lambda: False)
    tool.main()
    first, *_, last = (command for command, _ in calls)
    assert "pip" in first and first[-1] == "uv" and str(tool.TESTED) in first
    assert last[1:3] == ["-m", "uv"]


@pytest.mark.parametrize(("pinned", "same"), [("1.2.3", True), ("1.2.30", False)])
def test_only_the_tested_uv_will_do(tool, monkeypatch, tmp_path, pinned, same):
    tested = tmp_path / "tested.txt"
    tested.write_text(f"torch==2.11.0\nuv=={pinned}\n")
    monkeypatch.setattr(tool, "TESTED", tested)
    monkeypatch.setattr(tool.importlib.metadata, "version", {"uv": "1.2.3"}.get)
    assert tool.is_tested_uv() is same
