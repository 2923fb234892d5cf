"""A batch is a rectangle of ids, padded on the right, with a mask that says what is real."""

from itertools import chain, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_spam.data.batching import EncodedMessages, PadRight, token_batches


def test_batch():
    messages = EncodedMessages([[5, 6, 7], [], [8]], [1, 0, 1])
    batch = PadRight(pad_token_id=9)([messages[i] for i in range(len(messages))])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_only_empty_messages_and_no_labels():
    batch = PadRight(pad_token_id=9)([{"input_ids": []}, {"input_ids": []}])
    assert batch["input_ids"].tolist() == [[9], [9]] and batch["attention_mask"].tolist() == [[0], [0]]
    assert "labels" not in batch


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_batches_by_tokens(lengths, batch_tokens):
    """Each message once, by length, and never more tokens than asked for, but for one that is longer by itself."""
    batches = list(token_batches(lengths, batch_tokens))
    order = list(chain(*batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths)
    assert all(len(batch) == 1 or len(batch) * max(1, lengths[batch[-1]]) <= batch_tokens for batch in batches)
    for batch, following in pairwise(batches):  # it was full
        assert (len(batch) + 1) * max(1, lengths[following[0]]) > batch_tokens
