"""Fully sharded training (FSDP2): each rank holds a part of every weight, gradient and moment.

In: a network and a device mesh. Out: the same network, whose layers gather their weights only while
they are computed. Losses and their normalizers are those of any other strategy: gradients are
averaged over the ranks. For a validation all weights are gathered at once (`with_whole_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn


class FullyShardedStrategy(ModelParallelStrategy):
    """All ranks share the data and the weights.

    A checkpoint is one file of whole weights, which rank 0 gathers on the CPU and writes like that
    of any other strategy.
    """

    def __init__(self) -> None:
        super().__init__(
            data_parallel_size=1, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    def setup_environment(self) -> None:
        # Lightning's own default gives a single node a mesh without data parallelism.
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        # Lightning reads the weights by parts and would not notice a name that is missing.
        whole = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
        module: Any = self.lightning_module
        module.check_names(whole["state_dict"])
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def shard(net: Any, network: Any, mesh: Any) -> None:
    """Shards the layers of `network`, and what `net` holds around them, over the ranks of a mesh.

    Layers are the modules that transformers never splits over devices. Raises ValueError if the
    network names none.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    layer_types = set(getattr(network, "_no_split_modules", None) or ())
    layers = [m for m in network.modules() if type(m).__name__ in layer_types]
    if not layers:
        raise ValueError(
            f"{type(network).__name__} names no layers (_no_split_modules) to shard: use "
            f"trainer=ddp"
        )
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)

    # To FSDP2 a forward pass of `net`, within which `with_whole_weights` may run anything.
    net.as_forward = _call
    register_fsdp_forward_method(net, "as_forward")


def _call(work: Callable[[], None]) -> None:
    work()


def with_whole_weights(net: Any, work: Callable[[], None]) -> None:
    """Runs `work` while each rank holds all weights of a network that `shard` has sharded.

    Ranks may compute different numbers of batches in it. All of them must call this together.
    """
    from torch.distributed.fsdp import FSDPModule

    parts = [m for m in net.modules() if isinstance(m, FSDPModule) and m is not net]

    def gathered() -> None:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        work()

    try:
        net.as_forward(gathered)
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
        net.reshard()


def whole_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a sharded module with whole tensors on the CPU; empty except on rank 0.

    All ranks must call it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict[str, Any](get_model_state_dict(module, options=options))


def is_sharded(module: nn.Module) -> bool:
    """Whether any weight of the module is a rank's part of a larger one."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) for p in module.parameters())
