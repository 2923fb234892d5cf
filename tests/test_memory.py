"""Freed memory is kept for later tensors."""

import platform
import resource
from itertools import pairwise

import pytest
import torch

from hf_spam.memory import keep_freed_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc")
def test_the_memory_of_a_freed_tensor_is_used_again():
    """A new block of the system would each time cost a page fault for each of its 16,384 pages."""
    keep_freed_memory()
    counts = []
    for _ in range(6):
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        torch.ones(2**24)
    assert min(after - before for before, after in pairwise(counts)) < 1000
