"""Protects GPT-2 exports: the stock pipeline of transformers answers like the model."""

import pytest

from hf_spam.conversion.parity import LEFT_PADDED, RUNTIMES

pytestmark = pytest.mark.slow
BY_NAME = {(runtime.name, runtime.precision): runtime for runtime in RUNTIMES}


def test_stock_transformers_answers_like_the_model(agreement):
    result = agreement(BY_NAME["transformers", "fp32"])
    assert result["labels_differ"] == 0 and result["largest_score_difference"] < 1e-5
    # The stock tokenizer refuses lone surrogates, and the stock model counts pads on the left as positions.
    assert result["not_answered"] == ["lone surrogate"] and result["answered_differently"] == [LEFT_PADDED]
