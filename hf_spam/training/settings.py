"""Settings of a run: a recipe, and options that do not change its result.

Imports no heavy library, so that the command line can list them at once.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from inspect import formatannotation
from typing import Any, Literal

from ..files import public

# Fields that say where data and weights are read from; these may differ between machines.
SOURCES = ("data", "text_column", "label_column", "label_map", "encoding", "base", "tokenizer", "replay")
SHAPE = ("n_layer", "n_embd", "n_head", "n_inner", "n_positions")  # of a network with random weights
FRESH = (*SHAPE, "initialization")  # settings that matter for random weights only
# Fields that matter when a network is pretrained on messages without labels.
PRETRAINING = (
    *("data", "text_column", "encoding", "skip_bad_rows", "base", "tokenizer", "vocab_size", "lowercase", "n_layer"),
    *("n_embd", "n_head", "n_inner", "n_positions", "initialization", "subword_embeddings", "dropout"),
    *("case_augmentation", "digit_augmentation", "bpe_dropout", "pretraining_steps", "pretraining_learning_rate"),
    *("weight_decay", "max_grad_norm", "mixed_precision", "seed"),
)


def _check_range(settings: object, names: str, low: float, high: float = math.inf) -> None:
    for name in names.split():
        value = getattr(settings, name)
        if value not in (None, "longest") and not low <= value < high:
            bounds = f"at least {low}" + ("" if high == math.inf else f" and below {high}")
            raise ValueError(f"{name} must be {bounds}, got {value}.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that affect the result of a fine-tuning run. Defaults are the book's (chapter 6).

    Raises:
        ValueError: a setting that is out of range, or settings that exclude each other.
    """

    name: str = "book"
    summary: str = ""

    data: str = "uci"
    """Messages: sample, marketing, uci, a file (.csv .tsv .txt .json .jsonl .parquet, also in .zip or .gz), a folder of
    train, validation and test files, or a Hub dataset id; several, separated by commas, are read as one."""
    protocol: Literal["book", "full"] = "book"
    """Selection and split of the messages: balanced as in the book, or all of them, with duplicates in one split."""
    text_column: str | None = None
    """Column of the messages; several, separated by commas, are joined. None: text, message, sms, v2 and others."""
    label_column: str | None = None
    """Column of the labels, which may be any classes. None: label, category, class, v1 and others, of ham and spam."""
    label_map: str | None = None
    """Meaning of labels, such as legit=ham,smishing=spam or 0=spam,1=ham."""
    positive_label: str | None = None
    """Positive class of two, for precision, recall, F1 and the threshold. None: spam, or the second label."""
    encoding: str | None = None
    """Encoding of text files, such as cp1252. None: UTF-8, UTF-16 or Windows-1252, whichever fits."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, or have no text or no known label, and log how many."""

    base: str = "openai-community/gpt2"
    """Weights to start from: a Hub id, a local folder, or "random"."""
    tokenizer: str | None = None
    """Tokenizer: a Hub id or a local folder. None: that of the base, or one learned on the training messages."""
    vocab_size: int | None = None
    """Size of a tokenizer learned on the training messages; only with base "random"."""
    lowercase: bool = False
    """Lowercase all text in a tokenizer learned on the training messages; only with vocab_size."""
    n_layer: int = 12
    """Number of blocks; only with base "random"."""
    n_embd: int = 768
    """Width; only with base "random"."""
    n_head: int = 12
    """Number of attention heads; only with base "random"."""
    n_inner: int | None = None
    """Width of the feed-forward layers; only with base "random". None: four times the width."""
    n_positions: int = 1024
    """Number of positions; only with base "random"."""
    initialization: Literal["gpt2", "pytorch"] = "gpt2"
    """Distribution of fresh weights: GPT-2's, or PyTorch's defaults as in the book; only with base "random"."""

    pooling: Literal["last", "last_token", "first", "mean"] = "last"
    """Position that is classified: the last one (pads included), the last real token, the first, or their mean."""
    padded_length: int | Literal["longest"] | None = "longest"
    """Length to pad messages to: a number, "longest" (the longest training message), or None."""
    causal: bool = True
    """Use a causal attention mask."""

    trainable: Literal["all", "last_two_blocks", "last_block", "head", "embeddings"] = "last_block"
    """Which weights to train; blocks include the final norm and the head, and embeddings are those of the tokens."""
    lora_r: int | None = None
    """Rank of LoRA adapters on every linear layer, merged when the model is saved. None: no adapters."""
    lora_alpha: int = 16
    """LoRA scale: adapters are multiplied by lora_alpha / lora_r."""
    subword_embeddings: bool = False
    """Learn the embeddings of tokens together with those of their character n-grams (Bojanowski et al. 2017)."""
    dropout: float = 0.0
    """Dropout on the embeddings and on the output of each block."""
    case_augmentation: float = 0.0
    """Probability of changing the case of a training message, drawn again in each epoch."""
    digit_augmentation: float = 0.0
    """Probability of replacing the digits of a training message with random ones, drawn again in each epoch."""
    bpe_dropout: float = 0.0
    """Probability of skipping a BPE merge in training (Provilkov et al. 2020)."""

    spliced_messages: int = 0
    """Number of messages to splice from training messages and learn from too, labelled by the linear baseline."""
    replay_messages: int = 0
    """Number of messages that the base has learned from to mix in, with its answers, so that it forgets little. The
    messages of data are then corrections: all are trained on; layout and calibration of the base stay."""
    replay: str | None = None
    """Source of the messages to replay, as for data. None: the base's data if they are at hand, else the sample."""
    max_drop: float = 0.005
    """Largest loss of accuracy or rise of the false-positive rate on validation, as a fraction; for corrections."""

    pretraining_steps: int = 0
    """Optimizer steps of language modelling on the training messages, before fine-tuning on their labels."""
    pretraining_learning_rate: float = 2e-3
    """Peak learning rate of pretraining."""

    num_train_epochs: int = 5
    """Passes over the training messages."""
    max_steps: int | None = None
    """Optimizer steps to train for; overrides num_train_epochs."""
    per_device_train_batch_size: int = 8
    """Messages per batch on each process."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step."""
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """Order of the training messages: random, or with similar lengths in a batch, which saves padding."""
    logit_adjustment: float = 0.0
    """Factor of the log class priors added to the logits in the loss, against class imbalance (Menon et al. 2021)."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule after the warmup."""
    warmup_steps: float = 0.0
    """Steps of linear warmup; below 1, a fraction of all steps."""
    max_grad_norm: float | None = None
    """Maximum gradient norm. None: no clipping."""
    ignore_index: int = -100
    """Label that the loss ignores."""
    weight_average: float = 0.0
    """Decay of the exponential moving average of the weights; the average is saved. 0: no averaging."""
    adversarial_epsilon: float = 0.0
    """L2 norm of the adversarial perturbation of the token embeddings (Miyato et al. 2017). 0: none."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Mixed precision in training."""
    temperature_scaling: bool = False
    """Fit a temperature on the validation split to calibrate the scores."""
    target_fpr: float | None = None
    """Fit a threshold on the validation split with at most this false-positive rate. None: no threshold."""
    confidence: float | None = None
    """Confidence level for target_fpr on new messages like those in the validation split. None: only on these."""

    eval_freq: int = 50
    """Optimizer steps between two evaluations of the losses."""
    eval_iter: int = 5
    """Batches per evaluation of losses and accuracies during training."""
    seed: int = 123
    """Seed for the splits, fresh weights, the order of messages, and dropout."""

    def __post_init__(self) -> None:
        def check(holds: bool, message: str) -> None:
            if not holds:
                raise ValueError(f"{message}.")

        in_range = partial(_check_range, self)
        in_range("n_layer n_embd n_inner n_positions", 1, 100_001)  # beyond, the network would exhaust the memory
        in_range("vocab_size", 258, 1_000_001)
        in_range("n_head padded_length lora_r lora_alpha num_train_epochs max_steps per_device_train_batch_size", 1)
        in_range("gradient_accumulation_steps eval_freq eval_iter", 1)
        in_range("dropout bpe_dropout weight_average case_augmentation digit_augmentation target_fpr confidence", 0, 1)
        in_range("learning_rate pretraining_learning_rate max_grad_norm warmup_steps weight_decay", 0)
        in_range("adversarial_epsilon logit_adjustment spliced_messages replay_messages max_drop pretraining_steps", 0)
        in_range("seed", 0, 2**32)
        check(self.confidence is None or self.target_fpr, "confidence needs a target_fpr above 0")
        learned = ("spliced_messages", "pretraining_steps", "subword_embeddings", "logit_adjustment")
        excluded = (*learned, "temperature_scaling", "target_fpr")
        is_given = any(getattr(self, name) for name in excluded) or self.target_fpr == 0
        replays = self.base != "random" and not is_given
        check(not self.replay_messages or replays, f"replay_messages needs a base, and excludes {', '.join(excluded)}")
        pretrains_all = self.trainable == "all" and self.lora_r is None and self.causal
        check(not self.subword_embeddings or self.trainable == "all", "subword_embeddings needs trainable all")
        check(not self.pretraining_steps or pretrains_all, "pretraining_steps needs trainable all, and a causal mask")
        check(self.n_embd % self.n_head == 0, f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        check(not self.lowercase or self.vocab_size, "lowercase needs a vocab_size (a new tokenizer)")
        check(not self.lowercase or not self.case_augmentation, "lowercase and case_augmentation exclude each other")
        if self.lora_r is not None:
            check(self.trainable == "head", f"lora_r needs trainable head, got {self.trainable}")
            check(not self.weight_average, "lora_r and weight_average exclude each other")
        if self.vocab_size is not None:
            check(self.base == "random", f"vocab_size (a new tokenizer) needs base random, not {self.base!r}")
            check(self.tokenizer is None, f"vocab_size and tokenizer ({self.tokenizer!r}) exclude each other")
        elif self.base == "random":
            check(self.tokenizer is not None, "base random needs a tokenizer, or a vocab_size to learn one")

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `load_sms_spam` that say how to read the data."""
        names = ("text_column", "label_column", "label_map", "positive_label", "encoding", "skip_bad_rows")
        return {name: getattr(self, name) for name in names}

    @property
    def public(self) -> dict[str, Any]:
        """The settings as they may be published: local paths lose their folders."""
        return {name: public(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options that do not change the result of a run, and so are not part of the recipe."""

    output_dir: str | None = None
    """Directory for the model, its card, history, metrics and plots. None: nothing is saved."""
    overwrite_output_dir: bool = False
    """Replace the files of an earlier run in output_dir."""
    report_to: str | None = None
    """Experiment tracker that Accelerate knows, such as tensorboard."""
    save_steps: int | None = None
    """Optimizer steps between two checkpoints. None: no checkpoints."""
    save_total_limit: int | None = None
    """Number of checkpoints to keep; the best and the newest are always kept. None: all."""
    resume_from_checkpoint: str | None = None
    """Checkpoint to resume from: a folder, auto (newest in output_dir), or hub (pushed by an earlier run)."""
    push_to_hub: bool = False
    """Push the model to the Hub."""
    hub_model_id: str | None = None
    """Repository (owner/name or name); created if missing. None: the name of output_dir."""
    hub_strategy: Literal["end", "checkpoint", "every_save", "best"] = "end"
    """Push only the final model (end), also every checkpoint (every_save), also the newest training state, so that
    another machine can resume (checkpoint), or each checkpoint with the lowest validation loss so far (best)."""
    hub_private_repo: bool = False
    """Make the repository private when it is created."""
    hub_revision: str = "main"
    """Branch to push to; created if missing."""
    hub_timeout: float = 600.0
    """Seconds to wait for uploads at the end."""
    license: str | None = None
    """License of the model for its card: an id of the Hub, such as mit or apache-2.0."""
    language: str | None = None
    """Languages of the messages for the card, such as en or en,de. None: those of the data, if known."""

    def __post_init__(self) -> None:
        for name, example in (("license", "mit or apache-2.0"), ("language", "en or en,de")):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.,+-]*", value):
                raise ValueError(f"{name} must be written as on the Hub, such as {example}, got {value!r}.")
        _check_range(self, "save_steps save_total_limit", 1)
        if self.output_dir is None and (self.save_steps or self.resume_from_checkpoint or self.push_to_hub):
            raise ValueError("Saving checkpoints, resuming and pushing need output_dir (--output-dir).")
        if self.push_to_hub and self.save_steps is None and self.hub_strategy != "end":
            raise ValueError("Pushing checkpoints needs save_steps; hub_strategy end pushes the final model.")
        if self.resume_from_checkpoint == "hub" and not self.push_to_hub:
            raise ValueError("Resuming from the Hub needs the repository: add --push-to-hub and --hub-model-id.")


def checked(settings: type, values: dict[str, Any]) -> dict[str, Any]:
    """Check the types of values for fields of a dataclass; convert paths to `str` and `int` to `float` as needed."""
    from huggingface_hub.dataclasses import type_validator  # takes 0.1 s to import: too long for `hf-spam --help`

    values = dict(values)
    for name, kind in [(field.name, field.type) for field in fields(settings) if field.name in values]:
        value = values[name]
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        elif name == "label_map" and isinstance(value, Mapping):
            if commas := [str(label) for label in value if "," in str(label)]:
                raise ValueError(f"label_map: the label {commas[0]!r} contains a comma: rename it in the data.")
            value = ",".join(f"{label}={meaning}" for label, meaning in value.items())
        elif type(value) is int and kind in (float, float | None):
            value = float(value)
        try:
            type_validator(name, value, kind)
        except TypeError:
            raise ValueError(f"{name} must be {formatannotation(kind)}, got {value!r}.") from None
        values[name] = value
    return values
