"""Answer the requests of a Hugging Face Inference Endpoint with an exported classifier.

`hf-spam export MODEL DIR --handler` copies this file to DIR/handler.py, where the endpoint's server looks for the class
`EndpointHandler`. It needs no other code: a GPT-2 export runs in stock transformers, an ONNX export in ONNX Runtime.

    EndpointHandler("DIR")({"inputs": ["Free entry! Txt WIN to 10010", "See you at home"]})
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

GRAPH = "onnx/model.onnx"  # onnx/model_quantized.onnx is smaller, and its scores differ a little
BATCH = 16  # messages at a time


class EndpointHandler:
    """Classify messages as the text-classification pipeline of transformers does, with the model's threshold.

    With a `threshold` in config.json, a message is spam if the probability of spam reaches it, and otherwise gets the
    most likely other label. Empty messages get an answer, long ones are cut to their first tokens, and lone surrogates
    count as U+FFFD. `path` is the folder of an export, and `graph` names another ONNX graph in it.
    """

    def __init__(self, path: str = "", graph: str | None = None):
        folder = Path(path)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
        self.threshold = config.get("spam_gpt", config).get("threshold")  # in an ONNX export, settings have an entry
        # The positive class is the one called "spam", or else the second.
        self.spam = next((index for index, label in enumerate(self.labels) if label.lower() == "spam"), 1)
        self.pad = config["pad_token_id"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings["model_max_length"])
        self.tokenizer.encode_special_tokens = settings.get("split_special_tokens", False)
        stock = graph is None and (folder / "model.safetensors").is_file()
        self.logits = _transformers(folder) if stock else _onnxruntime(folder / (graph or GRAPH))

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
        answers = [self._answer(logits, function)[:top_k] for logits in self._classify(texts)]
        if not listed:
            return [answer[0] for answer in answers]
        return answers[0] if isinstance(inputs, str) else answers

    def _classify(self, texts: list[str]) -> np.ndarray:
        """Return the logits of each message, (N, num_labels)."""
        clean = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        ids = [encoding.ids or [self.pad] for encoding in self.tokenizer.encode_batch(clean)]
        logits = np.empty((len(texts), len(self.labels)))
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            width = len(ids[chosen[-1]])
            mask = np.array([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in chosen], dtype=np.int64)
            padded = [ids[i] + [self.pad] * (width - len(ids[i])) for i in chosen]
            logits[chosen] = self.logits(np.array(padded, dtype=np.int64), mask)
        return logits

    def _answer(self, logits: np.ndarray, function: str) -> list[dict[str, Any]]:
        """Return all labels of a message with their scores, first the chosen one, then the others by score."""
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        scores = {"softmax": probabilities, "sigmoid": 1 / (1 + np.exp(-logits)), "none": logits}[function]
        order = sorted(range(len(scores)), key=lambda index: -logits[index])
        if self.threshold is not None:
            is_spam = probabilities[self.spam] >= self.threshold
            order.sort(key=lambda index: (index == self.spam) != is_spam)
        return [{"label": self.labels[index], "score": float(scores[index])} for index in order]


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


def _onnxruntime(graph: Path):
    """Return a function that runs an ONNX export on the CPU: token ids and mask (B, T) to logits (B, num_labels)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # do not log errors, which are raised as well
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
