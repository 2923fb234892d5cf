"""Compare the answers of two models, such as a model and its export."""

import torch

from ..modeling.configuration_spam_gpt import SpamGPTConfig, decide

TOLERANCE = 0.001  # fraction of messages whose label may differ


def check_parity(config: SpamGPTConfig, expected: torch.Tensor, actual: torch.Tensor) -> dict[str, int | float]:
    """Check that two models give at least 999 of 1000 messages the same label.

    Args:
        config: Their configuration, whose threshold decides the label.
        expected: The logits of the original model, (N, num_labels).
        actual: The logits of the copy for the same messages.

    Returns:
        The number of `messages`, how many `labels_differ`, and the `largest_score_difference` and
        `mean_score_difference` of a class's probability.

    Raises:
        ValueError: Too many labels differ.
    """
    expected, actual = expected.softmax(-1), actual.softmax(-1)
    difference = (actual - expected).abs()
    messages, labels_differ = len(expected), int((decide(config, actual) != decide(config, expected)).sum())
    if labels_differ > TOLERANCE * messages:
        raise ValueError(f"{labels_differ} of {messages} messages get a different label, more than {TOLERANCE:.1%}.")
    return {
        "messages": messages,
        "labels_differ": labels_differ,
        "largest_score_difference": difference.max().item(),
        "mean_score_difference": difference.mean().item(),
    }
