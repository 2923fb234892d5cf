"""Recipes: every setting of a run, by name. Imports no library, so that the command line can list them at once."""

import math
import os
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# Where the same messages, weights and tokenizer are read from may differ from machine to machine.
SOURCES = ("data", "text_column", "label_column", "base", "tokenizer")
# Beyond these, building a network or learning a tokenizer would take all the memory there is before it failed.
MOST = {"n_layer": 1000, "n_embd": 100_000, "n_positions": 1_000_000, "vocab_size": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a fine-tuning run; those of the book (chapter 6) unless another is given.

    Raises:
        ValueError: a setting, or a combination of settings, that cannot be meant.
    """

    name: str = "book"
    """Name of the recipe."""
    summary: str = ""
    """What it is, in a line."""

    data: str = "uci"
    """Messages: sample, uci, a local file (.tsv .csv .jsonl .parquet .zip), or a Hub dataset id."""
    protocol: Literal["book", "full"] = "book"
    """Reading and splits: the book's balanced ones, or every message with duplicates kept on one side."""
    text_column: str | None = None
    """Column of the texts. None: text, message, sms or v2."""
    label_column: str | None = None
    """Column of the labels, which are then classes under their own names, unless they say ham or spam. None: label,
    category, class or v1, for ham and spam."""
    positive_label: str | None = None
    """Of two labels the one that is sought, as spam is: precision, recall, F1 and thresholds are of it. None: spam, or
    the one that comes second."""
    undersample: bool = False
    """Whether so many training messages of the commoner labels are left out that each has as many as the rarest."""

    base: str = "openai-community/gpt2"
    """Weights to start from: a Hub id, a local folder, or "random"."""
    tokenizer: str | None = None
    """Tokenizer: a Hub id or a local folder. None: the base's, or one learned on the training messages."""
    vocab_size: int | None = None
    """Entries of a tokenizer learned on the training messages, for base "random"."""
    n_layer: int = 12
    """Blocks, for base "random"."""
    n_embd: int = 768
    """Width, for base "random"."""
    n_head: int = 12
    """Attention heads, for base "random"."""
    n_positions: int = 1024
    """Positions, for base "random"."""
    qkv_bias: bool = True
    """Bias in the query, key and value projections, for base "random"."""
    initialization: Literal["gpt2", "pytorch"] = "gpt2"
    """How weights are drawn, for base "random": as GPT-2's were, or as PyTorch's layers draw theirs (the book's)."""

    pooling: Literal["last", "last_token", "first", "mean"] = "last"
    """Position that is classified: the last, pads included; the last real token; the first; or the mean of all."""
    padded_length: int | Literal["longest"] | None = "longest"
    """Length to which messages are padded: a number, "longest" (the longest training message), or None."""
    causal: bool = True
    """Whether a position sees only itself and those before it."""

    trainable: Literal["all", "last_two_blocks", "last_block", "head"] = "last_block"
    """What is trained; blocks include the final norm and the head."""
    lora_r: int | None = None
    """Rank of adapters (LoRA) that are trained on every linear layer beside the head, and merged in what is saved.
    None: no adapters."""
    lora_alpha: int = 16
    """What adapters add to a layer is multiplied by lora_alpha / lora_r."""
    dropout: float = 0.0
    """Dropout after the embeddings and on what each block adds."""
    attention_dropout: float = 0.0
    """Dropout on the attention weights."""
    case_augmentation: float = 0.0
    """Probability that a training message is seen in other case, anew in each epoch."""
    digit_augmentation: float = 0.0
    """Probability that a training message is seen with other digits, anew in each epoch."""
    bpe_dropout: float = 0.0
    """Probability that a BPE merge is skipped in training."""

    num_train_epochs: int = 5
    """Passes over the training messages."""
    max_steps: int | None = None
    """Optimizer steps after which training ends; counts instead of num_train_epochs, which it may exceed."""
    per_device_train_batch_size: int = 8
    """Messages in a batch, on each process."""
    gradient_accumulation_steps: int = 1
    """Batches to an optimizer step."""
    train_batch_tokens: int | None = None
    """Tokens in a training batch, on each process, instead of per_device_train_batch_size: messages of like length, and
    as many as fill it, pads included."""
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """Order of the messages: at random, or with messages of like length in a batch, which saves padding."""
    balanced_sampling: bool = False
    """Whether each label is drawn equally often. An epoch still has as many messages as there are to train on: those
    of a rare label come several times, and not all of a common one."""
    class_weights: Literal["balanced"] | None = None
    """Weights of the labels in the training loss: "balanced" (the rarer a label, the more its messages count; 1 in the
    mean over all messages), or None."""
    logit_adjustment: float = 0.0
    """How far the boundary between labels is moved towards the commoner ones: 0, not at all; 1, to where all labels are
    equally likely before a message is read. Of no effect with class_weights or balanced_sampling."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: float = 0.0
    """Steps over which the learning rate rises from 0; below 1, the part of all steps."""
    max_grad_norm: float | None = None
    """Norm to which gradients are clipped. None: no clipping."""
    ignore_index: int = -100
    """Label that the loss leaves out; none of the classes may be it."""
    weight_average: float = 0.0
    """Decay of a running average of the weights, taken at every step, that is kept in their place. 0: none."""
    adversarial_epsilon: float = 0.0
    """How far (L2 norm) the token embeddings of a training message are moved to where its loss is higher, to learn from
    them as well: adversarial training. 0: not at all."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of the matrix products."""
    prefix_precision: Literal["no", "bf16"] = "no"
    """Precision of the frozen blocks that are computed once."""
    temperature_scaling: bool = False
    """Whether scores are made probabilities, by a temperature that is fitted to the validation split at the end."""
    target_fpr: float | None = None
    """False-positive rate that is allowed: of the validation split no more ham than that part has a score from which on
    messages are called spam. None: they are given the likeliest class."""

    eval_freq: int = 50
    """Optimizer steps between two evaluations of the losses."""
    eval_iter: int = 5
    """Batches to such an evaluation, and to the accuracies after each epoch."""
    seed: int = 123
    """Seed of splits, fresh weights, order and dropout."""

    def __post_init__(self) -> None:
        def check(holds: bool, what: str) -> None:
            if not holds:
                raise ValueError(f"Recipe {self.name!r}: {what}.")

        for field in fields(self):
            kinds, value = _kinds(field.type), getattr(self, field.name)
            *words, last = ("none" if kind is None else getattr(kind, "__name__", kind) for kind in kinds)
            wanted = f"{', '.join(words)} or {last}" if words else last
            check(any(_is_a(value, kind) for kind in kinds), f"{field.name} must be {wanted}, got {value!r}")
        for field in (
            *("n_layer", "n_embd", "n_head", "n_positions", "num_train_epochs", "per_device_train_batch_size"),
            *("gradient_accumulation_steps", "eval_freq", "eval_iter", "lora_alpha"),
        ):
            check(getattr(self, field) >= 1, f"{field} must be at least 1, got {getattr(self, field)}")
        for field in (
            "dropout",
            "attention_dropout",
            "bpe_dropout",
            "weight_average",
            "case_augmentation",
            "digit_augmentation",
        ):
            check(0 <= getattr(self, field) < 1, f"{field} must lie in [0, 1), got {getattr(self, field)}")
        check(self.max_steps is None or self.max_steps >= 1, f"max_steps must be at least 1, got {self.max_steps}")
        both = self.balanced_sampling and self.class_weights is not None
        check(not both, "class_weights and balanced_sampling do the same twice: give one of them")
        tokens = self.train_batch_tokens
        check(not (tokens and self.balanced_sampling), "balanced_sampling has no batches of train_batch_tokens")
        check(tokens is None or tokens >= 1, f"train_batch_tokens must be at least 1, got {tokens}")
        if self.lora_r is not None:
            check(self.lora_r >= 1, f"lora_r must be at least 1, or none, got {self.lora_r}")
            check(self.trainable == "head", f"with lora_r, trainable must be head, got {self.trainable}")
            check(not self.weight_average, "with lora_r there is no weight_average")
        check(self.warmup_steps >= 0, f"warmup_steps must not be negative, got {self.warmup_steps}")
        for field, most in MOST.items():
            check((getattr(self, field) or 0) <= most, f"{field} must be at most {most}, got {getattr(self, field)}")
        rate = self.target_fpr
        check(rate is None or 0 <= rate < 1, f"target_fpr must lie in [0, 1), got {rate}")
        check(0 <= self.seed < 2**32, f"seed must lie between 0 and 2**32 - 1, got {self.seed}")
        for field in ("learning_rate", "weight_decay"):
            check(math.isfinite(getattr(self, field)), f"{field} must be a number, got {getattr(self, field)}")
        check(self.learning_rate > 0, f"learning_rate must be positive, got {self.learning_rate}")
        check(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        check(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm must be positive, or none")
        epsilon = self.adversarial_epsilon
        check(epsilon >= 0 and math.isfinite(epsilon), f"adversarial_epsilon must not be negative, got {epsilon}")
        tau = self.logit_adjustment
        check(tau >= 0 and math.isfinite(tau), f"logit_adjustment must not be negative, got {tau}")
        check(self.n_embd % self.n_head == 0, f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")
        length = self.padded_length
        check(length in (None, "longest") or length >= 1, f"padded_length must be at least 1, got {length}")
        if self.vocab_size is not None:
            check(self.base == "random", f"a tokenizer of its own (vocab_size) needs base random, not {self.base!r}")
            check(self.tokenizer is None, f"give vocab_size or tokenizer ({self.tokenizer!r}), not both")
            check(self.vocab_size >= 257, f"vocab_size must be at least 257, got {self.vocab_size}")
        elif self.base == "random":
            check(self.tokenizer is not None, "base random needs a tokenizer, or a vocab_size to learn one")

    @property
    def reading(self) -> dict[str, str | None]:
        """How messages are read, as `load_sms_spam` takes it."""
        return {name: getattr(self, name) for name in ("text_column", "label_column", "positive_label")}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is executed: where it is saved, how it resumes, and whether it is pushed. Not part of the recipe.

    Raises:
        ValueError: a value that is out of range, or options that need another one.
    """

    output_dir: str | None = None
    """Directory for the model, its card, history, metrics and plots. None: nothing is saved."""
    overwrite_output_dir: bool = False
    """Replace the files of an earlier run in output_dir."""
    report_to: str | None = None
    """Experiment tracker that Accelerate knows, such as tensorboard."""
    save_steps: int | None = None
    """Optimizer steps between two checkpoints. None: no checkpoints."""
    save_total_limit: int | None = None
    """Checkpoints to keep; the best and the newest always are. None: all."""
    resume_from_checkpoint: str | None = None
    """Checkpoint to resume from: a folder, auto (the newest in output_dir), or hub (the one an earlier run pushed)."""
    allow_differences: bool = False
    """Resume even if the recipe, the data or the number of processes differ; results will differ, too."""
    push_to_hub: bool = False
    """Push the model to the Hub."""
    hub_model_id: str | None = None
    """Repository, owner/name or name; created if missing. None: the name of output_dir."""
    hub_strategy: Literal["end", "checkpoint", "every_save", "best"] = "end"
    """What to push: the final model (end), every checkpoint as well (every_save), with the training state
    (checkpoint), or each checkpoint with the lowest validation loss so far (best)."""
    hub_private_repo: bool = False
    """Make the repository private when it is created."""
    hub_revision: str = "main"
    """Branch to push to; created if missing."""
    hub_push_state: bool = False
    """Push the training state of the newest checkpoint to a branch of its own, so that another machine can resume."""
    hub_timeout: float = 600.0
    """Seconds to wait for uploads at the end."""

    def __post_init__(self) -> None:
        for name in ("save_steps", "save_total_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.output_dir is None and (self.save_steps or self.resume_from_checkpoint or self.push_to_hub):
            raise ValueError("Saving checkpoints, resuming and pushing need output_dir (--output-dir).")
        if self.push_to_hub and self.save_steps is None and (self.hub_strategy != "end" or self.hub_push_state):
            raise ValueError(
                "Pushing checkpoints needs save_steps (--save-steps); hub_strategy end pushes the final model."
            )
        if self.resume_from_checkpoint == "hub" and not self.push_to_hub:
            raise ValueError("Resuming from the Hub needs the repository: add --push-to-hub and --hub-model-id.")
        if not 0 <= self.hub_timeout < math.inf:
            raise ValueError(f"hub_timeout must be 0 or more seconds, got {self.hub_timeout}.")


def _kinds(annotation: Any) -> list[Any]:
    """What a field of this annotation may be: types, and words or None, which stand for themselves."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [None if annotation is NoneType else annotation]


def _is_a(value: Any, kind: Any) -> bool:
    if not isinstance(kind, type):
        return value is kind or (isinstance(value, str) and value == kind)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))


_BOOK = Recipe(summary="GPT-2 124M, last block trained: the book's chapter 6, loss for loss")
_MEDIUM = {"base": "openai-community/gpt2-medium", "n_layer": 24, "n_embd": 1024, "n_head": 16}
_LARGE = {"base": "openai-community/gpt2-large", "n_layer": 36, "n_embd": 1280, "n_head": 20}
_XL = {"base": "openai-community/gpt2-xl", "n_layer": 48, "n_embd": 1600, "n_head": 25}
# The book's LoRA multiplies the product of rank 16 by 16, which here, and for PEFT, is lora_alpha / lora_r.
_LORA = {"trainable": "head", "lora_r": 16, "lora_alpha": 256}


def _experiment(name: str, summary: str, **settings: Any) -> Recipe:
    return replace(_BOOK, name=name, summary=summary, **settings)


# The book's additional experiments, in the order of their table; what was published is in experiments/book_table.py.
_EXPERIMENTS = (
    _BOOK,
    _experiment("first-token", "the first token classified", pooling="first"),
    _experiment("head-only", "the head alone trained", trainable="head"),
    _experiment("last-two-blocks", "the last two blocks trained", trainable="last_two_blocks"),
    _experiment("all-layers", "everything trained", trainable="all"),
    _experiment("medium", "GPT-2 355M, last block trained", **_MEDIUM),
    _experiment("large", "GPT-2 774M, last block trained", **_LARGE),
    _experiment("xl", "GPT-2 1.6B, last block trained", **_XL),
    _experiment("xl-all-layers", "GPT-2 1.6B, everything trained", **_XL, trainable="all"),
    _experiment(
        "random-weights",
        "a GPT-2 124M from random weights, everything trained",
        base="random",
        tokenizer="openai-community/gpt2",
        initialization="pytorch",
        trainable="all",
    ),
    _experiment("lora", "adapters on every linear layer, and the head, trained", **_LORA),
    _experiment("xl-lora", "GPT-2 1.6B, adapters and the head trained", **_XL, **_LORA),
    _experiment("full-context", "messages padded to all positions", padded_length=1024),
    _experiment("no-padding", "messages one by one, not padded", padded_length=None, per_device_train_batch_size=1),
    _experiment(
        "accumulation",
        "messages one by one, not padded, eight to a step",
        padded_length=None,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
    ),
    _experiment("last-real-token", "the last token before the pads classified", pooling="last_token"),
    _experiment("no-causal-mask", "every position sees all others", causal=False),
    _experiment("ignore-index", "the pads' id ignored as a label, which none is", ignore_index=50256),
    _experiment("mean-pooling", "the mean of all positions classified", pooling="mean"),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *_EXPERIMENTS,
        replace(
            _BOOK,
            name="pocket",
            summary="a 0.5M GPT with its own tokenizer, trained from scratch in about a minute",
            protocol="full",
            base="random",
            vocab_size=2000,
            n_layer=1,
            n_embd=128,
            n_head=4,
            n_positions=128,
            pooling="last_token",
            padded_length=None,
            trainable="all",
            dropout=0.1,
            case_augmentation=0.3,
            digit_augmentation=0.5,
            bpe_dropout=0.1,
            adversarial_epsilon=0.4,
            logit_adjustment=0.5,  # spam of new kinds is taken for ham, the commoner label, more often than the reverse
            # A constant rate keeps the weights moving about a minimum, and their average is nearer to it.
            max_steps=2100,
            per_device_train_batch_size=16,
            train_sampling_strategy="group_by_length",
            learning_rate=1e-3,
            warmup_steps=200,
            max_grad_norm=1.0,
            weight_average=0.999,
            eval_freq=100,
        ),
    )
}


def get_recipe(recipe: Recipe | str, **settings: Any) -> Recipe:
    """A recipe, or the one of a name, with some of its fields set; paths may be given as such.

    Raises:
        ValueError: there is none of that name, or the settings cannot be meant.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {recipe!r}; known: {', '.join(RECIPES)}.")
        recipe = RECIPES[recipe]
    paths = {name: os.fspath(value) for name, value in settings.items() if isinstance(value, os.PathLike)}
    return replace(recipe, **{**settings, **paths})
