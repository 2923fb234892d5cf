"""DeepSpeed's ZeRO 1 and 2, as Accelerate sets them up: gradients (2) and moments in parts, one on each process.

The weights are whole everywhere, so that all else of a run needs to know nothing of it; DeepSpeed's own checkpoints,
which are pickles, are not used.
"""

import os

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DeepSpeedPlugin, is_deepspeed_available
from accelerate.utils.deepspeed import DeepSpeedOptimizerWrapper

from .recipes import Recipe

Moments = dict[int, dict[str, torch.Tensor]]

# What DeepSpeed does itself, by its name there and in a recipe.
SETTINGS = {"gradient_accumulation_steps": "gradient_accumulation_steps", "gradient_clipping": "max_grad_norm"}


def zero_asked_for(recipe: Recipe) -> DeepSpeedPlugin:
    """ZeRO as the environment, which `accelerate launch --use_deepspeed` sets, wants it; all else is the recipe's.

    Raises:
        ValueError: DeepSpeed is not installed, or something is wanted with which a run would not be the one that it is
            without.
    """
    if not is_deepspeed_available():
        raise ValueError("DeepSpeed is not installed: pip install deepspeed, or launch without it.")
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise ValueError("DeepSpeed's own configuration is not supported: launch without --deepspeed_config_file.")
    if recipe.mixed_precision != "no":  # the weights themselves would be of half precision
        raise ValueError(f"mixed_precision {recipe.mixed_precision} is not supported with DeepSpeed; FSDP 2 has bf16.")
    plugin = DeepSpeedPlugin()
    if plugin.zero_stage not in (1, 2):
        raise ValueError(f"ZeRO {plugin.zero_stage} is not supported, 1 and 2 are; FSDP 2 shards the weights as well.")
    if {plugin.offload_optimizer_device, plugin.offload_param_device} != {"none"}:
        raise ValueError("DeepSpeed's offloading is not supported: launch without --offload_*_device.")
    for flag, setting in SETTINGS.items():
        ours, theirs = getattr(recipe, setting), getattr(plugin, flag)
        if theirs not in ("auto", ours or 0.0):
            raise ValueError(f"--{flag} {theirs} is not the recipe's {setting} ({ours}): launch without it.")
        plugin.deepspeed_config[flag] = ours or 0.0  # 0: not clipped, where "auto" would be
    plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.per_device_train_batch_size
    return plugin


def moments(optimizer: AcceleratedOptimizer, *, keep: bool) -> Moments:
    """What an optimizer has of each parameter, by its number, as torch's `state_dict` does; in shards only under FSDP.

    All processes have to call it, of which those that do not `keep` them may get fewer, or none.
    """
    if not isinstance(optimizer, DeepSpeedOptimizerWrapper):
        return optimizer.state_dict()["state"]
    from deepspeed.utils import safe_get_full_optimizer_state

    parameters, part = _trained(optimizer)
    found: Moments = {}
    for key, value in optimizer.optimizer.state[part].items():
        for i, parameter in enumerate(parameters):
            whole = safe_get_full_optimizer_state(parameter, key) if value.ndim else value.clone()
            if keep:
                found.setdefault(i, {})[key] = whole.cpu()
    return found


def load_moments(optimizer: AcceleratedOptimizer, state: Moments) -> None:
    """Has an optimizer go on from moments, after the weights have been loaded.

    Raises:
        ValueError: there are not those of all parameters, after one number of steps, and it is ZeRO that wants them.
    """
    if not isinstance(optimizer, DeepSpeedOptimizerWrapper):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return
    from deepspeed.utils import safe_set_full_optimizer_state

    zero, (parameters, part) = optimizer.optimizer, _trained(optimizer)
    if len(state) < len(parameters) or len({float(values["step"]) for values in state.values()}) > 1:
        raise ValueError("DeepSpeed cannot begin with some parameters later than with others")
    zero.refresh_fp32_params()  # the weights that its step starts from are copies
    zero.state[part] = {
        key: torch.zeros_like(part) if value.ndim else value.to(part.device) for key, value in state[0].items()
    }
    zero._lazy_init_hp_params_optimizer_state()
    for i, parameter in enumerate(parameters):
        for key, value in state[i].items():
            if value.ndim:
                safe_set_full_optimizer_state(parameter, value, key)


def _trained(optimizer: DeepSpeedOptimizerWrapper) -> tuple[list[torch.nn.Parameter], torch.Tensor]:
    """The parameters in the order that they were given in, and this process's part of all, one after the other."""
    zero = optimizer.optimizer
    (parameters,), (part,) = zero.bit16_groups, zero.single_partition_of_fp32_groups
    return parameters, part
