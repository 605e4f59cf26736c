"""Run uv with the settings that pip has here: mirrors, certificates, proxies.

    python tools/run_uv.py pip install ...

uv does not read pip's configuration, so that a machine that reaches its packages
through it would be lost. uv's own variables, where set, are left as they are. uv
itself is installed by pip, in its tested version, when it is not there.
"""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTED = ROOT / "requirements" / "tested.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")

#: What pip calls a setting -> the variable that uv reads, and what separates values.
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
}


def parse_settings(listing: str) -> dict[str, str]:
    """Read what ``pip config list`` says.

    Args:
        listing: Lines such as ``global.index-url='https://...'``.

    Returns:
        Each setting that counts when something is installed. As in pip, the section
        ``install`` outdoes ``global``, and variables such as ``PIP_INDEX_URL`` both.
    """
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(['\"].*)$", listing, re.M)
    return {
        name: str(ast.literal_eval(value))
        for section in ("global", "install", ":env:")
        for where, name, value in found
        if where == section
    }


def to_variables(settings: dict[str, str]) -> dict[str, str]:
    """Say pip's settings in uv's variables."""
    return {
        SETTINGS[name][0]: SETTINGS[name][1].join(value.split())
        for name, value in settings.items()
        if name in SETTINGS
    }


def read_pip_settings() -> dict[str, str]:
    """Ask pip for its settings.

    Raises:
        RuntimeError: If pip cannot read them itself.
    """
    command = [*PIP, "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f"pip cannot read its settings:\n{answer.stderr.strip()}")
    return parse_settings(answer.stdout)


def is_tested_uv() -> bool:
    """Tell whether the tested version of uv is installed beside this Python."""
    try:
        version = importlib.metadata.version("uv")
    except importlib.metadata.PackageNotFoundError:
        return False
    return f"uv=={version}" in TESTED.read_text(encoding="utf-8").split()


def main() -> int:
    """Run uv; return its exit code."""
    if not is_tested_uv():
        print("[setup] uv, which installs the rest", flush=True)
        code = subprocess.run([*PIP, "install", "-qc", str(TESTED), "uv"]).returncode
        if code:
            print("[setup] error: pip could not install uv; the reason stands above")
            return code
    settings = read_pip_settings()
    environment = {
        # pip takes the best version that any index has; uv by itself asks only the
        # first index that knows the name, and a mirror often lacks versions.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        **to_variables(settings),
        **os.environ,
    }
    command = [sys.executable, "-m", "uv", *sys.argv[1:]]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        command.append("--no-index")  # there is no variable for it
    code = subprocess.run(command, env=environment).returncode
    if code:
        print("[setup] error: uv failed; the reason stands above. Mend it and repeat")
    return code


if __name__ == "__main__":
    sys.exit(main())
