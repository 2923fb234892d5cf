"""An export as GPT-2 gives the model's scores in stock transformers, and a GPT-2 can be used like a SpamGPT."""

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import build
from tokenizers import processors
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_spam import SpamClassifier
from hf_spam.conversion.gpt2 import write_gpt2
from hf_spam.conversion.import_weights import import_weights
from hf_spam.conversion.loading import load_classifier
from hf_spam.data.tokenization import END_OF_TEXT, PAD, encode, train_tokenizer
from hf_spam.hub.export import save_tokenizer

VOCAB = 300
POSITIONS = 24
# Some look like special tokens, some are cut, also in or after one.
TEXTS = [
    "win a prize",
    "a",
    "é 😀\0",
    "now " * 40,
    f"win{END_OF_TEXT}",
    f"win {PAD}",
    f"{PAD}{END_OF_TEXT}{PAD}",
    "<|pad_0|>",
]
TEXTS += [END_OF_TEXT, f"{END_OF_TEXT} win", "a" * (POSITIONS - 1) + PAD, PAD * 40]
TRAINED = train_tokenizer(["win a prize now"] * 9, VOCAB)


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that ends every text with a token, as ours, or one that pads with this token, as GPT-2's."""
    backend = type(TRAINED.backend_tokenizer).from_str(TRAINED.backend_tokenizer.to_str())
    if kind == "as GPT-2's":
        backend.post_processor = processors.ByteLevel()
    pad = END_OF_TEXT if kind == "as GPT-2's" else PAD
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": pad}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, model_input_names=["input_ids", "attention_mask"])


KINDS = ("ours", "as GPT-2's")


def texts_for(kind: str) -> list[str]:
    """Return the texts that do not end with the pad token after others, which stock GPT-2 does not read."""
    return [text for text in TEXTS if kind == "ours" or text != f"win{END_OF_TEXT}"]


def model(kind: str = "ours", **changes):
    shape = {"vocab_size": VOCAB, "n_positions": POSITIONS, "pooling": "last_token", "eos_token_id": 0}
    return build(**shape | {"pad_token_id": tokenizer(kind).pad_token_id} | changes)


def write(classifier, folder: Path, kind: str = "ours") -> Path:
    folder.mkdir(exist_ok=True)
    write_gpt2(classifier, folder, tokenizer(kind).pad_token_id)
    save_tokenizer(tokenizer(kind), folder, classifier.config.max_tokens)
    return folder


def stock_scores(folder: Path, texts: list[str], batch_size: int) -> np.ndarray:
    """Return the scores of the stock pipeline, (N, num_labels)."""
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    assert type(classify.model) is GPT2ForSequenceClassification
    names = [classify.model.config.id2label[i] for i in range(classify.model.config.num_labels)]
    answers = classify(texts, truncation=True, batch_size=batch_size, top_k=None)
    return np.array([[{a["label"]: a["score"] for a in answer}[name] for name in names] for answer in answers])


# Exports


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, derandomize=True, database=None)
@given(
    n_head=st.integers(1, 4),
    head_dim=st.integers(2, 9),
    n_layer=st.integers(1, 3),
    n_inner=st.none() | st.integers(1, 40),
    qkv_bias=st.booleans(),
    labels=st.sampled_from([["not spam", "spam"], ["ham", "spam", "smishing"]]),
    temperature=st.sampled_from([1.0, 0.4, 3.7]),
    pooling=st.sampled_from([{"pooling": "last_token"}, {"pooling": "last"}, {"padded_length": POSITIONS - 5}]),
    layer_norm_epsilon=st.sampled_from([1e-5, 1e-2]),
    vocab_size=st.sampled_from([VOCAB, VOCAB + 9]),
)
def test_the_stock_pipeline_gives_the_same_scores(
    kind: str, n_head: int, head_dim: int, labels: list[str], pooling: dict, **shape
) -> None:
    """For any shape, and any text that the tokenizer gives a token, but those that end with the pad token.

    This package also finds the threshold in an export.
    """
    shape |= {"n_head": n_head, "n_embd": n_head * head_dim, "id2label": dict(enumerate(labels)), **pooling}
    shape["threshold"] = 0.75
    original, texts = SpamClassifier(model(kind, **shape), tokenizer(kind)), texts_for(kind)
    expected = original.predict_proba(texts)
    with tempfile.TemporaryDirectory() as folder:
        write(original.model, Path(folder), kind)
        for batch_size in (1, 8):
            np.testing.assert_allclose(stock_scores(Path(folder), texts, batch_size), expected, atol=1e-5)
        again = SpamClassifier.from_pretrained(folder, device="cpu")
    assert again.model.config.threshold == 0.75
    np.testing.assert_allclose(again.predict_proba(texts), expected, atol=1e-5)
    torch.testing.assert_close(again.logits(texts), original.logits(texts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_message_is_read_where_the_tokenizer_gives_it_a_token(tmp_path: Path, kind: str) -> None:
    original = SpamClassifier(model(kind), tokenizer(kind))
    write(original.model, tmp_path / "out", kind)
    if kind == "as GPT-2's":
        with pytest.raises(RuntimeError):
            stock_scores(tmp_path / "out", [""], 1)
    else:
        scores = stock_scores(tmp_path / "out", ["", "win"], 2)
        np.testing.assert_allclose(scores, original.predict_proba(["", "win"]), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_a_text_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Also with the tokenizers library and in another process, which get the tokenizer without its settings.

    Nothing is asked, and there are no token types, for which a GPT-2 would add embeddings.
    """
    write(model(kind), tmp_path / "out", kind)
    monkeypatch.setattr("builtins.input", pytest.fail)
    expected = encode(tokenizer(kind), TEXTS, POSITIONS)
    for library in (AutoTokenizer, PreTrainedTokenizerFast):
        exported = library.from_pretrained(tmp_path / "out")
        batch = exported(TEXTS, truncation=True)
        assert batch["input_ids"] == expected == encode(exported, TEXTS, POSITIONS)
        assert set(batch) == {"input_ids", "attention_mask"} and exported.model_max_length == POSITIONS


def test_names_and_settings_are_those_of_gpt2_as_vllm_reads_it(tmp_path: Path) -> None:
    """vLLM (models/gpt2.py) skips no tensor and knows no bias of the head; custom code would need trust.

    Positions that `padded_length` cuts are left out: GPT-2 refuses longer messages rather than reading more of them.
    """
    write(model(qkv_bias=False, n_inner=5, embd_pdrop=0.25, threshold=0.75, padded_length=19), tmp_path / "out")
    names = {re.sub(r"\.\d+\.", ".N.", name): t for name, t in load_file(tmp_path / "out/model.safetensors").items()}
    block = ["ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    norms = [f"transformer.{module}" for module in ("ln_f", *(f"h.N.{module}" for module in block))]
    expected = {f"{module}.{kind}" for module in norms for kind in ("weight", "bias")}
    assert set(names) == expected | {"transformer.wte.weight", "transformer.wpe.weight", "score.weight"}
    assert {tensor.dtype for tensor in names.values()} == {torch.float32}
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["GPT2ForSequenceClassification"] and "auto_map" not in config
    assert not config["reorder_and_upcast_attn"] and not config["scale_attn_by_inverse_layer_idx"]
    assert (config["activation_function"], config["n_inner"], config["embd_pdrop"]) == ("gelu_new", 5, 0.25)
    assert (config["pad_token_id"], config["eos_token_id"], config["n_positions"]) == (1, 0, 19)
    assert names["transformer.wpe.weight"].shape == (19, 32)
    assert (config["threshold"], config["id2label"]) == (0.75, {"0": "not spam", "1": "spam"})
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".safetensors"}  # no code
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


def test_a_head_of_opposite_rows_keeps_its_scores(tmp_path: Path) -> None:
    """Its logits cannot be kept without a bias, but their difference can."""
    classifier = model()
    with torch.no_grad():
        classifier.out_head.weight[1] = -classifier.out_head.weight[0]
        classifier.out_head.bias.copy_(torch.tensor([0.5, 1.5]))
    expected = SpamClassifier(classifier, tokenizer("ours")).predict_proba(TEXTS)
    scores = stock_scores(write(classifier, tmp_path / "out"), TEXTS, 8)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


UNREAD = "does not read the last token of a message (pooling is {})"


def constant_head():
    classifier = model()
    with torch.no_grad():
        classifier.out_head.weight.zero_()
    return classifier


@pytest.mark.parametrize(
    "classifier, reason",
    [
        (lambda: model(causal=False), "attends to later tokens too (causal is False)"),
        (lambda: model(pooling="first"), UNREAD.format("'first', padded_length None")),
        (lambda: model(pooling="mean"), UNREAD.format("'mean', padded_length None")),
        (lambda: model(pooling="last", padded_length=9), UNREAD.format("'last', padded_length 9")),
        (lambda: model(id2label={0: "spam"}), "has a single label, which programs take for a number to predict"),
        (constant_head, "has a head whose bias no shift of its input can replace"),
    ],
)
def test_what_gpt2_cannot_compute_is_refused(tmp_path: Path, classifier, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        write(classifier(), tmp_path / "out")
    assert str(caught.value) == f"GPT-2 cannot compute this model, which {reason}: use --format onnx."
    assert not list((tmp_path / "out").iterdir())


# GPT-2 checkpoints of others


PLAIN = ["win a prize", "a", "now " * 40]


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"pad_token_id": None}, {"pad_token_id": None, "eos_token_id": [0, 7]}])
def test_a_gpt2_classifier_is_used_as_it_is_or_imported(tmp_path: Path, changes: dict) -> None:
    """Its own class reads one message at a time, since without a pad token it refuses batches."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 20}
    shape |= {"initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    shape |= {"id2label": {0: "ham", 1: "spam", 2: "unsure"}}
    reference = GPT2ForSequenceClassification(GPT2Config(**shape | changes)).eval()
    reference.save_pretrained(tmp_path / "gpt2")
    theirs = tokenizer("as GPT-2's")
    theirs.save_pretrained(tmp_path / "gpt2")
    ids = theirs(PLAIN, truncation=True, max_length=POSITIONS)["input_ids"]
    expected = torch.cat([reference(torch.tensor([row])).logits for row in ids])
    import_weights(tmp_path / "gpt2", tmp_path / "imported")
    for folder in ("gpt2", "imported"):
        classifier = SpamClassifier.from_pretrained(tmp_path / folder, device="cpu")
        torch.testing.assert_close(classifier.logits(PLAIN), expected, atol=1e-6, rtol=1e-6)
        assert classifier.model.config.id2label == {0: "ham", 1: "spam", 2: "unsure"}
    parameters = load_classifier(tmp_path / "gpt2").parameters()
    assert all(parameter.is_contiguous() and parameter.dtype == torch.float32 for parameter in parameters)
