"""Convert GPT-2 checkpoints of `transformers` (names and layout of its `modeling_gpt2.py`), in both directions."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config

from ..modeling.modeling_spam_gpt import SpamGPTForSequenceClassification
from .remote_code import save_without_code

# GPT-2 module -> SpamGPT modules (three where GPT-2 joins query, key and value in one tensor).
MODULES = {
    "wte": ["tok_emb"],
    "wpe": ["pos_emb"],
    "ln_1": ["norm1"],
    "attn.c_attn": ["att.W_query", "att.W_key", "att.W_value"],
    "attn.c_proj": ["att.out_proj"],
    "ln_2": ["norm2"],
    "mlp.c_fc": ["ff.layers.0"],
    "mlp.c_proj": ["ff.layers.2"],
    "ln_f": ["final_norm"],
    "score": ["out_head"],
}
# Settings that change the network, with the values that SpamGPT implements.
IMPLEMENTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
IGNORED = r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight"  # buffers of old versions, and the language-model head
SAME_SETTINGS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
SAME_SETTINGS += ("layer_norm_epsilon", "initializer_range")
TOLERANCE = 1e-6  # of the logits, for the head's bias


def convert_settings(config: GPT2Config) -> dict[str, Any]:
    """Return the fields of the `SpamGPTConfig` for a GPT-2; a setting that SpamGPT lacks raises a `ValueError`."""
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    probabilities = {"problem_type": (None, "single_label_classification")} if classifies else {}
    for name, values in (IMPLEMENTED | probabilities).items():
        if (value := getattr(config, name)) not in values:
            raise ValueError(f"{name} is {value!r}, SpamGPT supports {' or '.join(map(repr, values))}")
    if classifies and config.num_labels == 1:
        raise ValueError("it has a single label, and its score is not a probability")

    def token(*candidates: Any) -> int | None:
        """Return the first candidate in the vocabulary; `None` stands for its last id."""
        return next((i for i in candidates if isinstance(i, int) and 0 <= i < config.vocab_size), None)

    settings = {name: getattr(config, name) for name in SAME_SETTINGS} | {
        "bos_token_id": token(config.bos_token_id),
        "eos_token_id": token(config.eos_token_id),
        "pad_token_id": token(config.pad_token_id, config.eos_token_id),
    }
    if classifies:  # GPT-2 reads the last token that is not padding
        settings |= {"pooling": "last_token", "id2label": config.id2label, "label2id": config.label2id}
        settings["threshold"] = getattr(config, "threshold", None)  # written by `write_gpt2`
    return settings


def convert_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of a GPT-2, as views, by their names in `SpamGPTModel`, and those of its head.

    Unknown ones keep their name.
    """
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("transformer.")
        if re.fullmatch(IGNORED, name):
            continue
        names = _our_names(name) if tensor.ndim else []
        parts = _turned(name, tensor).tensor_split(len(names)) if names else [tensor]
        converted.update(zip(names or [name], parts, strict=True))
    if "out_head.weight" in converted:  # GPT-2's head has no bias
        converted["out_head.bias"] = torch.zeros(len(converted["out_head.weight"]))
    return converted


def _our_names(name: str) -> list[str]:
    """Return the names in SpamGPT of what a tensor of a GPT-2 holds; none if it is unknown."""
    block = re.match(r"(?:h\.(\d+)\.)?", name)
    module, _, kind = name[block.end() :].rpartition(".")
    prefix = f"trf_blocks.{block[1]}." if block[1] else ""
    return [f"{prefix}{ours}.{kind}" for ours in MODULES.get(module, ())]


def _turned(name: str, weights: torch.Tensor) -> torch.Tensor:
    """Transpose the weights of GPT-2's `Conv1D`, which stores (in, out), to those of `nn.Linear`, or back."""
    return weights.T if re.search(r"\.(attn|mlp)\.", name) and weights.ndim == 2 else weights


def write_gpt2(model: SpamGPTForSequenceClassification, folder: Path, pad_token_id: int) -> None:
    """Write a classifier as a stock `GPT2ForSequenceClassification`: `config.json` and `model.safetensors`.

    It gives the same probabilities, in any batch padded on the right, to any text of at least one token that does not
    end with the pad token. A threshold is kept in `config.json`, but other programs pick the most likely label. A model
    that GPT-2 cannot compute raises a `ValueError`.
    """
    from transformers import GPT2ForSequenceClassification  # most commands do without it

    config = model.config
    if not config.causal:
        raise ValueError(_refusal("attends to later tokens too (causal is False)"))
    if config.pooling != "last_token" and (config.pooling != "last" or config.padded_length is not None):
        settings = f"pooling is {config.pooling!r}, padded_length {config.padded_length}"
        raise ValueError(_refusal(f"does not read the last token of a message ({settings})"))
    if config.num_labels == 1:
        raise ValueError(_refusal("has a single label, which programs take for a number to predict"))
    same = (*SAME_SETTINGS, "embd_pdrop", "attn_pdrop", "resid_pdrop", "bos_token_id", "eos_token_id")
    settings = {name: getattr(config, name) for name in (*same, "id2label", "label2id")}
    settings["n_positions"] = config.max_tokens  # pads come later and are not attended to, so only the cut matters
    if config.threshold is not None:
        settings["threshold"] = config.threshold
    settings |= {"activation_function": "gelu_new", "pad_token_id": pad_token_id, "tie_word_embeddings": False}
    with torch.device("meta"):
        stock = GPT2ForSequenceClassification(GPT2Config(**settings))
    tensors = {name: tensor.float().cpu() for name, tensor in model.gpt.state_dict().items()}
    tensors["pos_emb.weight"] = tensors["pos_emb.weight"][: config.max_tokens]
    tensors["final_norm.bias"], tensors["out_head.weight"] = _fold_head(model)
    no_bias = torch.zeros(config.n_embd)  # without `qkv_bias`
    state = {}
    for name in stock.state_dict():
        joined = torch.cat([tensors.get(ours, no_bias) for ours in _our_names(name.removeprefix("transformer."))])
        state[name] = _turned(name, joined).contiguous()
    stock.load_state_dict(state, assign=True)  # checks all shapes
    save_without_code(stock, folder)


def _fold_head(model: SpamGPTForSequenceClassification) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a bias of the final norm and a head without bias and temperature, which give the same probabilities.

    The logits are (W (n + c) + b) / T, with n the rest of the final norm and c its bias. Given a δ with W δ = b, they
    are W / T (n + c + δ). Without such a δ, this raises a `ValueError`.
    """
    head, norm = model.out_head, model.gpt.final_norm.bias.detach().double().cpu()
    weight, bias = (p.detach().double().cpu() / model.config.temperature for p in (head.weight, head.bias))
    logits = torch.eye(len(bias), dtype=torch.float64)
    # If the logits cannot be the same, their differences may: a constant added to all changes no probability.
    for equations in (logits, logits - 1 / len(bias)):
        shift = torch.linalg.pinv(equations @ weight) @ (equations @ bias)
        stored = (norm + shift).float()
        error = (equations @ (weight @ (stored.double() - norm) - bias)).abs().max()
        if error <= TOLERANCE * (1 + bias.abs().max()):
            return stored, weight.float()
    raise ValueError(_refusal("has a head whose bias no shift of its input can replace"))


def _refusal(does: str) -> str:
    return f"GPT-2 cannot compute this model, which {does}: use --format onnx."
