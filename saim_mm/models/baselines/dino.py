"""DINO: a student learns to say of every crop what its own average says of large ones.

Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".

Symbols: B images, V crops of each, the first two of them large, D channels, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...registry import register
from .dino_head import LARGE_CROPS


@register("model")
class DINOPretraining(BaseSelfSupervisor):
    """Self-distillation without labels; not mmdet's detector of the same name.

    ``backbone`` and ``neck`` are the teacher's, which is what the authors evaluate and
    release; it gets no gradient. ``student`` holds what is trained.
    :class:`DINOHook` moves the teacher after each step of the optimiser.

    Args:
        backbone: Config of the encoder; it ends with its class token, a vector. Drop
            path is the student's alone.
        neck: Config of the projection, such as :class:`DINOProjector`.
        head: Config of the loss, such as :class:`DINOHead`.
        data_preprocessor: By default mmpretrain's ``SelfSupDataPreprocessor``.
        init_cfg: Initialisation config.

    Raises:
        ValueError: If the backbone's output is no vector.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        head: dict[str, Any],
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        out_type = backbone.get("out_type", "cls_token")
        if out_type not in ("cls_token", "avg_featmap"):
            raise ValueError(
                f"DINOPretraining has a backbone with out_type={out_type!r}, and its "
                "projection reads one vector per image; set 'cls_token' (the paper) or "
                "'avg_featmap'."
            )
        super().__init__(
            backbone={**backbone, "drop_path_rate": 0.0},
            neck=neck,
            head=head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        student = {"backbone": MODELS.build(backbone), "neck": MODELS.build(neck)}
        self.student = nn.ModuleDict(student)
        self.backbone.requires_grad_(False)
        self.neck.requires_grad_(False)
        self.teacher_moves = False  # DINOHook sets it

    def init_weights(self) -> None:
        """Starts the student, as the authors' ViT, and the teacher as its copy."""
        super().init_weights()
        encoder = self.student["backbone"]
        if not encoder.init_cfg:
            for module in encoder.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)
        for name, module in self.student.items():
            getattr(self, name).load_state_dict(module.state_dict())

    def loss(
        self, inputs: Sequence[Tensor], data_samples: Any = None
    ) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            inputs: V crops (B, C, H, W), the two large ones first.
            data_samples: Not used.

        Returns:
            ``dict(loss=...)``, a float32 scalar.

        Raises:
            ValueError: If nothing would move the teacher, or there are no two crops.
        """
        if self.training and not self.teacher_moves:
            raise ValueError(
                "Nothing moves the teacher; set custom_hooks=[dict(type='DINOHook')]."
            )
        crops = list(inputs) if isinstance(inputs, (list, tuple)) else []
        if len(crops) < LARGE_CROPS:
            raise ValueError(
                "DINO compares crops of the same image; let the pipeline make at least "
                f"{LARGE_CROPS} of them, the large ones first, by MultiView."
            )
        student = self.student["neck"](_features(self.student["backbone"], crops))
        with torch.no_grad():
            teacher = self.neck(_features(self.backbone, crops[:LARGE_CROPS]))
        return dict(
            loss=self.head.loss(
                student.unflatten(0, (len(crops), -1)),
                teacher.unflatten(0, (LARGE_CROPS, -1)),
            )
        )

    @torch.no_grad()
    def update_teacher(self, momentum: float, skipped: Tensor | None = None) -> None:
        """Moves the teacher, of which a share, ``momentum``, stays.

        ``skipped`` (), is not 0 where the student made no step, and nothing moves.
        """
        share: float | Tensor = 1 - momentum
        if skipped is not None:
            share = share * (skipped == 0)
        for name, student in self.student.items():
            teacher = getattr(self, name).parameters()
            for old, new in zip(teacher, student.parameters(), strict=True):
                old.lerp_(new, share)


def _features(backbone: nn.Module, crops: Sequence[Tensor]) -> Tensor:
    """Features (V * B, D) of all crops; those of one size run together."""
    runs = [torch.cat(list(run)) for _, run in groupby(crops, lambda crop: crop.shape)]
    return torch.cat([backbone(run)[-1] for run in runs])
