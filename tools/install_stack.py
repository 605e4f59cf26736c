"""Install what saim_mm needs into the environment of the Python that runs this.

    python tools/install_stack.py [--ops] [--with speed,demo,test,...]

It is safe to repeat. A stamp in the environment tells what was installed last, so
that a second call with nothing new to do returns at once. Only the standard library
is used, since nothing else is there yet.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
TESTED = REQUIREMENTS / "tested.txt"
EXTRAS = ("speed", "demo", "test", "downstream", "convert", "dev")
MMCV = "onedl-mmcv"

# These declare opencv-python (imaug: beside opencv-python-headless, over which it
# would be unpacked), whose cv2 does not load on a machine without libGL. The other
# things that they declare are named in the requirements files.
WITHOUT_DEPENDENCIES = ("onedl-mmdetection", "onedl-mmsegmentation", "imaug")


class StepFailed(Exception):
    """A step did not succeed; the message says which and what to do."""


@dataclass(frozen=True)
class Stamp:
    """What an environment holds.

    Attributes:
        inputs: Hash of all that decides which versions are installed, and where.
        ops: Whether mmcv has its compiled ops.
        extras: Extra requirement files that are installed, sorted.
    """

    inputs: str
    ops: bool
    extras: tuple[str, ...]

    def covers(self, wanted: "Stamp") -> bool:
        """Tell whether nothing is left to do for ``wanted``."""
        return (
            self.inputs == wanted.inputs
            and self.ops >= wanted.ops
            and set(self.extras) >= set(wanted.extras)
        )

    def joined(self, wanted: "Stamp") -> "Stamp":
        """Return ``wanted`` with what is here already, which stays installed."""
        extras = tuple(sorted({*self.extras, *wanted.extras}))
        return Stamp(wanted.inputs, self.ops or wanted.ops, extras)

    def write(self, path: Path) -> None:
        """Write the stamp as JSON."""
        record = {"inputs": self.inputs, "ops": self.ops, "extras": self.extras}
        path.write_text(json.dumps(record) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Stamp":
        """Read a stamp; a missing or broken file says that nothing is installed."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            extras = tuple(sorted(str(extra) for extra in record["extras"]))
            return cls(str(record["inputs"]), bool(record["ops"]), extras)
        except (OSError, ValueError, KeyError, TypeError):
            return cls("", False, ())


def hash_inputs(root: Path = ROOT) -> str:
    """Hash what decides the outcome: requirements, packaging, Python, location.

    The location counts because the editable install points at it.
    """
    files = [
        *sorted((root / "requirements").glob("*.txt")),
        root / "setup.py",
        root / "saim_mm" / "version.py",
        root / "tools" / "install_stack.py",
    ]
    digest = hashlib.sha256(f"{sys.version}\n{root}\n".encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def read_names(file: Path) -> list[str]:
    """Read the distribution names that a requirements file lists."""
    lines = file.read_text(encoding="utf-8").splitlines()
    stripped = (line.split("#")[0].strip() for line in lines)
    return [re.split(r"[=<>!~;\[ ]", line)[0] for line in stripped if line]


def read_pins(file: Path = TESTED) -> dict[str, str]:
    """Read the tested version of each distribution."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pins = (line.split("#")[0].strip().split("==") for line in lines)
    return {pin[0]: pin[1] for pin in pins if len(pin) == 2}


def select_names(extras: tuple[str, ...]) -> list[str]:
    """List what to install for ``extras``, each name once, runtime first."""
    names = [
        name
        for group in ("build", "runtime", *extras)
        for name in read_names(REQUIREMENTS / f"{group}.txt")
    ]
    return list(dict.fromkeys(names))


def cache_dir() -> Path:
    """Return the folder that keeps built wheels between clones and environments."""
    own = os.environ.get("SAIM_MM_CACHE")
    if own:
        return Path(own).expanduser().resolve() / "wheels"
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().resolve() / "saim_mm" / "wheels"


def wheel_key(mmcv: str, torch: str, ops: bool, device: str) -> str:
    """Name the cache folder of one build of mmcv.

    Args:
        mmcv: Version of mmcv.
        torch: Version of torch; its build ('+cu130') does not count.
        ops: Whether the compiled ops are in it.
        device: What the ops run on: 'cpu', or 'cu130' and the like.

    Returns:
        A name such as 'onedl_mmcv-2.3.6_torch-2.11.0_cp311_ops_cpu'.
    """
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    kind = "ops" if ops else "lite"
    torch = torch.split("+")[0]
    return f"onedl_mmcv-{mmcv}_torch-{torch}_{python}_{kind}_{device}"


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet_names(names: list[str], pins: dict[str, str]) -> list[str]:
    """List those of ``names`` that are not installed in their tested version."""

    def is_met(name: str) -> bool:
        version = installed_version(name)
        if version is None:
            return False
        # torch from another index is '2.11.0+cpu', which the pin admits.
        return version.split("+")[0] == pins.get(name, version).split("+")[0]

    return [name for name in names if not is_met(name)]


def has_ops() -> bool:
    """Tell whether the installed mmcv has its compiled ops, without importing it."""
    try:
        files = importlib.metadata.files(MMCV) or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any(file.name.startswith("_ext.") for file in files)


def run(step: str, *command: str, **environment: str) -> None:
    """Run one step, its output shown as it comes.

    Raises:
        StepFailed: If the command fails.
    """
    env = {**os.environ, **environment}
    # ninja is looked up on PATH, and a venv need not be activated to be used.
    scripts = sysconfig.get_path("scripts")
    env["PATH"] = scripts + os.pathsep + env.get("PATH", "")
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    if code:
        raise StepFailed(
            f"{step} failed (exit code {code}); the reason is in the lines above. "
            "Mend it and repeat the command: what is done is not done again."
        )


def pip(step: str, *arguments: str, **environment: str) -> None:
    """Run pip as one step, with the tested versions as constraints."""
    options = ["--disable-pip-version-check", "--no-input"]
    if not sys.stdout.isatty():
        options.append("--progress-bar=off")
    verb, *rest = arguments
    command = [sys.executable, "-m", "pip", verb, *options, *rest]
    run(step, *command, **environment)
    importlib.invalidate_caches()  # pip changed what this process may have read


def install_names(names: list[str]) -> None:
    """Install ``names``, mmcv apart, which needs torch to be there first."""
    build = read_names(REQUIREMENTS / "build.txt")
    alone = [name for name in names if name in WITHOUT_DEPENDENCIES]
    usual = [name for name in names if name not in {*alone, *build, MMCV}]
    constraints = ("-c", str(TESTED))
    say("build tools")
    pip("installing the build tools", "install", "-q", *constraints, *build)
    if unmet_names(["torch"], read_pins()):
        say("torch and libraries (a CUDA build of some 3 GB; it runs on a CPU too)")
    else:
        say("libraries")
    source = ("--no-build-isolation", *constraints)
    quiet = () if sys.stdout.isatty() else ("-q",)  # a person wants the progress bar
    pip("installing the libraries", "install", *quiet, *source, *usual)
    if alone:
        step = f"installing {', '.join(alone)}"
        pip(step, "install", "-q", "--no-deps", *source, *alone)


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


def build_mmcv(version: str, ops: bool, device: str, folder: Path) -> None:
    """Build mmcv's wheel into ``folder``, which appears only when it is whole."""
    if ops:
        check_compiler()
        options = ["--no-build-isolation"]
        environment = ops_environment(device)
        jobs = environment["MAX_JOBS"]
        say(
            f"compiling mmcv's ops for {device} with {jobs} jobs: 10 to 16 minutes on "
            "two cores, only once"
        )
    else:
        # mmcv's setup.py leaves its ops out where it cannot import torch, as in the
        # environment of its own that pip builds it in unless told otherwise.
        options = []
        constraints = str(TESTED.relative_to(ROOT))  # pip splits the list at spaces
        names = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")  # before and since pip 25.3
        environment = dict.fromkeys(names, constraints)
        say("building mmcv without its ops: a few seconds, only once")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as tmp:
        built = Path(tmp) / "wheel"
        pip(
            "building mmcv",
            "wheel",
            "--no-deps",
            *options,
            # pip's cache does not tell a wheel with ops from one without.
            "--no-cache-dir",
            f"--wheel-dir={built}",
            f"{MMCV}=={version}",
            **environment,
        )
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


def install_mmcv(ops: bool) -> None:
    """Install mmcv from the cache, building its wheel first if it is not there."""
    pins = read_pins()
    if not unmet_names([MMCV], pins) and has_ops() >= ops:
        return
    torch = installed_version("torch") or pins["torch"]
    device = choose_device(find_torch_cuda()) if ops else "cpu"
    folder = cache_dir() / wheel_key(pins[MMCV], torch, ops, device)
    if folder.is_dir():
        say(f"mmcv from {folder}")
    else:
        build_mmcv(pins[MMCV], ops, device, folder)
    wheel = str(find_wheel(folder))
    # Same version with and without ops, so pip has to be told to replace it.
    options = ("-q", "--no-deps", "--force-reinstall")
    pip("installing mmcv", "install", *options, wheel)
    if ops and not has_ops():
        raise StepFailed(
            f"mmcv was built without its ops. Remove {folder}, check that "
            "a C++ compiler and ninja run, and repeat the command."
        )


def install(wanted: Stamp) -> None:
    """Bring the environment to ``wanted``."""
    install_names(select_names(wanted.extras))
    install_mmcv(wanted.ops)
    say("saim_mm itself, editable")
    pip(
        "installing saim_mm",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        f"--editable={ROOT}",
    )


def is_up_to_date(stamp: Stamp, wanted: Stamp) -> bool:
    """Tell whether the stamp covers ``wanted`` and still describes what is there."""
    return (
        stamp.covers(wanted)
        and not unmet_names([*select_names(wanted.extras), "saim_mm"], read_pins())
        and has_ops() >= wanted.ops
    )


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"[setup] {message}", flush=True)


def parse_extras(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of extras."""
    extras = tuple(sorted({part.strip() for part in text.split(",") if part.strip()}))
    unknown = [extra for extra in extras if extra not in EXTRAS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}; choose from {', '.join(EXTRAS)}"
        )
    return extras


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ops", action="store_true", help="mmcv with compiled ops")
    parser.add_argument(
        "--with",
        dest="extras",
        type=parse_extras,
        default=(),
        metavar="A,B",
        help=f"extras to install: {', '.join(EXTRAS)}",
    )
    return parser.parse_args()


def main() -> int:
    """Install what is missing; return the exit code."""
    args = parse_args()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        say(f"error: Python 3.10 to 3.12 is needed; this is {sys.version.split()[0]}")
        return 1
    path = Path(sys.prefix) / "saim_mm_stack.json"
    stamp = Stamp.read(path)
    wanted = stamp.joined(Stamp(hash_inputs(), args.ops, args.extras))
    if is_up_to_date(stamp, wanted):
        say("up to date")
        return 0
    try:
        install(wanted)
    except StepFailed as error:
        say(f"error: {error}")
        return 1
    wanted.write(path)
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
