"""Configuration of SpamGPT, and the decision between its classes.

This file, `modeling_spam_gpt.py` and `pipeline_spam_gpt.py` travel to the Hub, so they import nothing else of the
package.
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
    """Shape of a GPT (Radford et al. 2019, GPT-2), and how it reads and classifies a message.

    The network, with the names of `GPT2Config` and the sizes of the 124M model as defaults:

    - `vocab_size` (50257), `n_positions` (1024), `n_embd` (768), `n_layer` (12), `n_head` (12).
    - `n_inner` (`None`): width of the feed-forward layer; `None` means `4 * n_embd`.
    - `embd_pdrop`, `attn_pdrop`, `resid_pdrop` (0.0): dropout of the embeddings, of the attention weights, and of the
      output of each layer. GPT-2 was pretrained with 0.1; the book fine-tunes without dropout.
    - `layer_norm_epsilon` (1e-5), `initializer_range` (0.02).
    - `qkv_bias` (`True`): whether the query, key and value projections have a bias, as in GPT-2.
    - `bos_token_id`, `eos_token_id`, `pad_token_id`: by default the last id of the vocabulary (GPT-2's
      `<|endoftext|>`).

    How a message is read (the book, chapter 6 and its additional experiments):

    - `pooling` (`"last"`): position that is classified: `"last"` for the last one, pads included; `"last_token"` for
      the last real token; `"first"`; or `"mean"` for the average over all positions.
    - `padded_length` (`None`): the length to which every message is padded on the right or cut. These pads are attended
      to like any token (120 in the book). `None`: no padding; pads that a batch needs are masked.
    - `causal` (`True`): whether a position attends only to itself and earlier ones.
    - `id2label`, `label2id` (0 "not spam", 1 "spam"): the classes; each of the two is derived from the other.

    Calibration, fitted on messages that the weights were not trained on:

    - `temperature` (1.0): the model divides its logits by it (Guo et al. 2017, *On Calibration of Modern Neural
      Networks*).
    - `threshold` (`None`): the lowest probability of spam at which a message is labelled spam, above 0 and at most 1.
      `None`: the most likely class. See `decide`, which this package uses everywhere; the "text-classification"
      pipeline of `transformers` ignores the threshold.

    Raises `huggingface_hub.errors.StrictDataclassError` for wrong types and impossible shapes.
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
    tie_word_embeddings: bool = False  # a classifier has no output embeddings
    pooling: Literal["last", "last_token", "first", "mean"] = "last"
    padded_length: int | None = None
    causal: bool = True
    temperature: float | int = 1.0
    threshold: float | int | None = None
    # `save_pretrained` adds only the class that is saved; remote code needs all three.
    auto_map: dict[str, str] | None = field(
        default_factory=lambda: {
            "AutoConfig": "configuration_spam_gpt.SpamGPTConfig",
            "AutoModel": "modeling_spam_gpt.SpamGPTModel",
            "AutoModelForSequenceClassification": "modeling_spam_gpt.SpamGPTForSequenceClassification",
        }
    )

    def __post_init__(self, **kwargs: Any) -> None:
        if __name__.startswith("hf_spam."):
            # The package registers the pipeline itself, so `transformers` need not ask for `trust_remote_code`.
            kwargs.pop("custom_pipelines", None)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, self.vocab_size - 1)
        if self.id2label is None and self.label2id is not None:
            self.id2label = {int(index): label for label, index in self.label2id.items()}
        elif self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "not spam", 1: "spam"}
        named = self.id2label and len(self.id2label)
        super().__post_init__(**kwargs)  # generates labels if only their number is given, or does not fit
        if named and named != self.num_labels:
            self.temperature, self.threshold = 1.0, None  # fitted to a head for other labels
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def max_tokens(self) -> int:
        """Number of tokens read from a message; longer messages are cut."""
        return self.n_positions if self.padded_length is None else self.padded_length

    def laid_out_length(self, tokens: int) -> int:
        """Return the number of positions computed for a message of `tokens` tokens."""
        return min(max(1, tokens), self.n_positions) if self.padded_length is None else self.padded_length

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, plus the entry for the custom pipeline that `transformers` writes for a saved pipeline."""
        task = {"impl": "pipeline_spam_gpt.SpamPipeline", "pt": ["AutoModelForSequenceClassification"]}
        return {**super().to_dict(), "custom_pipelines": {"spam-classification": task}}

    def validate_architecture(self) -> None:
        """Check values and their combinations; called at construction and before saving."""
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
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature}.")
        if self.threshold is not None:
            if not 0 < self.threshold <= 1:
                raise ValueError(f"threshold must be above 0 and at most 1, or None, got {self.threshold}.")
            spam_index(class_names(self))


def class_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a model's classes in the order of their indices (`id2label` may have another order)."""
    return [name for _, name in sorted((int(index), name) for index, name in config.id2label.items())]


def spam_index(names: Sequence[str]) -> int:
    """Return the index of the positive class: the one called "spam" (ignoring case), or else the second of two.

    Raises:
        ValueError: no class is called "spam", and there are not exactly two.
    """
    for index, name in enumerate(names):
        if name.lower() == "spam":
            return index
    if len(names) != 2:
        raise ValueError(f"None of the model's labels is 'spam': {', '.join(map(repr, names))}.")
    return 1


def decide(config: PreTrainedConfig, probabilities: torch.Tensor) -> torch.Tensor:
    """Choose a class for each message from the probabilities of all classes.

    Args:
        config: the model's configuration. With a `threshold`, a message is spam if the probability of spam reaches it,
            and otherwise gets the most likely other class. Without one, it gets the most likely class.
        probabilities: (N, num_labels).

    Returns:
        The class indices, (N,).
    """
    threshold = getattr(config, "threshold", None)
    if threshold is None:
        return probabilities.argmax(-1)
    spam = spam_index(class_names(config))
    others = probabilities.clone()
    others[:, spam] = -1
    # Compare in float64: rounded to float32, the threshold could equal a score below it.
    return torch.where(probabilities[:, spam].double() >= threshold, spam, others.argmax(-1))
