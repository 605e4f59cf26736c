"""``saim-mm``: each verb is the function of its name in ``saim_mm.api``."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import tiny_saim

from saim_mm import api
from saim_mm.api.convert import CONVERSIONS
from saim_mm.cli import VERBS, main, make_parser
from saim_mm.utils.command_line import counted, one_line_errors
from saim_mm.version import __version__
from saim_mm.weights import read_state_dict

ROOT = Path(__file__).parents[1]
#: Functions whose result only a program can use.
FOR_PROGRAMS = {"load_encoder"}
#: What argparse needs besides the defaults.
REQUIRED = {
    "report": ["RUN"],
    "convert": ["SRC", "DST"],
    "adapt": ["CONFIG", "--encoder", "FILE"],
    "export": ["ENCODER", "-o", "FILE"],
    "embed": ["ENCODER", "FOLDER", "-o", "FILE"],
    "knn": ["ENCODER", "FOLDER"],
    "probe": ["ENCODER", "FOLDER"],
    "pretrain": ["FOLDER"],
    "finetune": ["ENCODER", "FOLDER"],
}
#: What a verb gives by itself: where it shows how far it is.
OF_THE_VERB = {"progress"}


def test_verbs_are_the_functions() -> None:
    assert {*VERBS, *FOR_PROGRAMS} == set(api.__all__)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_arguments_of_its_function(verb: str) -> None:
    required = REQUIRED.get(verb, [])
    options = vars(make_parser().parse_args([verb, *required]))
    assert options.pop("verb") == verb
    parameters = dict(inspect.signature(getattr(api, verb)).parameters)
    for name in OF_THE_VERB & set(parameters):
        assert parameters.pop(name).default is None
    assert set(options) == set(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            told = options[name]
            assert (str(told) if isinstance(told, Path) else told) == parameter.default


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_the_exit_codes(verb: str, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    out = capsys.readouterr().out
    assert "Example:\n" in out and f"  saim-mm {verb} " in out
    assert "exit codes:\n" in out


def test_the_example_is_understood() -> None:
    for verb in VERBS:
        text = sys.modules[f"saim_mm.cli.{verb}"].__doc__ or ""
        for line in text.splitlines():
            if line.startswith("  saim-mm "):
                make_parser().parse_args(line.split()[1:])


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, capsys) -> None:
    assert main(["report", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'none'}: there is no such work dir.\n"
    )
    assert main(["doctor", "--samples", "0"]) == 1
    assert "samples=0" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "one"])


def test_what_the_system_says_begins_with_the_file(tmp_path: Path, capsys) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_text()
    assert one_line_errors(_raising(missing.value))() == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'none'}: No such file or directory\n"
    )
    assert one_line_errors(_raising(FileNotFoundError("a: is not there.")))() == 1
    assert capsys.readouterr().err == "error: a: is not there.\n"


def _raising(error: BaseException) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_is_one_line(verb: str, capsys, monkeypatch) -> None:
    said = [verb, *REQUIRED.get(verb, [])]
    monkeypatch.setattr(sys, "argv", ["bin/saim-mm", *said])
    stopped = _raising(KeyboardInterrupt())
    monkeypatch.setattr(f"saim_mm.cli.{verb}.run", stopped)
    goes_on = verb in ("pretrain", "finetune", "embed")
    assert main(said) == (75 if goes_on else 130)
    err = capsys.readouterr().err
    assert err.startswith("Stopped") and err.count("\n") == 1
    assert err.endswith(f"same again: saim-mm {' '.join(said)}\n") == goes_on


def test_the_version(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


def test_convert_writes_the_encoder(tmp_path: Path, capsys) -> None:
    src, dst = tmp_path / "saim.pth", tmp_path / "encoder.pth"
    model = tiny_saim(image_size=(8, 8))
    torch.save({"state_dict": model.state_dict()}, src)
    assert main(["convert", str(src), str(dst), "--num-heads", "2"]) == 0
    assert f"written: {dst}" in capsys.readouterr().out
    encoder = read_state_dict(dst)
    assert torch.equal(encoder["pos_embed"], model.backbone.pos_embed)


def test_what_convert_does_not_understand(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["convert", "a", "b", "--smoothing", "some"])
    err = capsys.readouterr().err
    assert err.endswith("'some': give TAPS,SIGMA, such as 9,1.0, or none\n")
    src = tmp_path / "saim.pth"
    torch.save({"state_dict": tiny_saim(image_size=(8, 8)).state_dict()}, src)
    before = src.read_bytes()
    assert main(["convert", str(src), str(src), "--num-heads", "2"]) == 1
    assert "would be written over itself" in capsys.readouterr().err
    assert src.read_bytes() == before


@pytest.mark.parametrize(("name", "target"), [("a.pth", "encoder"), ("vit/a", "hf")])
def test_convert_writes_nothing_over(name: str, target: str, tmp_path: Path) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    out = mine.parent if target == "hf" else mine
    source = "encoder" if target == "hf" else "saim"
    with pytest.raises(FileExistsError, match=f"{out}: is there already; remove it"):
        api.convert(tmp_path / "none.pth", out, source, target)
    assert mine.read_text() == "mine"


def test_one_is_no_plural() -> None:
    told = [counted(1, "image"), counted(0, "worker"), counted(1.0, "epoch")]
    assert told == ["1 image", "0 workers", "1 epoch"]
    assert counted(99.9, "epoch") == "99.9 epochs"
    assert counted(1_000_000, "step") == "1000000 steps"


def test_options_are_not_abbreviated(capsys) -> None:
    """The usage that is shown is the verb's."""
    for said in (["pretrain", "photos", "--epoch", "3"], ["--vers"]):
        with pytest.raises(SystemExit, match="2"):
            main(said)
    error = capsys.readouterr().err
    assert "unrecognized arguments: --epoch 3" in error
    assert "usage: saim-mm pretrain" in error


def test_convert_refuses_what_does_not_matter() -> None:
    with pytest.raises(ValueError, match="prefix='a' does not matter from release to"):
        api.convert("a", "b", "release", "saim", prefix="a")
    with pytest.raises(ValueError, match="target='onnx': there are saim to encoder"):
        api.convert("a", "b", target="onnx")
    with pytest.raises(ValueError, match="final_norm=True does not matter"):
        api.convert("a", "b", "hf", "encoder", final_norm=True)


def test_every_conversion_takes_its_files_first() -> None:
    for conversion in CONVERSIONS.values():
        assert list(inspect.signature(conversion).parameters)[:2] == ["src", "dst"]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "code"), [("doctor", 1), ("report", 1)])
def test_it_starts_where_nothing_is_installed(verb: str, code: int) -> None:
    start = [sys.executable, "-S", "-E", "saim_mm_start.py", verb]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    if verb == "doctor":
        assert "saim_mm needs torch>=" in done.stdout
        assert done.stdout.endswith("Something is wrong; see the errors above.\n")
    else:
        assert done.stderr.startswith("error: saim_mm needs torch>=")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("asked", [["--help"], ["--version"], ["pretrain", "-h"]])
def test_help_needs_nothing_that_is_installed(asked: list[str]) -> None:
    """Nor the seconds that the import of torch and mmpretrain takes."""
    start = [sys.executable, "-S", "-E", "saim_mm_start.py", *asked]
    done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith((f"{__version__}\n", "usage: saim-mm"))
