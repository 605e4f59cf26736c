"""Stops a run whose labels mean different things to its parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..registry import register
from ..utils.model_state import unwrap_model

#: Parts of a model whose ``num_classes`` is the dataset's; of the last only if it
#: mixes images, with Mixup and the like.
_HEADS = ("head", "decode_head", "auxiliary_head", "data_preprocessor")


@register("hook")
class CheckClassesHook(Hook):
    """Compares the classes of all datasets of a run, and the heads' number of classes.

    A label is a place in a list. If validation lacks a folder that training has, every
    later label shifts, silently; if the head has fewer classes than the data, CUDA
    reports no more than an assert in a kernel. mmdet has a hook of its own for its
    heads.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks what has been built.

        Raises:
            ValueError: If class lists differ, or in number from a head's.
        """
        datasets = dict(_datasets(runner))
        lists: dict[str, tuple[str, ...]] = {}
        for name, dataset in datasets.items():
            lists |= _class_lists(name, dataset)
        for one, other in combinations(lists, 2):
            _compare(one, lists[one], other, lists[other])
        model = unwrap_model(runner.model)
        for name, dataset in datasets.items():
            _check_heads(model, name, dataset)


def _datasets(runner: Runner) -> Iterator[tuple[str, Any]]:
    for stage in ("train", "val", "test"):
        loop = getattr(runner, f"_{stage}_loop")  # a dict if it is not built
        for key, name in (
            ("bank_dataloader", f"{stage}_cfg.bank_dataloader"),
            ("dataloader", f"{stage}_dataloader"),
        ):
            if hasattr(loop, key):
                yield name, getattr(loop, key).dataset


def _class_lists(name: str, dataset: Any) -> dict[str, tuple[str, ...]]:
    """The names of a dataset's classes, and its class folders, in the labels' order."""
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    if isinstance(classes, str):
        raise ValueError(
            f"{name}: classes={classes!r} is a string, so that each letter is a class; "
            f"a single name needs a comma, classes=({classes!r},)."
        )
    folders = getattr(dataset, "folder_to_idx", ())
    return {f"classes of {name}": tuple(classes), f"folders of {name}": tuple(folders)}


def _compare(
    name: str, ours: tuple[str, ...], other: str, theirs: tuple[str, ...]
) -> None:
    """Refuses two lists that share names but are not equal."""
    if ours == theirs or not set(ours) & set(theirs):
        return
    lacks = [
        f"The {who} lack {sorted(lost)[:8]} ({len(lost)} in all) of the {of}. "
        for who, lost, of in (
            (other, set(ours) - set(theirs), name),
            (name, set(theirs) - set(ours), other),
        )
        if lost
    ]
    raise ValueError(
        f"{''.join(lacks)}The {name} and the {other} must be the same, in the same "
        f"order, as a label is a place in them: {ours[:8]} and {theirs[:8]}. Make an "
        "empty folder for a class without images, and write classes sorted as the "
        "folders are."
    )


def _check_heads(model: nn.Module, name: str, dataset: Any) -> None:
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    highest = -1
    if getattr(dataset, "with_label", False) and dataset.ann_file:  # mmpretrain's
        highest = int(dataset.get_gt_labels().max())
    for part in _HEADS:
        module = getattr(model, part, None)
        number = getattr(module, "num_classes", None)
        if number is None or not getattr(module, "batch_augments", True):
            continue
        if len(classes) not in (0, number) or highest >= number:
            raise ValueError(
                f"{name} has {max(len(classes), highest + 1)} classes, "
                f"{tuple(classes)[:8]}, and {part}.num_classes is {number}; set it and "
                "the dataset's metainfo=dict(classes=...) to what the labels are."
            )
