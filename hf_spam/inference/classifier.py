"""Classify messages: texts in, labels and scores out."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import TypedDict

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.loading import BUNDLED, load_classifier, load_tokenizer
from ..conversion.onnx import OnnxModel, is_onnx
from ..data.batching import predict_logits
from ..modeling.configuration_spam_gpt import decide
from .explain import Explanation, explain
from .quick import answer_rows, as_list


class Classification(TypedDict):
    """Answer for one message, as in a `transformers` pipeline: a label and its probability."""

    label: str
    score: float


class SpamClassifier:
    """Classify any number of messages with a SpamGPT.

        classify = SpamClassifier.from_pretrained()  # the bundled model
        classify(["Free entry! Txt WIN to 10010", "Running late, start without me"])

    The label is the most likely one, unless the model's configuration has a `threshold` (see `decide`). The answer for
    a message does not depend on the other messages. Empty messages get an answer, and long ones are cut to their first
    tokens, as in the book's `classify_review`.

    Messages may be a string, a list, or any other iterable of strings, such as a table column. Every method raises
    `TypeError` for anything else, and `ValueError` if damaged weights give NaN or infinite logits.

    Args:
        model: A SpamGPT classifier, which is put into evaluation mode, or an ONNX export of one.
        tokenizer: The tokenizer it was trained with.
    """

    def __init__(self, model: PreTrainedModel | OnnxModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str | None = None,
    ) -> "SpamClassifier":
        """Load a classifier from a local folder or the Hub.

        An export of `hf-spam export --format onnx` runs in ONNX Runtime, on the CPU: in fp32, or in int8 if `model` is
        the path of its `onnx/model_quantized.onnx`.

        Args:
            model: A folder, a Hub id, or the path of an ONNX graph. `None` and "bundled" load the model that comes with
                the package.
            revision: A branch, tag or commit on the Hub.
            dtype: The precision to compute in. bfloat16 is faster on processors that support it.
            device: The device to compute on. `None`: the accelerator if there is one, else the CPU.

        Raises:
            OSError: There is no such folder or no such repository, or the Hub cannot be reached.
            ValueError: The source holds no SpamGPT classifier or no tokenizer.
        """
        source = BUNDLED if model is None else model
        if is_onnx(source, revision=revision):
            return cls(OnnxModel(source, revision=revision), load_tokenizer(source, revision=revision))
        device = device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
        classifier = load_classifier(source, revision=revision, dtype=dtype).to(device)
        return cls(classifier, load_tokenizer(source, revision=revision))

    def __call__(self, texts: str | Iterable[str], *, progress: bool = False) -> list[Classification]:
        """Return the label and score of each message; for a single string, a list of one, as a pipeline does."""
        labels, scores = self.decide(self.logits(texts, progress=progress).softmax(-1))
        return [{"label": label, "score": score} for label, score in zip(labels, scores.tolist(), strict=True)]

    def answers(self, texts: Sequence[str | None]) -> tuple[list[str | None], list[np.float32 | None]]:
        """Return labels and scores, in float32, of the rows of a table; `None` where the text is missing or empty.

        It computes on one thread, since the number of threads can change the last digit of a sum.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return answer_rows(self, texts)
        finally:
            torch.set_num_threads(threads)

    def predict(self, texts: str | Iterable[str]) -> list[str]:
        """Return the label of each message."""
        return self.decide(self.logits(texts).softmax(-1))[0]

    def predict_proba(self, texts: str | Iterable[str], *, progress: bool = False) -> np.ndarray:
        """Return the probability of each class for each message, (N, num_labels) in float32."""
        return self.logits(texts, progress=progress).softmax(-1).numpy()

    def logits(self, texts: str | Iterable[str], *, progress: bool = False) -> torch.Tensor:
        """Return the logits of each message, (N, num_labels) in float32 on the CPU, with a progress bar on request."""
        return predict_logits(self.model, self.tokenizer, as_list(texts), progress=progress)

    def explain(self, texts: str | Iterable[str], *, strongest: int = 3) -> list[Explanation]:
        """Return the answer for each message, and what each word contributed to it (see `Explanation`).

        Args:
            texts: The messages.
            strongest: How many words to search for that speak most for the label together. A message of n words is
                classified about 8 n times for three of them, and n times for 0 or 1.
        """
        return [explain(self.model, self.tokenizer, text, strongest) for text in as_list(texts)]

    packages = ("torch", "tokenizers")  # whose versions may change the last digit of an answer

    @property
    def device_type(self) -> str:
        """The type of the device that it computes on, such as "cpu"."""
        return self.model.device.type

    def fingerprint(self) -> str:
        """Return a hash of everything that the answers depend on."""
        config = self.model.config.to_dict() | {"_name_or_path": None}
        fast = self.tokenizer.is_fast
        about = json.loads(self.tokenizer.backend_tokenizer.to_str()) if fast else {"vocab": self.tokenizer.get_vocab()}
        about |= {"class": type(self.tokenizer).__name__, "truncation": None, "padding": None}  # each call sets these
        digest = hashlib.sha256(json.dumps([config, about], sort_keys=True, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def decide(self, probabilities: torch.Tensor) -> tuple[list[str], torch.Tensor]:
        """Choose labels with the model's threshold.

        Args:
            probabilities: The probability of each class, (N, num_labels).

        Returns:
            The label of each message, and the probability of that label (N,).
        """
        classes = decide(self.model.config, probabilities)
        labels = [self.model.config.id2label[index] for index in classes.tolist()]
        return labels, probabilities.gather(-1, classes[:, None])[:, 0]


def classify_text(text: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the label of one message, "spam" or "not spam": the book's `classify_review` (chapter 6).

    Padding, pooling and the threshold come from the model's configuration, not from the caller.

    Raises:
        TypeError: `text` is not a string.
    """
    return SpamClassifier(model, tokenizer).predict([text])[0]
