"""Configuration of SpamGPT, and which class it gives a message to.

This file, `modeling_spam_gpt.py` and `pipeline_spam_gpt.py` travel to the Hub: they import nothing else of the package.
"""

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class SpamGPTConfig(PreTrainedConfig):
    """Shape of a GPT (Radford et al. 2019, GPT-2) and the way it reads a message to classify it.

    The network (names and defaults as in `GPT2Config`, the defaults being those of the 124M model):

    - `vocab_size` (50257), `n_positions` (1024), `n_embd` (768), `n_layer` (12), `n_head` (12).
    - `n_inner` (`None`): width of the feed-forward layer, `None` for `4 * n_embd`.
    - `embd_pdrop`, `attn_pdrop`, `resid_pdrop` (0.0): dropout after the embeddings, on the attention weights, and on
      what each block adds. GPT-2 was pretrained with 0.1; the book fine-tunes without.
    - `layer_norm_epsilon` (1e-5), `initializer_range` (0.02).
    - `qkv_bias` (`True`): whether the query, key and value projections have a bias, as GPT-2's do.
    - `bos_token_id`, `eos_token_id`, `pad_token_id`: the last id of the vocabulary by default, as `<|endoftext|>` is
      GPT-2's.

    The reading of a message (the book, chapter 6, and its appendix of variations):

    - `pooling` (`"last"`): the position that is classified: `"last"`, the last one, pads included; `"last_token"`, the
      last real token; `"first"`; or `"mean"`, the average over all positions.
    - `padded_length` (`None`): the length to which every message is padded on the right or cut, its pads attended to
      like any token (120 in the book). `None`: no padding; the pads a batch needs are masked and count for nothing.
    - `causal` (`True`): whether a position sees only itself and those before it.
    - `id2label`, `label2id` (0 "not spam", 1 "spam"): the classes; either of the two gives the other.

    What is said of it (calibration, on messages that the weights were not trained on):

    - `temperature` (1.0): the model divides its logits by it (Guo et al. 2017, *On Calibration of Modern Neural
      Networks*), whoever asks it.
    - `threshold` (`None`): the probability of spam from which on a message is called spam, above 0 and at most 1.
      `None`: it is given the likeliest class. See `decide`, by which all of this package names classes; the library's
      own "text-classification" pipeline knows nothing of it.

    Raises `huggingface_hub.errors.StrictDataclassError` for a type or a shape that cannot be built.
    """

    model_type = "spam_gpt"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "is_causal": "causal",
    }
    _auto_class = "AutoConfig"

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    embd_pdrop: float | int = 0.0
    attn_pdrop: float | int = 0.0
    resid_pdrop: float | int = 0.0
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    qkv_bias: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False  # a classifier has no output embeddings to tie
    pooling: Literal["last", "last_token", "first", "mean"] = "last"
    padded_length: int | None = None
    causal: bool = True
    temperature: float | int = 1.0
    threshold: float | int | None = None
    # Saving a model names only its own class here; all three are wanted, whichever was saved.
    auto_map: dict[str, str] | None = field(
        default_factory=lambda: {
            "AutoConfig": "configuration_spam_gpt.SpamGPTConfig",
            "AutoModel": "modeling_spam_gpt.SpamGPTModel",
            "AutoModelForSequenceClassification": "modeling_spam_gpt.SpamGPTForSequenceClassification",
        }
    )

    def __post_init__(self, **kwargs: Any) -> None:
        if __name__.startswith("hf_spam."):
            # The package has the pipeline itself: the library is not to ask for `trust_remote_code` to fetch another.
            kwargs.pop("custom_pipelines", None)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, self.vocab_size - 1)
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): label for label, index in self.label2id.items()}
        elif self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "not spam", 1: "spam"}
        super().__post_init__(**kwargs)  # numbers the labels where another count of them is all that is known
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def max_tokens(self) -> int:
        """The number of tokens of a message that count: longer messages are cut to their first `max_tokens`."""
        return self.n_positions if self.padded_length is None else self.padded_length

    def laid_out_length(self, tokens: int) -> int:
        """Return the number of positions that the network computes for a message of `tokens` tokens."""
        return min(max(1, tokens), self.n_positions) if self.padded_length is None else self.padded_length

    def to_dict(self) -> dict[str, Any]:
        """As the library's, with the pipeline that travels along, as the library's pipelines write it when saved."""
        task = {"impl": "pipeline_spam_gpt.SpamPipeline", "pt": ["AutoModelForSequenceClassification"]}
        return {**super().to_dict(), "custom_pipelines": {"spam-classification": task}}

    def validate_architecture(self) -> None:
        """Checks what the types cannot: called at construction and before saving."""
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        for name in ("layer_norm_epsilon", "initializer_range"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head}).")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id ({self.pad_token_id}) is not in the vocabulary of {self.vocab_size} ids.")
        if self.padded_length is not None and not 1 <= self.padded_length <= self.n_positions:
            raise ValueError(f"padded_length ({self.padded_length}) must lie in 1..n_positions ({self.n_positions}).")
        if not self.id2label or sorted(map(int, self.id2label)) != list(range(self.num_labels)):
            raise ValueError(f"id2label must name the classes 0, 1, ..., got {self.id2label}.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0, and a number, got {self.temperature}.")
        if self.threshold is not None:
            if not 0 < self.threshold <= 1:
                raise ValueError(f"threshold must be above 0 and at most 1, or None, got {self.threshold}.")
            spam_index(class_names(self))


def class_names(config: PreTrainedConfig) -> list[str]:
    """The names of a model's classes, in the order of their indices, in which `id2label` need not have them."""
    return [name for _, name in sorted((int(index), name) for index, name in config.id2label.items())]


def spam_index(names: Sequence[str]) -> int:
    """The class that is spam, and the positive one: the one of that name, in any case, or the second of two.

    Raises:
        ValueError: there are more than two, or only one, and none of that name.
    """
    for index, name in enumerate(names):
        if name.lower() == "spam":
            return index
    if len(names) != 2:
        raise ValueError(f"None of the model's labels is 'spam': {', '.join(map(repr, names))}.")
    return 1


def decide(config: PreTrainedConfig, probabilities: torch.Tensor) -> torch.Tensor:
    """The class that each message is given, (N,), for the probabilities of all classes, (N, num_labels).

    With a `threshold` in the configuration, it is spam if the probability of spam is at least that, and else the
    likeliest of the other classes; without one, the likeliest.
    """
    threshold = getattr(config, "threshold", None)
    if threshold is None:
        return probabilities.argmax(-1)
    spam = spam_index(class_names(config))
    others = probabilities.clone()
    others[:, spam] = -1
    # In float64, as the threshold is: rounded to float32 it could fall on a score that it is to leave out.
    return torch.where(probabilities[:, spam].double() >= threshold, spam, others.argmax(-1))


__all__ = ["SpamGPTConfig"]
