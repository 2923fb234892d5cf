"""Low-rank adapters on every linear layer (LoRA; Hu et al. 2021), through PEFT, drawn as the book's appendix E does."""

import math

import torch
from torch import nn

from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .sharding import is_sharded, whole

ADAPTER = "default"  # the name that PEFT gives to the only one


def add_adapters(model: SpamGPTForSequenceClassification, r: int, alpha: int) -> None:
    """Puts adapters on all linear layers of a model; they, and the head itself, are then all that is trained.

    A layer gives `W x + b + alpha / r * B A x`, with A (r, in) and B (out, r). B is zero at first. A is drawn from the
    global generator, one layer after another, and about `sqrt(in / r)` times as wide as PEFT draws it: the book has A
    transposed, and the bound follows from the other dimension. AdamW's steps do not depend on the size of a gradient,
    so that wider A is faster learning.

    Raises:
        ValueError: `peft` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora_r needs peft, which is not installed: pip install hf-spam[lora]") from error
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    drawn = [nn.init.kaiming_uniform_(torch.empty(layer.in_features, r), a=math.sqrt(5)) for layer in layers.values()]
    inject_adapter_in_model(LoraConfig(r=r, lora_alpha=alpha, target_modules=list(layers)), model)
    with torch.no_grad():
        for name, first in zip(layers, drawn, strict=True):
            model.get_submodule(name).lora_A[ADAPTER].weight.copy_(first.T)
    model.out_head.base_layer.requires_grad_(True)


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has adapters that are not merged into it."""
    return any(hasattr(layer, "lora_A") for layer in model.modules())


@torch.no_grad()
def merged(model: SpamGPTForSequenceClassification, *, keep: bool = True) -> SpamGPTForSequenceClassification:
    """A model as any other, whole, the adapters added to its weights; the very model where it is one.

    What has no adapter is shared by both. They give the same logits but for rounding. All processes have to call it;
    one that does not `keep` what is whole, of a model in shards, gets that model back.
    """
    if not has_adapters(model) and not is_sharded(model):
        return model
    state = {
        name.replace(".base_layer.", "."): tensor for name, tensor in model.state_dict().items() if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            state[f"{name}.weight"] = state[f"{name}.weight"] + layer.get_delta_weight(ADAPTER)
    state = whole(state, keep=keep)
    if not keep:
        return model
    with torch.device("meta"):
        plain = SpamGPTForSequenceClassification(model.config)
    plain.load_state_dict(state, assign=True)
    return plain.eval()
