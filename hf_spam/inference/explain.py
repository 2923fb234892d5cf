"""Explain answers: how much each word of a message changes the log-odds of spam.

The contribution of a word is the change when it is left out (Li, Monroe and Jurafsky 2016, *Understanding Neural
Networks through Representation Erasure*). The message without it is classified like any other, so the numbers are
exact. Single contributions do not tell which words matter together, so the strongest words are searched for as a set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
MESSAGES = 64  # messages whose variants are in memory at a time


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
    model: PreTrainedModel | OnnxModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], strongest: int = 3
) -> Iterator[Explanation]:
    """Yield the explanation of each message. The other arguments and the errors are those of `predict_logits`."""
    config, names = model.config, class_names(model.config)
    spam = spam_index(names) if len(names) == 2 or "spam" in map(str.lower, names) else None
    for start in range(0, len(texts), MESSAGES):
        chosen = texts[start : start + MESSAGES]
        logits = predict_logits(model, tokenizer, chosen)
        probabilities = logits.softmax(-1)
        labels = decide(config, probabilities).tolist()
        explained = labels if spam is None else [spam] * len(labels)
        log_odds = log_odds_of(logits, explained)
        searches = [
            _Search(*split(tokenizer, text, config.max_tokens), index, odds, 1 if index == label else -1)
            for text, label, index, odds in zip(chosen, labels, explained, log_odds, strict=True)
        ]
        for _ in range(max(1, strongest)):
            asked = [(search, words) for search in searches for words in search.longer_sets()]
            changed = [leave_out(search.text, [search.spans[i] for i in words]) for search, words in asked]
            rows = {text: row for row, text in enumerate(dict.fromkeys(changed))}  # equal texts get equal numbers
            found = predict_logits(model, tokenizer, list(rows))[[rows[text] for text in changed]]
            without = log_odds_of(found, [search.explained for search, _ in asked])
            for (search, words), odds in zip(asked, without, strict=True):
                search.changes[words] = search.log_odds - odds
            for search in searches:
                search.keep_best()
        for text, label, search, row in zip(chosen, labels, searches, probabilities, strict=True):
            answer = (text, names[label], float(row[label]), names[search.explained], search.log_odds)
            yield Explanation(*answer, search.words(), *search.strongest(strongest))


@dataclass
class _Search:
    """Beam search for the words of a message that together support its label most."""

    text: str
    spans: list[tuple[int, int]]  # start and end of each word or group of words to leave out
    unread: tuple[int, int] | None
    explained: int
    log_odds: float
    sign: int  # 1 if the log-odds are those of the label, -1 if they speak against it
    beam: list[tuple[int, ...]] = field(default_factory=lambda: [()])  # the best sets of spans found, all of one size
    changes: dict[tuple[int, ...], float] = field(default_factory=dict)  # log-odds minus those without a set of spans

    def longer_sets(self) -> list[tuple[int, ...]]:
        """Return each set of the beam with one more span."""
        everything = range(len(self.spans))
        return sorted({tuple(sorted((*words, i))) for words in self.beam for i in everything if i not in words})

    def keep_best(self) -> None:
        """Replace the beam by the best of the longer sets, unless the message has no more words."""
        longer = sorted(self.longer_sets(), key=lambda words: -self.sign * self.changes[words])
        self.beam = longer[:BEAM_WIDTH] or self.beam

    def words(self) -> list[Word]:
        """Return the spans with their contributions, and what the model does not read as one word without any."""
        words = [Word(*span, self.changes[i,]) for i, span in enumerate(self.spans)]
        return words if self.unread is None else [*words, Word(*self.unread, 0.0)]

    def strongest(self, count: int) -> tuple[list[Word], float]:
        """Return the best set, the largest contribution first, and the log-odds without it."""
        words, best = self.words(), self.beam[0][:count]  # a set that is too large only if none is wanted
        order = sorted(best, key=lambda i: -self.sign * words[i].contribution)
        return [words[i] for i in order], self.log_odds - self.changes.get(best, 0)


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
        end = ends[min(3 * max_tokens, len(ends) - 1)]
        words, text = read, text[: max([end, *(end for _, end in read[-1:])])]
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


def log_odds_of(logits: torch.Tensor, classes: Sequence[int]) -> list[float]:
    """Return the log-odds of a class of each message against all others, from logits (N, num_labels)."""
    logits, index = logits.double(), torch.tensor(classes, dtype=torch.long)[:, None]
    others = logits.scatter(-1, index, -torch.inf).logsumexp(-1)
    return (logits.gather(-1, index)[:, 0] - others).tolist()
