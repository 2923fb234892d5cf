"""A copy of a model passes if at most one label in a thousand differs, and the threshold decides labels."""

import pytest
import torch

from hf_spam.conversion.parity import check_parity
from hf_spam.modeling.configuration_spam_gpt import SpamGPTConfig


def logits(spam_probabilities) -> torch.Tensor:
    spam = torch.tensor(spam_probabilities)
    return torch.stack([1 - spam, spam], dim=-1).log()


@pytest.mark.parametrize(
    ("messages", "differ", "passes"), [(1000, 0, True), (1000, 1, True), (1000, 2, False), (999, 1, False)]
)
def test_one_label_in_a_thousand_may_differ(messages, differ, passes):
    expected, actual = [0.2] * messages, [0.9] * differ + [0.2] * (messages - differ)
    if passes:
        report = check_parity(SpamGPTConfig(), logits(expected), logits(actual))
        assert (report["messages"], report["labels_differ"]) == (messages, differ)
    else:
        with pytest.raises(
            ValueError, match=rf"{differ} of {messages} messages get a different label, more than 0\.1%"
        ):
            check_parity(SpamGPTConfig(), logits(expected), logits(actual))


def test_labels_follow_the_threshold_and_differences_are_of_probabilities():
    expected, actual = logits([0.2, 0.6]), logits([0.2, 0.8])
    report = check_parity(SpamGPTConfig(), expected, actual)
    assert report["labels_differ"] == 0
    assert report["largest_score_difference"] == pytest.approx(0.2)
    assert report["mean_score_difference"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="1 of 2 messages"):
        check_parity(SpamGPTConfig(threshold=0.7), expected, actual)
