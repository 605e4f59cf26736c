"""Models of which every process keeps a part (FSDP), and their whole checkpoints."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from ..models.layers import transformer_layers
from ..registry import register

try:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # torch before 2.6
    fully_shard = None  # type: ignore[assignment]


@register("model_wrapper")
class FullyShardedModel(nn.Module):
    """A model for ``model_wrapper_cfg`` whose processes keep a part of it each.

    PyTorch's ``fully_shard`` makes each parameter a ``DTensor``, of which a process has
    some of the rows. The whole weights of one transformer layer at a time are brought
    together for its forward pass, and again for its backward pass. Weights, gradients
    and the state of AdamW, 16 bytes a parameter, take 1/P of that on each of P
    processes, at the price of 1.5 times the traffic of data parallelism. Losses and
    weights are those of data parallelism but for rounding.

    It is whole until :class:`ShardingHook` calls :meth:`shard` when training begins,
    because MMEngine wraps a model before it initialises or loads its weights.

    Args:
        module: The model.

    Raises:
        ValueError: If torch is older than 2.6.
    """

    def __init__(self, module: BaseModel) -> None:
        super().__init__()
        if fully_shard is None:
            raise ValueError(
                f"FullyShardedModel needs torch 2.6, and this is {torch.__version__}; "
                "install a later one, or leave out model_wrapper_cfg for data "
                "parallelism."
            )
        self.module: BaseModel = module
        self._is_sharded = False

    def shard(self, optimizer: Optimizer) -> None:
        """Leaves this process its part of the weights and the optimiser's state."""
        kind = torch.device(get_device()).type
        mesh = init_device_mesh(kind, (dist.get_world_size(),))
        whole = dict(self.module.named_parameters())
        for part in (*transformer_layers(self.module), self.module):
            fully_shard(part, mesh=mesh)
        sharded = {id(whole[n]): p for n, p in self.module.named_parameters()}
        for group in optimizer.param_groups:
            for i, parameter in enumerate(group["params"]):
                part = sharded[id(parameter)]
                group["params"][i] = part
                state = optimizer.state.pop(parameter, {})
                if state:
                    optimizer.state[part] = _parts_like(part, state)
        self._is_sharded = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """That of the model."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """That of the model; its call of itself brings the weights together.

        Raises:
            ValueError: If the model is still whole: every process would train its own.
        """
        if not self._is_sharded:
            raise ValueError(
                "FullyShardedModel is trained before it was sharded; add "
                "default_hooks=dict(sharding=dict(type='ShardingHook'))."
            )
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> Any:
        """That of the model."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> Any:
        """That of the model."""
        return self.module.test_step(data)


def is_sharded(value: Any) -> bool:
    """Whether it is a tensor of which this process has a part only."""
    return fully_shard is not None and isinstance(value, DTensor)


def own_part(tensor: Any) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole_state(state: Any) -> Any:
    """Brings a nested state dict together; all processes must call it.

    Returns:
        The same with whole tensors on the CPU instead of sharded ones; on processes
        other than the first, with ``None`` instead.
    """
    if is_sharded(state):
        tensor = state.full_tensor()
        return tensor.cpu() if is_main_process() else None
    if isinstance(state, Mapping):
        whole = {name: whole_state(value) for name, value in state.items()}
        if hasattr(state, "_metadata"):  # what modules say of themselves
            whole = OrderedDict(whole)
            whole._metadata = state._metadata  # type: ignore[attr-defined]
        return whole
    if isinstance(state, list):
        return [whole_state(value) for value in state]
    return state


def load_whole(
    checkpoint: dict[str, Any], model: nn.Module, optim_wrapper: OptimWrapper
) -> None:
    """Takes weights and the optimiser's state from a checkpoint of the same run.

    All processes must call it if the model, which has no wrapper here, is sharded.
    """
    # Not by load_state_dict: what models do to weights of others knows no parts.
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(_part_like(tensor, checkpoint["state_dict"][name]))
    state = checkpoint["optimizer"]["state"]
    groups = optim_wrapper.optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if index in state:
            state[index] = _parts_like(parameter, state[index])
    # Rates and the like are what the schedules have come to since.
    own = optim_wrapper.state_dict()
    own = {k: own[k] for k in ("param_groups", "base_param_settings") if k in own}
    optim_wrapper.load_state_dict({**checkpoint["optimizer"], **own})


def _parts_like(parameter: Tensor, state: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter's state, of whose tensors this process keeps its parts."""
    return {name: _part_like(parameter, value) for name, value in state.items()}


def _part_like(parameter: Any, value: Any) -> Any:
    """The part of a whole tensor that this process has of a parameter of its shape."""
    if not is_sharded(parameter) or getattr(value, "shape", None) != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
