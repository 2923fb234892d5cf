"""Batches grouped by length lose no messages; test_loop.py checks the order of the others."""

import torch

from hf_spam.training.loaders import SeededShuffle


def test_batches_grouped_by_length_pad_less_and_lose_no_message():
    lengths = [(7 * i) % 50 + 1 for i in range(640)]
    sampler = SeededShuffle(640, 8, torch.Generator().manual_seed(0), lengths)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == list(range(640)) and first != second

    def padded(order):
        return sum(8 * max(lengths[i] for i in order[start : start + 8]) for start in range(0, 640, 8))

    assert padded(first) < 1.15 * sum(lengths) < padded(range(640))
    # The loader drops the last short batch, so the messages of an incomplete batch must not come before whole ones.
    short = list(SeededShuffle(21, 8, torch.Generator().manual_seed(0), lengths))
    assert len(short) == len(set(short)) == 16
