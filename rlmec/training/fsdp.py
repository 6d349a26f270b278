"""Fully sharded training (FSDP2): every rank holds a part of each weight, gradient and moment.

In: a network and a device mesh. Out: the same network, whose layers gather their weights when they
are computed. The loss and its normalizers are those of any other strategy: gradients are averaged
over the ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn


class FullyShardedStrategy(ModelParallelStrategy):
    """All ranks share the data and the weights; a checkpoint is one file with whole weights, which
    rank 0 gathers on the CPU and writes as any other."""

    def __init__(self) -> None:
        super().__init__(
            data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def setup_environment(self) -> None:
        # left to itself the mesh of one node has no data parallelism
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        # read by parts, so that a name that is missing would not be seen
        whole = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        module: Any = self.lightning_module
        module.check_names(whole["state_dict"])
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(net: nn.Module, network: Any, mesh: Any) -> None:
    """Cuts the layers of `network`, and what else `net` holds around them, over the mesh's ranks.

    Layers are the modules that the library itself never splits. Raises ValueError where it names
    none.
    """
    from torch.distributed.fsdp import fully_shard

    kinds = set(getattr(network, "_no_split_modules", None) or ())
    layers = [m for m in network.modules() if type(m).__name__ in kinds]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} names no layers (_no_split_modules) to cut: use trainer=ddp"
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)


def whole_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a sharded module with whole tensors on the CPU; empty but on rank 0.

    All ranks call it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict[str, Any](get_model_state_dict(module, options=options))


def is_sharded(module: nn.Module) -> bool:
    """Whether weights of the module are parts of larger ones."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in module.parameters())
