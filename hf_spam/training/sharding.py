"""Weights in shards, one on each process: FSDP 2, as Accelerate sets it up. DeepSpeed's ZeRO has a module of its own.

What is written is whole, and of the same format as that of any other run.
"""

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch.distributed.tensor import DTensor, distribute_tensor

from .recipes import Recipe
from .zero import zero_asked_for

# Accelerate's checkpointing computes activations again with another dropout; offloading needs a GPU to be tried on.
REFUSED = {
    "activation checkpointing": "fsdp_activation_checkpointing",
    "offloading to the CPU": "fsdp_offload_params",
}


def sharding_asked_for(recipe: Recipe) -> dict[str, FullyShardedDataParallelPlugin | DeepSpeedPlugin]:
    """How the environment, which `accelerate launch` sets, wants a run to be sharded: an argument of `Accelerator`'s.

    Raises:
        ValueError: it wants something with which a run would not be the one that it is without.
    """
    fsdp = parse_flag_from_env("ACCELERATE_USE_FSDP")
    megatron = parse_flag_from_env("ACCELERATE_USE_MEGATRON_LM")  # which has loops and checkpoints of its own
    if megatron or (fsdp and os.environ.get("FSDP_VERSION", "1") != "2"):
        other = "Megatron-LM" if megatron else "FSDP 1"
        raise ValueError(f"{other} is not supported: shard with FSDP 2 (--use_fsdp --fsdp_version 2).")
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        return {"deepspeed_plugin": zero_asked_for(recipe)}
    if not fsdp:
        return {}
    for what, flag in REFUSED.items():
        if parse_flag_from_env(flag.upper()):
            raise ValueError(f"FSDP's {what} is not supported: launch without --{flag}.")
    if os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":  # it would wrap the list of the blocks
        raise ValueError("FSDP's SIZE_BASED_WRAP is not supported: each block is wrapped by itself.")
    if recipe.mixed_precision == "fp16":
        raise ValueError("mixed_precision fp16 is not supported with FSDP; bf16 is.")
    if recipe.adversarial_epsilon:  # who looks for its direction has gone back through the network, which shards it
        raise ValueError("adversarial_epsilon is not supported with FSDP: set it to 0.")
    # Every process loads the weights, since it computes the frozen blocks with them before they are sharded.
    # Each block is a unit. Without units, which is Accelerate's default, a process would gather all weights at once.
    wrapping = "transformer_based_wrap"
    return {"fsdp_plugin": FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False, auto_wrap_policy=wrapping)}


def is_set_up(accelerator: Accelerator) -> bool:
    """Whether Accelerate shards as it was asked to, which it leaves without a word where there is no GPU."""
    kinds = (DistributedType.FSDP, DistributedType.DEEPSPEED)
    return accelerator.distributed_type in kinds and accelerator.state.backend is not None


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether FSDP or DeepSpeed still has hold of some weights, of which this process may have but a part."""
    parts = any(isinstance(tensor, DTensor) for tensor in model.state_dict().values())
    return parts or any(hasattr(parameter, "_hp_mapping") for parameter in model.parameters())


def whole(tensors: Mapping[str, torch.Tensor], *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Tensors that are whole, on the CPU if any was in shards. All processes have to call it.

    Args:
        tensors: the tensors, in shards or not.
        keep: whether this process wants them. Else it gets none, and holds only one at a time.
    """
    sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if keep:
            found[name] = tensor.cpu() if sharded else tensor
    return found


def shard_like(tensor: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
    """A whole tensor, which every process has, in shards as another one is; as it is, where that is whole."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
