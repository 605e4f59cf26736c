"""Which parameter learns how fast and decays how much."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..launch import wrapper_without_amp
from ..registry import register

_OPTIONS = {"layer_decay_rate": 1.0, "no_decay": ()}


@register("optim_wrapper_constructor")
class SAIMOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Layer-wise learning rates and selective weight decay, for any task.

    * Parameters with at most one dimension (biases, norms, layer scales) do not decay,
      as in the release.
    * With a layer decay rate r < 1, layer l of L learns with r^(L - l) of the rate:
      the embedding least, heads and all that is no backbone fully. The backbone is
      asked for the layer (``get_layer_depth``), so classifier, detector, segmentor and
      pretraining are alike.

    Without a GPU, mixed precision becomes float32, so that a recipe runs anywhere.

    Parameters of equal rate and decay share one group: an optimiser loops over its
    groups, and one group per parameter, MMEngine's default, makes it slow.

    Options in ``paramwise_cfg``:

    * ``layer_decay_rate``: r, in (0, 1]; default 1.
    * ``no_decay``: names, such as ``['cls_token', 'pos_embed']``; a parameter whose
      name ends with ``.NAME`` (or is it) does not decay either.

    Raises:
        ValueError: If an option is unknown, the rate is out of range, a name of
            ``no_decay`` fits no parameter, all are frozen, or the model cannot tell its
            layers.
    """

    paramwise_cfg: dict[str, Any]

    def _validate_cfg(self) -> None:
        # Where MMEngine's wrapper would not start at all, whoever builds the run.
        no_amp = get_device() in ("cpu", "mps")
        if no_amp and wrapper_without_amp(self.optim_wrapper_cfg):
            print_log("No CUDA: training in float32.", "current", logging.WARNING)
        unknown = set(self.paramwise_cfg) - set(_OPTIONS)
        if unknown:
            raise ValueError(
                f"paramwise_cfg has unknown options {sorted(unknown)}; "
                f"{type(self).__name__} knows {sorted(_OPTIONS)}."
            )
        # MMEngine skips add_params, and with it every rule, if this is left empty.
        self.paramwise_cfg = {**_OPTIONS, **self.paramwise_cfg}
        self.layer_decay_rate = float(self.paramwise_cfg["layer_decay_rate"])
        self.no_decay = tuple(self.paramwise_cfg["no_decay"])
        if not 0 < self.layer_decay_rate <= 1:
            raise ValueError(
                f"layer_decay_rate={self.layer_decay_rate} is out of range; it must be "
                "greater than 0 and at most 1 (1 means no layer decay)."
            )

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, **_: Any
    ) -> None:
        """Appends the parameter groups of a model; MMEngine calls it once.

        Args:
            params: The list to fill. A group has ``params``, ``lr``, ``weight_decay``
                and, to be read by people and tests, ``lr_scale``.
            module: The model.
        """
        named = dict(module.named_parameters())
        # mm's vis_scheduler.py draws the rates of a single convolution.
        one_layer = len(named) <= 2 and not hasattr(module, "backbone")
        for ending in self.no_decay:
            # Of frozen ones too: another run may train them.
            fits = any(f".{name}".endswith(f".{ending}") for name in named)
            if not fits and not one_layer:
                raise ValueError(
                    f"no_decay={ending!r} is the end of no parameter's name; "
                    "drop it or mend the name."
                )
        trainable = {n: p for n, p in named.items() if p.requires_grad}
        if not trainable:
            raise ValueError(
                f"Every parameter of {type(module).__name__} is frozen; lower "
                "frozen_stages."
            )
        decays_by_layer = self.layer_decay_rate < 1 and not one_layer
        backbone = getattr(module, "backbone", None)
        depth = getattr(backbone, "get_layer_depth", None) if decays_by_layer else None
        if decays_by_layer and depth is None:
            raise ValueError(
                f"Layer decay asks the backbone for get_layer_depth, which "
                f"{type(module).__name__} with backbone {type(backbone).__name__} has "
                "not; use SAIMViT (or a backbone that has it) or layer_decay_rate=1."
            )
        endings = tuple(f".{ending}" for ending in self.no_decay)
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, param in trainable.items():
            # Of the number of layers; 0 is the embedding.
            layer, number = depth(name, "backbone.") if depth else (0, 1)
            scale = self.layer_decay_rate ** (number - 1 - layer)
            exempt = param.ndim <= 1 or f".{name}".endswith(endings)
            decay = 0.0 if exempt else self.base_wd or 0.0
            rate = self.base_lr * scale
            group = dict(params=[], lr=rate, weight_decay=decay, lr_scale=scale)
            groups.setdefault((scale, decay), group)["params"].append(param)
        params.extend(groups.values())
        rows = [
            f"  {len(group['params']):4d} tensors: lr {group['lr']:.3e} "
            f"(x {group['lr_scale']:.3g}), weight decay {group['weight_decay']:g}"
            for group in params
        ]
        print_log("\n".join(["Parameter groups:", *rows]), logger="current")
