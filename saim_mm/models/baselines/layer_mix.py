"""A memory that is a learnt mix of the encoder's layers (RandSAC, CrossMAE)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...registry import register
from ..saim_neck import SAIMNeck
from ..saim_vit import Content


class LayerMix(nn.Module):
    """Sums of the encoder's layers with learnt weights, one for each query layer.

    The weights start with variance 1/n for n summands (CrossMAE).

    Args:
        depth: Number of query layers d.
        num_encoder_layers: Number of encoder layers M.
        mix_input: Whether the input of the first one is a summand too.
    """

    def __init__(self, depth: int, num_encoder_layers: int, mix_input: bool) -> None:
        super().__init__()
        self.mix_input = mix_input
        self.weight = nn.Parameter(torch.empty(depth, num_encoder_layers + mix_input))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the weights anew."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, content: Content, tokens: int) -> Iterator[Tensor]:
        """The d sums, (B, S, D) each, of the first S tokens."""
        maps = [content.embeddings, *content.states][not self.mix_input :]
        stacked = torch.stack([each[:, :tokens] for each in maps])
        return (torch.tensordot(weights, stacked, dims=1) for weights in self.weight)


@register("model")
class LayerMixNeck(SAIMNeck):
    """SAIM's decoder, each layer of which reads a learnt mix of all encoder layers.

    Any depth can read it, unless the decoder is tied.

    Args:
        depth: Number of query layers d, at least 1.
        num_encoder_layers: M; inside SAIM it follows from the backbone.
        mix_input: Whether what goes into the first encoder layer is mixed in too.
        **kwargs: As for :class:`SAIMNeck`, but for ``memory``.

    Raises:
        ValueError: As :class:`SAIMNeck`, or if there is no query layer.
    """

    def __init__(
        self,
        depth: int = 12,
        num_encoder_layers: int = 12,
        mix_input: bool = False,
        **kwargs: Any,
    ) -> None:
        memory = kwargs.pop("memory", "mix")
        if depth < 1 or memory != "mix":
            raise ValueError(
                f"{type(self).__name__} depth={depth}, memory={memory!r}: it needs "
                "depth>=1, as without query layers nobody reads the mix, and reads no "
                "other memory; a SAIMNeck does."
            )
        super().__init__(depth, **kwargs)
        self.memory = "mix"
        self.mix = LayerMix(depth, num_encoder_layers, mix_input)

    def init_weights(self) -> None:
        """As :meth:`SAIMNeck.init_weights`."""
        super().init_weights()
        if not self.init_cfg:
            self.mix.reset_parameters()

    def _memories(self, content: Content, tokens: int) -> Iterator[Tensor]:
        return self.mix(content, tokens)
