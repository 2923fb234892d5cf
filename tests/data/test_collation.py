"""A batch is a rectangle of ids, padded on the right, with a mask that says what is real."""

import torch

from hf_spam.data.collation import EncodedMessages, PadRight


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
