"""Augment training messages in every epoch: random letter case, random digits, random BPE segmentations."""

import json
import math
import random
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from ..text import replace_lone_surrogates
from .tokenization import encode


class Augmentation:
    """Encode training messages with random changes, so that the model does not learn their quirks.

    The same text and seed always give the same ids, on any machine and in any order.

    Args:
        tokenizer: The tokenizer of the model.
        case: Probability of changing a message to lower, upper or sentence case (3 : 1 : 1).
        digits: Probability of replacing every digit of a message with a random one.
        bpe_dropout: Probability of skipping a merge (see `BPEDropout`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, case: float, digits: float, bpe_dropout: float):
        self.tokenizer = tokenizer
        self.case, self.digits = case, digits
        self.bpe_dropout = BPEDropout(tokenizer, bpe_dropout) if bpe_dropout else None
        plain, marked = tokenizer("a", add_special_tokens=False)["input_ids"], encode(tokenizer, ["a"], 8)[0]
        at = marked.index(plain[0])
        self.start, self.end = marked[:at], marked[at + len(plain) :]  # tokens that the tokenizer puts around each text
        # Without BPE dropout, the tokenizer normalizes. Cached, since it takes longer than the rest.
        normalizer = tokenizer.backend_tokenizer.normalizer if bpe_dropout else None
        self.normalize = lru_cache(maxsize=2**17)(normalizer.normalize_str) if normalizer else str

    def __bool__(self) -> bool:
        return bool(self.case or self.digits or self.bpe_dropout)

    def encode(self, text: str, seed: str, max_length: int) -> list[int]:
        """Augment `text` with random choices from `seed`, and return at most `max_length` token ids."""
        rng, text = random.Random(seed), self.normalize(replace_lone_surrogates(text))
        if rng.random() < self.case:
            text = rng.choices((str.lower, str.upper, str.capitalize), (3, 1, 1))[0](text)
        if rng.random() < self.digits:
            text = re.sub("[0-9]", lambda _: rng.choice("0123456789"), text)
        if self.bpe_dropout is not None:
            room = max_length - len(self.start) - len(self.end)
            return [*self.start, *self.bpe_dropout.encode(text, rng.random, room), *self.end]
        return encode(self.tokenizer, [text], max_length)[0]


class BPEDropout:
    """Encode texts with BPE, skipping merges at random so that the model sees a word in many segmentations.

    Provilkov et al. 2020, *BPE-Dropout*. The `tokenizers` library has it too, but without a seed. Each occurrence of a
    word gets one of `VARIANTS` cached segmentations, which is several times faster than segmenting it again. `p` is the
    probability of skipping a merge.
    """

    VARIANTS = 16

    def __init__(self, tokenizer: PreTrainedTokenizerBase, p: float):
        self.pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
        self.vocab = tokenizer.get_vocab()
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges")
        if merges is None or self.pre_tokenizer is None:
            raise ValueError("bpe_dropout needs a BPE tokenizer that splits texts into words, such as GPT-2's.")
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(merges)}
        self.p = p
        self.variant = lru_cache(maxsize=2**17)(self._variant)

    def encode(self, text: str, draw: Callable[[], float], max_length: int) -> list[int]:
        """Return the first `max_length` token ids of a normalized text; `draw` returns random numbers in [0, 1)."""
        ids: list[int] = []
        for word, _ in self.pre_tokenizer.pre_tokenize_str(text):
            ids.extend(self.variant(word, int(draw() * self.VARIANTS)))
            if len(ids) >= max_length:
                break
        return ids[:max_length]

    def _variant(self, word: str, number: int) -> list[int]:
        draw = random.Random(f"{word} {number}").random
        return [self.vocab[piece] for piece in self._segment(word, draw)]

    def _segment(self, word: str, draw: Callable[[], float]) -> list[str]:
        pieces = list(word)
        ranks = [self.ranks.get(pair, math.inf) for pair in pairwise(pieces)]
        while ranks:
            # Every step draws anew for every possible merge, as in algorithm 1 of the paper.
            best, at = min(
                ((rank, i) for i, rank in enumerate(ranks) if rank < math.inf and draw() >= self.p),
                default=(math.inf, 0),
            )
            if best == math.inf:
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
            del ranks[at]
            for i in (at - 1, at):
                if 0 <= i < len(ranks):
                    ranks[i] = self.ranks.get((pieces[i], pieces[i + 1]), math.inf)
        return pieces
