"""Messages in, labels and scores out."""

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypedDict

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.loading import BUNDLED, load_classifier
from ..conversion.onnx import OnnxModel, is_onnx
from ..data.batching import predict_logits
from ..data.tokenization import load_tokenizer
from ..modeling.configuration_spam_gpt import decide

POCKET = BUNDLED  # its name until every caller has moved


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
        source = BUNDLED if model is None else model
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
        texts = list(texts)  # a column of a table is no list, and has no truth value
        return predict_logits(self.model, self.tokenizer, texts, batch_tokens=batch_tokens, progress=progress)


def classify_text(text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """The label of one message, "spam" or "not spam": the book's `classify_review` (chapter 6).

    How the message is padded and read, and from which score on it is spam, is the model's business (`padded_length`,
    `pooling`, `threshold`), not the caller's.

    Raises:
        TypeError: `text` is not a string.
    """
    return SpamClassifier(model, tokenizer)([text])[0]["label"]
