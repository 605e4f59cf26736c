"""Stops a run whose labels mean different things to its parts."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ..registry import register
from ..utils.model_state import unwrap_model

#: Parts of a model whose ``num_classes`` is the dataset's; of the last only if it
#: mixes images, with Mixup and the like.
_PARTS = ("head", "decode_head", "auxiliary_head", "data_preprocessor")


@register("hook")
class CheckClassesHook(Hook):
    """Compares the classes of all datasets of a run, and the heads' number of classes.

    A label is a place in a list. If validation lacks a folder that training has, every
    later label shifts, silently; if the head has fewer classes than the data, CUDA
    reports no more than an assert in a kernel. mmdet has a hook of its own for heads.
    """

    def before_run(self, runner: Runner) -> None:
        """Checks what has been built.

        Raises:
            ValueError: If class lists differ, or in number from a head's.
        """
        datasets = {}
        for stage, loader in product(
            ("train", "val", "test"), ("bank_dataloader", "dataloader")
        ):
            # Of the loops that are built, and are no dicts any more.
            found = getattr(getattr(runner, f"_{stage}_loop"), loader, None)
            if found is not None:
                datasets[f"{stage}'s {loader}"] = found.dataset
        lists: dict[str, tuple[str, ...]] = {}
        for name, dataset in datasets.items():
            lists[f"classes of {name}"] = _classes(name, dataset)
            lists[f"folders of {name}"] = tuple(getattr(dataset, "folder_to_idx", ()))
        for (name, ours), (other, theirs) in combinations(lists.items(), 2):
            if ours != theirs and set(ours) & set(theirs):  # ImageNet's share none
                differing = sorted(set(ours) ^ set(theirs))[:8]
                raise ValueError(
                    f"The {name} are {ours[:8]} and the {other} {theirs[:8]}: they "
                    f"differ in {differing or 'their order'}, so labels would shift. "
                    "Make an empty folder for a class that has no images, and write "
                    "classes in the order of the folders, which is sorted."
                )
        for name, dataset in datasets.items():
            _check_parts(unwrap_model(runner.model), name, dataset)


def _classes(name: str, dataset: Any) -> tuple[str, ...]:
    classes = getattr(dataset, "metainfo", {}).get("classes") or ()
    if isinstance(classes, str):
        raise ValueError(
            f"{name}: classes={classes!r} is a string, so that each letter is a class; "
            f"a single name needs a comma, classes=({classes!r},)."
        )
    return tuple(classes)


def _check_parts(model: nn.Module, name: str, dataset: Any) -> None:
    classes, highest = _classes(name, dataset), -1
    if getattr(dataset, "with_label", False) and dataset.ann_file:  # mmpretrain's
        highest = int(dataset.get_gt_labels().max())
    for part in _PARTS:
        module = getattr(model, part, None)
        number = getattr(module, "num_classes", None)
        if number is None or not getattr(module, "batch_augments", True):
            continue
        if len(classes) not in (0, number) or highest >= number:
            raise ValueError(
                f"{name} has {max(len(classes), highest + 1)} classes, {classes[:8]}, "
                f"and {part}.num_classes is {number}; set it and the dataset's "
                "metainfo=dict(classes=...) to what the labels are."
            )
