"""DINO's projection to prototypes, and its loss between two distributions over them."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import register

#: Crops that the teacher sees; the student sees these and others.
LARGE_CROPS = 2


@register("model")
class DINOProjector(BaseModule):
    """MLP, L2 normalisation, and the similarity to K unit vectors, the prototypes.

    The authors' last layer has a weight norm with a gain that is fixed to 1. Here it is
    written out: a plain parameter can be copied, compiled and sharded.

    Args:
        in_channels: D, channels of the features.
        hidden_channels: Width of the two hidden layers.
        bottleneck_channels: Width before the prototypes.
        out_channels: K, number of prototypes.
        learn_gain: Learn a factor for each prototype, which starts at 1. The authors
            do so for ViT-S.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
        out_channels: int = 65536,
        learn_gain: bool = False,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, bottleneck_channels),
        )
        self.prototypes = nn.Parameter(torch.empty(out_channels, bottleneck_channels))
        self.gain = nn.Parameter(torch.ones(out_channels)) if learn_gain else None
        self.init_weights()

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """What does not learn in the first epoch."""
        return [self.prototypes] if self.gain is None else [self.prototypes, self.gain]

    def init_weights(self) -> None:
        """As the authors: truncated normal; the prototypes as a linear layer."""
        super().init_weights()
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Similarities (B, K) of features (B, D); in [-1, 1] without a gain."""
        directions = F.normalize(self.prototypes, dim=-1)
        similarities = F.linear(F.normalize(self.mlp(x), dim=-1), directions)
        return similarities if self.gain is None else similarities * self.gain


@register("model")
class DINOHead(BaseModule):
    """Cross-entropy between what teacher and student say of different crops.

    Eq. 2 and 3, and the centre of Eq. 4. The teacher is centred, against one prototype
    that wins all, and sharpened, against all winning alike.

    Args:
        out_channels: K, number of prototypes.
        student_temperature: Divides the student's similarities.
        teacher_temperature: Divides the teacher's, after the warm-up. Above 0.07 the
            authors found it unstable.
        warmup_teacher_temperature: The teacher's in the first epoch.
        warmup_epochs: Epochs in which it rises, linearly.
        center_momentum: Share of the old centre that a step keeps.

    Attributes:
        center: (K,) float32, moving average of the teacher's similarities; as the
            teacher, :class:`DINOHook` moves it, after a step of the optimiser.
        temperature: () float32, the teacher's, which the hook sets by epoch.
    """

    center: Tensor
    temperature: Tensor

    def __init__(
        self,
        out_channels: int = 65536,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        warmup_teacher_temperature: float = 0.04,
        warmup_epochs: int = 30,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        temperatures = dict(
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            warmup_teacher_temperature=warmup_teacher_temperature,
        )
        for name, value in temperatures.items():
            if not value > 0:
                raise ValueError(f"{name}={value} must be greater than 0.")
        self.student_temperature = student_temperature
        self.teacher_temperature = teacher_temperature
        self.warmup_teacher_temperature = warmup_teacher_temperature
        self.warmup_epochs = warmup_epochs
        self.center_momentum = center_momentum
        self.register_buffer("temperature", torch.tensor(self.temperature_in(0)))
        self.register_buffer("center", torch.zeros(out_channels))
        # No buffer: a resumed run repeats the iterations of an unfinished step.
        self._means: list[Tensor] = []

    def temperature_in(self, epoch: int) -> float:
        """The teacher's temperature in an epoch, counted from 0."""
        first, last = self.warmup_teacher_temperature, self.teacher_temperature
        if epoch >= self.warmup_epochs:
            return last
        return first + (last - first) * epoch / max(1, self.warmup_epochs - 1)

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over all pairs of a teacher's crop and another crop of the student's.

        Args:
            student: Similarities (V, B, K).
            teacher: Similarities (2, B, K) of the first two of the crops.

        Returns:
            A float32 scalar.
        """
        student, teacher = student.float(), teacher.float()
        target = ((teacher - self.center) / self.temperature).softmax(-1)
        prediction = (student / self.student_temperature).log_softmax(-1)
        with torch.autocast(student.device.type, enabled=False):
            pairs = -torch.einsum("tbk,vbk->tv", target, prediction) / teacher.shape[1]
        same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
        if self.training:
            self._means.append(teacher.detach().flatten(0, 1).mean(0))
        return pairs.masked_fill(same, 0).sum() / (same.numel() - LARGE_CROPS)

    @torch.no_grad()
    def move_center(self, skipped: Tensor | None = None) -> None:
        """Moves the centre by what the teacher said since the last step.

        ``skipped`` (), is not 0 where that step was not made, and nothing moves.
        """
        mean = torch.stack(self._means).mean(0)
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        moved = self.center.lerp(mean, 1 - self.center_momentum)
        if skipped is not None:  # what the teacher said may be no number
            moved = torch.where(skipped.bool(), self.center, moved)
        self.center.copy_(moved)
        self.forget()

    def forget(self) -> None:
        """Leaves the centre where it is, after a step that was not made."""
        self._means = []
