"""Texts are batched by length, and the batches do not change their logits."""

from itertools import chain, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import MESSAGES
from tiny_models import build

from hf_spam import load_sms_spam
from hf_spam.data import batching
from hf_spam.data.batching import EncodedMessages, PadRight, length_batches, pad_batch, predict_logits
from hf_spam.data.tokenization import train_tokenizer


def test_a_batch_is_padded_on_the_right():
    messages = EncodedMessages([[5, 6, 7], [], [8]], [1, 0, 1])
    batch = PadRight(pad_token_id=9)([messages[i] for i in range(len(messages))])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert {name: tensor.tolist() for name, tensor in pad_batch([[], []], 9).items()} == {
        "input_ids": [[9], [9]],
        "attention_mask": [[0], [0]],
    }


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_similar_lengths_and_not_too_many_tokens(lengths, batch_tokens):
    """Every message occurs once, batches are full, and a message over the limit is alone."""
    batches = list(length_batches(lengths, batch_tokens))
    order = list(chain(*batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths)
    assert all(len(batch) == 1 or len(batch) * max(1, lengths[batch[-1]]) <= batch_tokens for batch in batches)
    for batch, following in pairwise(batches):
        assert (len(batch) + 1) * max(1, lengths[following[0]]) > batch_tokens


@pytest.mark.parametrize("padded_length", [None, 9])
def test_logits_match_each_text_alone_and_keep_the_order(padded_length, monkeypatch):
    """The size of the batches does not matter."""
    texts = ["", "b " * 100, *load_sms_spam(MESSAGES)["train"]["text"][:20]]
    tokenizer = train_tokenizer(texts, 300)
    model = build(vocab_size=300, pad_token_id=tokenizer.pad_token_id, padded_length=padded_length, num_labels=3)
    alone = torch.cat([predict_logits(model, tokenizer, [text]) for text in texts])
    for batch_tokens in (1, 50, 10_000):
        monkeypatch.setattr(batching, "batch_tokens_for", lambda *_, size=batch_tokens: size)
        together = predict_logits(model, tokenizer, texts)
        assert together.shape == (22, 3) and torch.allclose(together, alone, atol=1e-5)
    assert predict_logits(model, tokenizer, []).shape == (0, 3)
    with torch.no_grad():
        model.out_head.bias[0] = torch.nan
    with pytest.raises(ValueError, match="The model returned NaN or infinite logits: its weights are damaged"):
        predict_logits(model, tokenizer, texts)
