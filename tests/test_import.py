"""``import saim_mm`` registers modules and configs and changes nothing else."""

from __future__ import annotations

import subprocess
import sys

#: Run in a process of its own, as other tests switch safe loading on.
COMPARE = """
import mmpretrain, torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope
from mmpretrain.apis.model import ModelHub
from mmengine.runner import CheckpointLoader, checkpoint

def seen():
    schemes = dict(CheckpointLoader._schemes)
    allowed = getattr(checkpoint, "get_torch_safe_globals", None)
    torch_allows = getattr(torch.serialization, "get_safe_globals", list)()
    # Torch adds its own when its compiler is imported.
    foreign = [x for x in torch_allows if not x.__module__.startswith("torch.")]
    scope = DefaultScope.get_current_instance()
    others = {k: v for k, v in MODULE2PACKAGE.items() if k != "saim_mm"}
    hub = dict(ModelHub._models_dict), others
    return schemes, allowed, foreign, torch.load, scope, hub

before = seen()
import saim_mm
assert MODULE2PACKAGE["saim_mm"] == "saim_mm"
assert seen() == before, "importing saim_mm changed MMEngine"
saim_mm.weights.install_safe_loader()
assert seen()[0] != before[0], "what is compared would not change at all"
saim_mm.weights.uninstall_safe_loader()
assert seen() == before, "uninstalling gave not all back"
"""


def test_loaders_are_as_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


NAMES = """
import sys
import saim_mm
assert "saim_mm.api" not in sys.modules, "importing saim_mm imports what few need"
names = dir(saim_mm)
assert "saim_mm.api" not in sys.modules
from saim_mm import api
assert set(api.__all__) <= set(names)
for name in api.__all__:
    assert getattr(saim_mm, name) is getattr(api, name)
public = {name for name in vars(api) if name[0] != "_"}
assert public == set(api.__all__), public ^ set(api.__all__)
from saim_mm import load_encoder
try:
    saim_mm.load_decoder
except AttributeError as error:
    assert "has no attribute 'load_decoder'" in str(error)
else:
    raise AssertionError("any name is there")
"""


def test_nothing_is_printed() -> None:
    """What a command prints is for others to read."""
    done = subprocess.run(
        [sys.executable, "-c", "import saim_mm.api"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_function_of_api_is_there_when_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", NAMES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
