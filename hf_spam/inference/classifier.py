"""Messages in, labels and scores out."""

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch
from torch._dynamo.exc import ShortenTraceback
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.loading import load_classifier
from ..conversion.onnx import OnnxModel, is_onnx
from ..data.batching import PadRight, batch_tokens_for, token_batches
from ..data.tokenization import encode, load_tokenizer
from ..modeling.configuration_spam_gpt import decide
from ..text import one_line

POCKET = Path(__file__).parent.parent / "bundled"  # the trained model that comes with the package


class Classification(TypedDict):
    """What a pipeline of `transformers` answers: a label, and its probability."""

    label: str
    score: float


class SpamClassifier:
    """Classifies messages, many at a time.

        classify = SpamClassifier.from_pretrained()  # the bundled model
        classify(["Free entry! Txt WIN to 10010", "Running late, start without me"])

    The label is the likeliest one, or where the model's configuration has a `threshold`, the one by that (see
    `decide`). A message's answer does not depend on those beside it. Empty messages have an answer, and of long ones
    the first tokens count (as in the book's `classify_review`).

    Args:
        model: any sequence classifier; it is put into evaluation mode.
        tokenizer: the one it was trained with.
        torch_compile: whether its network is compiled, as for `from_pretrained`; so is the model itself from then on.

    Raises:
        ValueError: an ONNX export is to be compiled.
    """

    def __init__(
        self, model: PreTrainedModel | OnnxModel, tokenizer: PreTrainedTokenizerBase, *, torch_compile: bool = False
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.torch_compile = torch_compile
        if torch_compile:
            if isinstance(model, OnnxModel):
                raise ValueError("An ONNX export is not for torch.compile, which is for the model that it was made of.")
            model.base_model.compile(dynamic=True)  # one code for all batches, whatever their size

    def __reduce__(self) -> tuple:
        """For another process, or a copy, which has to compile for itself: a pickled module is as it was before."""
        return partial(type(self), torch_compile=self.torch_compile), (self.model, self.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
        torch_compile: bool = False,
    ) -> "SpamClassifier":
        """Loads a local folder or a Hub repository; None: the model that comes with the package.

        A folder that `hf-spam export` wrote is run by ONNX Runtime, on the CPU and in the precision it was exported in.

        Args:
            model: the folder or the repository's id.
            revision: branch, tag or commit on the Hub.
            dtype: precision that it computes in; bfloat16 is faster where the processor has instructions for it.
            device: where it computes; None (the default): on the accelerator, if there is one.
            torch_compile: whether `torch.compile` makes machine code of the network, at the first messages and on a CPU
                by a C++ compiler. That takes from some seconds to minutes, the next time less, since torch keeps the
                code; it pays for very many messages. Answers are the same but for rounding.

        Raises:
            OSError: there is no such folder, nor such a repository that can be reached.
            ValueError: it is there, but is not a SpamGPT classifier, has no tokenizer, or cannot be compiled.
        """
        source = POCKET if model is None else model
        if is_onnx(source):
            return cls(OnnxModel(source), load_tokenizer(source), torch_compile=torch_compile)
        loaded = load_classifier(source, revision=revision, dtype=dtype)
        tokenizer = load_tokenizer(source, revision=revision)
        loaded = loaded.to(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        return cls(loaded, tokenizer, torch_compile=torch_compile)

    def __call__(self, texts: Sequence[str], *, progress: bool = False) -> list[Classification]:
        """The label of each message and its probability, in the order of the messages.

        Raises:
            TypeError: `texts` is a single string or no list at all, or holds something that is no string.
            ValueError: an answer is not a number, since the weights are damaged.
        """
        labels, scores = self.decide(self.probabilities(texts, progress=progress))
        return [{"label": label, "score": score} for label, score in zip(labels, scores.tolist(), strict=True)]

    def decide(self, probabilities: torch.Tensor) -> tuple[list[str], torch.Tensor]:
        """The label of each message and its probability, (N,), for the probabilities of all labels (N, num_labels)."""
        names, classes = self.model.config.id2label, decide(self.model.config, probabilities)
        return [names[i] for i in classes.tolist()], probabilities.gather(-1, classes[:, None])[:, 0]

    def probabilities(
        self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = False
    ) -> torch.Tensor:
        """The probability of each class for each message, (N, num_labels) in float32 on the CPU.

        Arguments and errors are those of `logits`.
        """
        return self.logits(texts, batch_tokens=batch_tokens, progress=progress).softmax(-1)

    @torch.inference_mode()
    def logits(self, texts: Sequence[str], *, batch_tokens: int | None = None, progress: bool = False) -> torch.Tensor:
        """The logits of each message, (N, num_labels) in float32 on the CPU.

        Args:
            texts: the messages.
            batch_tokens: tokens to a batch, pads included; it changes the time only. None (the default): as many as the
                model's width and device ask for.
            progress: whether to show a bar.

        Raises:
            TypeError: as for a call.
            ValueError: an answer is not a number, or `torch.compile` cannot compile.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"Give a list of messages, not a single {type(texts).__name__}.")
        texts = list(texts)  # a column of a table, say, is none, and has no truth value
        config, device = self.model.config, self.model.device
        max_length = getattr(config, "padded_length", None) or config.max_position_embeddings
        ids = encode(self.tokenizer, texts, max_length)
        lengths = [getattr(config, "padded_length", None) or len(message) for message in ids]
        collate = PadRight(self.tokenizer.pad_token_id)
        result = torch.empty(len(ids), config.num_labels)
        with tqdm(total=len(ids), desc="Classifying", unit="message", disable=not progress) as bar:
            for chosen in token_batches(lengths, batch_tokens or batch_tokens_for(config, device)):
                batch = collate([{"input_ids": ids[i]} for i in chosen])
                result[chosen] = self._run({name: tensor.to(device) for name, tensor in batch.items()}).float().cpu()
                bar.update(len(chosen))
        if not result.isfinite().all():
            raise ValueError("The model's answers are not numbers: its weights are damaged.")
        return result

    def _run(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits (B, num_labels) of a batch."""
        # To the compiler a size of one is a constant: it would make code for that alone, again and again.
        eager = self.torch_compile and 1 in batch["input_ids"].shape
        try:
            with torch.compiler.set_stance("force_eager") if eager else nullcontext():
                return self.model(**batch).logits
        except ShortenTraceback as error:  # of which only some are errors around another
            cause = getattr(error, "inner_exception", error)
            raise ValueError(
                f"torch.compile cannot compile for {self.model.device.type}, where it needs a C++ compiler such as g++ "
                f"(and on a GPU Triton): {one_line(cause)}"
            ) from error


def classify_text(text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """The label of one message, "spam" or "not spam": the book's `classify_review` (chapter 6).

    How the message is padded and read, and from which score on it is spam, is the model's business (`padded_length`,
    `pooling`, `threshold`), not the caller's.

    Raises:
        TypeError: `text` is not a string.
    """
    return SpamClassifier(model, tokenizer)([text])[0]["label"]
