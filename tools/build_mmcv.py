"""Put mmcv with its compiled ops into the environment of the Python that runs this.

    python tools/build_mmcv.py

uv installs mmcv without them: it builds mmcv in an environment of its own, where
mmcv's setup.py finds no torch and leaves its ops out. Neither uv's cache nor pip's
knows whether a wheel has ops, or for which torch; so those with ops are kept here,
keyed by all that they depend on, for every clone and environment of the user.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MMCV = "onedl-mmcv"


class StepFailed(Exception):
    """A step did not succeed; the message says which and what to do."""


def cache_dir() -> Path:
    """Return the folder that keeps built wheels between clones and environments."""
    own = os.environ.get("SAIM_MM_CACHE")
    if own:
        return Path(own).expanduser().resolve() / "wheels"
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().resolve() / "saim_mm" / "wheels"


def wheel_key(mmcv: str, torch: str, device: str) -> str:
    """Name the cache folder of one build of mmcv.

    Args:
        mmcv: Version of mmcv.
        torch: Version of torch; its build ('+cu130') does not count.
        device: What the ops run on: 'cpu', or 'cu130' and the like.

    Returns:
        A name such as 'onedl_mmcv-2.3.6_torch-2.11.0_cp311_ops_cpu'.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return f"onedl_mmcv-{mmcv}_torch-{torch.split('+')[0]}_{python}_ops_{device}"


def is_installed(key: str) -> bool:
    """Tell whether the mmcv that is here has its ops and comes from folder ``key...``.

    Nothing is imported, so that the answer is there at once.
    """
    try:
        mmcv = importlib.metadata.distribution(MMCV)
    except importlib.metadata.PackageNotFoundError:
        return False
    has_ops = any(file.name.startswith("_ext.") for file in mmcv.files or [])
    return has_ops and f"/{key}" in (mmcv.read_text("direct_url.json") or "")


def installed_version(name: str) -> str:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise StepFailed(f"{name} is not installed. Run: make setup-test") from None


def run_pip(step: str, *arguments: str, **environment: str) -> None:
    """Run pip as one step, its output shown as it comes.

    Raises:
        StepFailed: If pip fails.
    """
    env = {**os.environ, **environment}
    # ninja is looked up on PATH, and a venv need not be activated to be used.
    env["PATH"] = sysconfig.get_path("scripts") + os.pathsep + env.get("PATH", "")
    command = [sys.executable, "-m", "pip", *arguments, "--no-input"]
    command.append("--disable-pip-version-check")
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    if code:
        raise StepFailed(
            f"{step} failed (exit code {code}); the reason is in the lines above. "
            "Mend it and repeat the command."
        )
    importlib.invalidate_caches()  # pip changed what this process may have read


def choose_device(torch_cuda: str) -> str:
    """Choose what mmcv's ops are compiled for.

    Args:
        torch_cuda: The CUDA version of torch ('13.0') where a GPU can be used,
            else ''.

    Returns:
        'cu130' and the like if a matching CUDA compiler is there too, else 'cpu'.
    """
    if not torch_cuda:
        return "cpu"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""
    nvcc = shutil.which("nvcc") or shutil.which(str(Path(home, "bin", "nvcc")))
    if nvcc:
        text = subprocess.run(
            [nvcc, "--version"], capture_output=True, text=True
        ).stdout
        match = re.search(r"release (\d+)\.", text)
        if match and match.group(1) == torch_cuda.split(".")[0]:
            return "cu" + torch_cuda.replace(".", "")
    say(
        f"this machine has a GPU, but no nvcc of CUDA {torch_cuda}: mmcv's ops are "
        "built for the CPU. Training SAIM uses none of them."
    )
    return "cpu"


def find_torch_cuda() -> str:
    """Ask torch for its CUDA version; '' where no GPU can be used."""
    code = "import torch; print(torch.cuda.is_available() and torch.version.cuda or '')"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    if answer.returncode:
        raise StepFailed(f"torch cannot be imported:\n{answer.stderr.strip()}")
    return answer.stdout.strip()


def check_compiler() -> None:
    """Raise StepFailed unless a C++ compiler and Python's headers are there."""
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++"]
    if not any(shutil.which(name) for name in compiler):
        raise StepFailed(
            "mmcv's ops need a C++ compiler, and there is none. Install one "
            "(Debian, Ubuntu: apt-get install g++) and repeat the command."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise StepFailed(
            "mmcv's ops need Python's headers, and there are none. Install them "
            "(Debian, Ubuntu: apt-get install python3-dev) and repeat the command."
        )


def ops_environment(device: str) -> dict[str, str]:
    """Return the variables that steer the compilation of mmcv's ops."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    variables = {
        "MMCV_WITH_OPS": "1",  # older versions of mmcv leave the ops out without it
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(cores)),
    }
    if device == "cpu":
        # mmcv compiles for CUDA whenever torch sees a GPU.
        variables.update(CUDA_VISIBLE_DEVICES="", FORCE_CUDA="0")
    return variables


def build_mmcv(version: str, device: str, folder: Path) -> None:
    """Build mmcv's wheel into ``folder``, which appears only when it is whole."""
    check_compiler()
    environment = ops_environment(device)
    say(
        f"compiling mmcv's ops for {device} with {environment['MAX_JOBS']} jobs: 10 to "
        "16 minutes on two cores, only once"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as tmp:
        built = Path(tmp) / "wheel"
        options = ("--no-deps", "--no-build-isolation", "--no-cache-dir")
        target = (f"--wheel-dir={built}", f"{MMCV}=={version}")
        run_pip("building mmcv", "wheel", *options, *target, **environment)
        try:
            built.rename(folder)
        except OSError:  # another build was quicker; its wheel is as good
            find_wheel(folder)


def find_wheel(folder: Path) -> Path:
    """Return the one wheel in ``folder``."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise StepFailed(
            f"{folder} should hold one wheel and holds {len(wheels)}. "
            "Remove the folder and repeat the command."
        )
    return wheels[0]


def install_mmcv() -> None:
    """Install mmcv with ops, from the cache or by building it into the cache."""
    mmcv, torch = installed_version(MMCV), installed_version("torch")
    if is_installed(wheel_key(mmcv, torch, device="")):
        return
    device = choose_device(find_torch_cuda())
    folder = cache_dir() / wheel_key(mmcv, torch, device)
    if folder.is_dir():
        say(f"mmcv from {folder}")
    else:
        build_mmcv(mmcv, device, folder)
    # The same version with and without ops, so pip has to be told to replace it.
    options = ("-q", "--no-deps", "--force-reinstall")
    run_pip("installing mmcv", "install", *options, str(find_wheel(folder)))
    if not is_installed(folder.name):
        raise StepFailed(
            f"mmcv was built without its ops. Remove {folder}, check that "
            "a C++ compiler and ninja run, and repeat the command."
        )


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"[setup] {message}", flush=True)


def main() -> int:
    """Install mmcv with its ops; return the exit code."""
    try:
        install_mmcv()
    except StepFailed as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
