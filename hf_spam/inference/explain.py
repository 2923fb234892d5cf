"""Explain answers: how much each word of a message changes the log-odds of spam.

The contribution of a word is the change when it is left out (Li, Monroe and Jurafsky 2016, *Understanding Neural
Networks through Representation Erasure*). The message without it is classified like any other, so the numbers are
exact. Single contributions do not tell which words matter together, so the strongest words are searched for as a set.
"""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import regex
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..conversion.onnx import OnnxModel
from ..data.batching import predict_logits
from ..modeling.configuration_spam_gpt import class_names, decide, spam_index
from ..text import replace_lone_surrogates

# `findWords` of hub/spam_gpt.js has the same patterns and numbers.
UNSPACED = r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
LETTERS = rf"\p{{Script=Han}}\p{{Script=Hiragana}}\p{{Script=Katakana}}ー{UNSPACED}"
WORD = regex.compile(
    rf"[\p{{Script=Hiragana}}ー]{{1,8}}|[\p{{Script=Katakana}}ー]{{1,8}}|\p{{Script=Han}}{{1,2}}"
    rf"|(?:[{UNSPACED}]\p{{M}}*){{1,4}}|[^{LETTERS}\p{{White_Space}}]{{1,200}}"
)
SPACE = regex.compile(r"\p{White_Space}")
MAX_SPANS = 40  # parts of a message to leave out; more words than this are taken together
BEAM_WIDTH = 4  # sets of words to extend by one more


@dataclass(frozen=True)
class Word:
    """A word of a message, or several words next to each other in a long message."""

    start: int  # index of its first character in the message
    end: int  # index after its last character
    contribution: float  # log-odds of the message minus those without this word and the space before it


@dataclass(frozen=True)
class Explanation:
    """Answer for one message, and how its words changed it."""

    text: str
    label: str
    score: float  # probability of the label
    explained: str  # class whose log-odds these are: spam against the rest, or the label if no class is spam
    log_odds: float
    words: list[Word]  # all words, in the order of the message
    strongest: list[Word]  # words without which the label is least likely, the largest contribution first
    log_odds_without: float  # log-odds of the message without the strongest words


def explain(
    model: PreTrainedModel | OnnxModel, tokenizer: PreTrainedTokenizerBase, text: str, strongest: int = 3
) -> Explanation:
    """Explain the answer for a message. The other arguments and the errors are those of `predict_logits`."""
    config, names = model.config, class_names(model.config)
    logits = predict_logits(model, tokenizer, [text])
    probabilities = logits.softmax(-1)
    label = decide(config, probabilities).item()
    explained = spam_index(names) if len(names) == 2 or "spam" in map(str.lower, names) else label
    (log_odds,) = log_odds_of(logits, explained)
    read, spans, unread = split(tokenizer, text, config.max_tokens)

    # A beam search for the words that support the label most: sets of one word, of two, and so on.
    sign = 1 if explained == label else -1
    changes: dict[tuple[int, ...], float] = {(): 0.0}  # log-odds minus those without a set of spans
    beam: list[tuple[int, ...]] = [()]  # the best sets, all of one size
    for _ in range(max(1, strongest)):
        longer = sorted({tuple(sorted((*words, i))) for words in beam for i in range(len(spans)) if i not in words})
        variants = [leave_out(read, [spans[i] for i in words]) for words in longer]
        rows = {variant: row for row, variant in enumerate(dict.fromkeys(variants))}  # equal ones get equal numbers
        without = log_odds_of(predict_logits(model, tokenizer, list(rows)), explained)
        changes |= {words: log_odds - without[rows[variant]] for words, variant in zip(longer, variants, strict=True)}
        beam = sorted(longer, key=lambda words: -sign * changes[words])[:BEAM_WIDTH] or beam

    words = [Word(*span, changes[i,]) for i, span in enumerate(spans)]
    best = beam[0][:strongest]  # a set that is too large only if none is wanted
    named = [words[i] for i in sorted(best, key=lambda i: -sign * words[i].contribution)]
    words += [Word(*unread, 0.0)] if unread else []
    answer = names[label], probabilities[0, label].item(), names[explained], log_odds
    return Explanation(text, *answer, words, named, log_odds - changes[best])


def split(
    tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int
) -> tuple[str, list[tuple[int, int]], tuple[int, int] | None]:
    """Return the part of a message that the model may read, its words, and the span that it never reads.

    Words are at most `MAX_SPANS` spans, (start, end): in a long message, of several words each.
    """
    words, unread = [match.span() for match in WORD.finditer(text)], None
    clean = replace_lone_surrogates(text)
    offsets = tokenizer.backend_tokenizer.encode(clean, add_special_tokens=False).offsets if tokenizer.is_fast else []
    ends = [len(text) - len(clean) + end for _, end in offsets]  # pairs of surrogates are one character there
    if len(ends) > max_tokens:
        read = [word for word in words if word[0] < ends[max_tokens]]
        unread = (words[len(read)][0], words[-1][1]) if len(read) < len(words) else None
        last = read[-1][1] if read else 0
        # Text that moves into what the model reads, even if all these words are left out.
        needed = bisect(ends, last) + 2 * max_tokens
        words, text = read, text[: max(last, ends[min(needed, len(ends) - 1)])]
    size = max(1, -(-len(words) // MAX_SPANS))
    return text, [(words[i][0], words[i : i + size][-1][1]) for i in range(0, len(words), size)], unread


def leave_out(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return a text without some of its words, in their order, and the space before each."""
    kept, position = [], 0
    for start, end in spans:
        has_space = start > position and SPACE.match(text[start - 1])
        kept.append(text[position : start - 1 if has_space else start])
        position = end
    return "".join([*kept, text[position:]])


def log_odds_of(logits: torch.Tensor, index: int) -> list[float]:
    """Return the log-odds of a class against all others for each message, from logits (N, num_labels)."""
    logits = logits.double()
    others = logits.index_fill(-1, torch.tensor(index), -torch.inf).logsumexp(-1)
    return (logits[:, index] - others).tolist()
