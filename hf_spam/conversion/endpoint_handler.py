"""Answer the requests of a Hugging Face Inference Endpoint with an exported classifier.

`hf-spam export MODEL DIR --handler` copies this file to DIR/handler.py, where the endpoint's server looks for the class
`EndpointHandler`. It needs no other code: a GPT-2 export runs in stock transformers, an ONNX export in ONNX Runtime.

    EndpointHandler("DIR")({"inputs": ["Free entry! Txt WIN to 10010", "See you at home"]})
"""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

GRAPH = "onnx/model.onnx"  # onnx/model_quantized.onnx is smaller, and its scores differ a little
BATCH = 2**19  # tokens times width: small enough for a processor's cache


class EndpointHandler:
    """Classify messages as the text-classification pipeline of transformers does, with the model's threshold.

    With a `threshold` in config.json, a message is spam if the probability of spam reaches it, and otherwise gets the
    most likely other label. Empty messages get an answer, long ones are cut to their first tokens, and lone surrogates
    count as U+FFFD. `path` is the folder of an export, `graph` names another ONNX graph in it, and `threads` is the
    number of threads of ONNX Runtime (0: one for each core).
    """

    def __init__(self, path: str = "", graph: str | None = None, threads: int = 0):
        folder = Path(path)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
        self.threshold = config.get("spam_gpt", config).get("threshold")  # in an ONNX export, settings have an entry
        # The positive class is the one called "spam", or else the second.
        self.spam = next((index for index, label in enumerate(self.labels) if label.lower() == "spam"), 1)
        self.pad = config["pad_token_id"]
        self.batch_tokens = BATCH // (config.get("hidden_size") or config["n_embd"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings["model_max_length"])
        self.tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
        stock = graph is None and (folder / "model.safetensors").is_file()
        self.run = _transformers(folder) if stock else _onnxruntime(folder / (graph or GRAPH), threads)

    def __call__(self, data: dict[str, Any]) -> list[Any]:
        """Answer a request: its `inputs` are a message or a list of them, its `parameters` those of the pipeline.

        These are `top_k`, the number of labels to return (`None`: all), and `function_to_apply`, "softmax", "sigmoid"
        or "none"; others raise a `ValueError`. The answer is a label and its score for each message; with `top_k`, a
        list of them, first the chosen label. As from the pipeline, a single message gets a list of one, or with `top_k`
        the list of its labels.
        """
        inputs, parameters = data.get("inputs"), data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError("parameters must be an object, such as {'top_k': 1}.")
        parameters = dict(parameters)
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("inputs must be a message or a list of messages, such as {'inputs': ['Win a prize']}.")
        for name in ("truncation", "padding"):  # done in any case
            parameters.pop(name, None)
        listed, top_k = "top_k" in parameters, parameters.pop("top_k", 1)
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise ValueError(f"top_k must be a whole number from 1, or null for all labels, got {top_k!r}.")
        function = parameters.pop("function_to_apply", None) or "softmax"
        if function not in ("softmax", "sigmoid", "none"):
            raise ValueError(f"function_to_apply must be softmax, sigmoid or none, got {function!r}.")
        if parameters:
            raise ValueError(f"Unknown parameters {', '.join(parameters)}; known are top_k and function_to_apply.")
        answers = self.answers(self.logits(texts), function, top_k)
        if not listed:
            return [answer[0] for answer in answers]
        return answers[0] if isinstance(inputs, str) else answers

    def logits(self, texts: list[str]) -> np.ndarray:
        """Return the logits of each message, (N, num_labels), from batches of messages of similar length."""
        clean = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        ids = [encoding.ids or [self.pad] for encoding in self.tokenizer.encode_batch_fast(clean)]
        lengths = np.array([len(message) for message in ids])
        logits = np.empty((len(texts), len(self.labels)))
        order, start = np.argsort(-lengths, kind="stable"), 0
        while start < len(order):
            width = lengths[order[start]]  # the longest comes first
            chosen = order[start : start + max(1, self.batch_tokens // width)]
            mask = np.arange(width) < lengths[chosen, None]
            padded = np.full(mask.shape, self.pad, np.int64)
            padded[mask] = np.fromiter(chain.from_iterable(ids[index] for index in chosen), np.int64)
            logits[chosen] = self.run(padded, mask.astype(np.int64))
            start += len(chosen)
        return logits

    def answers(self, logits: np.ndarray, function: str, top_k: int | None) -> list[list[dict[str, Any]]]:
        """Return labels of each message with their scores: first the chosen one, then the others by score."""
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        order = np.argsort(-logits, axis=1, kind="stable")
        if self.threshold is not None:
            is_spam = probabilities[:, self.spam, None] >= self.threshold
            chosen_first = np.argsort((order == self.spam) != is_spam, axis=1, kind="stable")
            order = np.take_along_axis(order, chosen_first, axis=1)
        scores = {"softmax": probabilities, "sigmoid": 1 / (1 + np.exp(-logits)), "none": logits}[function]
        rows = zip(order[:, :top_k].tolist(), scores.tolist(), strict=True)
        return [[{"label": self.labels[index], "score": row[index]} for index in chosen] for chosen, row in rows]


def _transformers(folder: Path):
    """Return a function that runs a GPT-2 export: token ids and mask (B, T) to logits (B, num_labels)."""
    import torch
    from transformers import AutoModelForSequenceClassification

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).to(device).eval()

    @torch.inference_mode()
    def run(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        ids, mask = (torch.from_numpy(array).to(device) for array in (input_ids, attention_mask))
        return model(input_ids=ids, attention_mask=mask).logits.float().cpu().numpy()

    return run


def _onnxruntime(graph: Path, threads: int):
    """Return a function that runs an ONNX export on the CPU: token ids and mask (B, T) to logits (B, num_labels)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # do not log errors, which are raised as well
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
