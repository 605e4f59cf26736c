#!/usr/bin/env python
"""Which configs of the installed mmdet, mmseg and mmpretrain take the encoder."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from sysconfig import get_path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from saim_mm.api._outputs import outputs_of, short, without_weights
from saim_mm.api._trial import train_one_step
from saim_mm.api.adapt import adapt, config_path
from saim_mm.utils.atomic_file import write_json
from saim_mm.utils.command_line import one_line_errors
from saim_mm.utils.environment import environment

#: Classification is the only task of mmpretrain whose labels can be made up.
_CLASSIFIER = "ImageClassifier"
#: Sides of the images that are tried, in pixels.
_SIDES = dict(
    mmdet=(128, 256, 300, 512), mmseg=(128, 512, 640), mmpretrain=(224, 256, 384)
)
#: ``new`` and ``old``: whether it trains with the encoder, and as it is.
Record = dict[str, str]
Result = dict[str, Any]


def configs_of(package: str) -> Iterator[str]:
    """Configs of an installed package but for mere parents, as ``PACKAGE::PATH``."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"{package} is not installed.")
    root = Path(spec.origin).parent / ".mim" / "configs"
    for path in sorted(root.rglob("*.py")):
        if "_base_" not in path.parts:
            yield f"{package}::{path.relative_to(root)}"


def group_of(config: str, known: dict[str, str]) -> str | None:
    """What decides whether a config takes an encoder, or ``None`` if out of scope.

    Args:
        config: As :func:`configs_of` gives it.
        known: What backbones give, by their settings; it is added to.
    """
    try:
        cfg = Config.fromfile(config_path(config))
    except Exception as error:  # a config is a program
        return f"unreadable: {short(error)}"
    model = cfg.get("model") or {}
    backbone = model.get("backbone")
    if not isinstance(backbone, dict) or "language_model" in model:
        return None  # nested, of several models; or it reads texts, too
    if config.startswith("mmpretrain") and model.get("type") != _CLASSIFIER:
        return None
    settings = json.dumps(without_weights(backbone), default=str, sort_keys=True)
    if settings not in known:
        try:
            with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
                known[settings] = str(outputs_of(backbone, 3))
        except (ValueError, TimeoutError) as error:
            known[settings] = str(error)
    parts = [model.type, backbone.type, known[settings], *_types(model)]
    return " | ".join(map(str, parts))


def _types(part: Any, inside: bool = False) -> Iterator[str]:
    """Types of necks and heads, wherever they stand."""
    if isinstance(part, dict):
        if inside and part.get("type"):
            yield str(part.type)
        for name, value in part.items():
            if str(name) != "backbone":
                yield from _types(value, str(name).endswith(("head", "neck")))
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _types(value, inside)


def try_new(config: str, encoder: str, seconds: float = 120) -> str:
    """Trains a config with the encoder for one step: ``"ok"`` or why not."""

    def run(side: int) -> None:
        adapt(config_path(config), encoder, num_heads=2, image_size=(side, side))

    return _on_some_size(run, config, seconds)


def try_old(config: str, seconds: float = 120) -> str:
    """Trains a config for one step as it is: ``"ok"`` or why not."""
    return _on_some_size(partial(_train_old, config), config, seconds)


def _on_some_size(run: Callable[[int], None], config: str, seconds: float) -> str:
    """On the smallest images that do; a head may pool or choose among many places."""
    outcome = ""
    for side in _SIDES[config.partition("::")[0]]:
        outcome = _outcome(partial(run, side), seconds)
        if outcome == "ok":
            break
    return outcome


def _train_old(config: str, side: int) -> None:
    cfg = Config.fromfile(config_path(config))
    cfg.model = without_weights(cfg.model)
    with DefaultScope.overwrite_default_scope(cfg.get("default_scope")):
        train_one_step(cfg, (side, side), "cpu")


def _outcome(run: Callable[[], Any], seconds: float) -> str:
    late = False

    def stop(*_: Any) -> None:
        nonlocal late
        late = True
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    # Again and again: somebody may catch it, and try something else.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        run()
    except Exception as error:  # whatever foreign classes raise
        return f"not done in {seconds:g} s" if late else short(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()  # the frames of an error keep its model
    return "ok"


def groups_of(package: str, path: Path) -> dict[str, list[str]]:
    """Configs by group, large groups first; kept in a file, as it takes minutes."""
    if path.exists():
        return json.loads(path.read_text())
    known: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for config in configs_of(package):
        group = group_of(config, known)
        if group is not None:
            groups.setdefault(group, []).append(config)
    ordered = dict(sorted(groups.items(), key=lambda item: -len(item[1])))
    write_json(path, ordered, indent=1)
    return ordered


def result_of(groups: dict[str, list[str]], records: dict[str, Record]) -> Result:
    """Counts and share of configs, and each failure with its reason.

    What takes the encoder and was not tried as it is counts as able to.
    """
    sizes = {group: len(groups[group]) for group in records}
    taken = {group for group, record in records.items() if record["new"] == "ok"}
    able = {group for group, record in records.items() if record.get("old") == "ok"}
    assumed = {group for group in taken if "old" not in records[group]}

    def count(chosen: Iterable[str]) -> int:
        return sum(sizes[group] for group in chosen)

    both = count(taken & (able | assumed))
    return dict(
        configs=sum(map(len, groups.values())),
        groups=len(groups),
        tried=count(sizes),
        tried_groups=len(records),
        taken=count(taken),
        able=count(able),
        assumed_able=count(assumed),
        able_and_taken=both,
        percent=round(100 * both / max(count(able | assumed), 1), 1),
        failures=[
            dict(configs=sizes[group], first=groups[group][0], **_portable(record))
            for group, record in records.items()
            if set(record.values()) != {"ok"}
        ],
    )


def _portable(record: Record) -> Record:
    """Without the folder in which packages lie here."""
    here = f"{get_path('purelib')}{os.sep}"
    return {name: why.replace(here, "") for name, why in record.items()}


def summary(result: Result) -> str:
    """A result to be read."""
    lines = [
        "{configs} configs in {groups} groups, {tried} in {tried_groups} tried; "
        "{taken} take the encoder.",
        "{able} train as they are, {assumed_able} were not tried so; of these "
        "{able_and_taken} take the encoder: {percent} %.",
    ]
    lines = [line.format(**result) for line in lines]
    for failure in result["failures"]:
        lines.append(f"{failure['configs']:4d} {failure['first']}")
        lines += [f"       {k}: {failure[k]}" for k in ("new", "old") if k in failure]
    return "\n".join(lines)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Tries a config of each group, resumes where it stopped, prints the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", choices=sorted(_SIDES))
    parser.add_argument("encoder", help="checkpoint of a small encoder with two heads")
    parser.add_argument("folder", type=Path, help="where the results are kept")
    parser.add_argument("--seconds", type=float, default=120, help="limit of a try")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="try without the encoder only what does not take it",
    )
    parser.add_argument("--out", type=Path, help="write the result to this .json file")
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel(logging.ERROR)
    groups = groups_of(args.package, args.folder / f"{args.package}_groups.json")
    path = args.folder / f"{args.package}.json"
    records: dict[str, Record] = json.loads(path.read_text()) if path.exists() else {}

    def note(name: str, group: str, outcome: str) -> None:
        records.setdefault(group, {})[name] = outcome
        write_json(path, records, indent=1)
        print(groups[group][0], name, outcome, flush=True)

    for group, configs in groups.items():
        if "new" not in records.get(group, {}):
            note("new", group, try_new(configs[0], args.encoder, args.seconds))
    for group in groups:
        done = "old" in records[group] or (args.quick and records[group]["new"] == "ok")
        if not done:
            note("old", group, try_old(groups[group][0], args.seconds))
    result = result_of(groups, records)
    print(summary(result))
    if args.out:
        packages = ("torch", "mmengine", "mmcv", args.package)
        write_json(args.out, {**environment(packages), **result}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
