"""Measure explanations: how often the three words named first change the answer more than any other three, and time.

    OMP_NUM_THREADS=1 python scripts/measure_explanations.py

Every set of three words of a message is left out in turn. Messages are drawn from the sample. Beside the words that
`SpamClassifier.explain` names: the three with the largest contributions, and the three with the largest Shapley values
(exact, over all sets of words, so of short messages only).
"""

import math
import random
import time
from collections import Counter
from itertools import combinations

import click
import numpy as np

from hf_spam import SpamClassifier, entry
from hf_spam.data.sources import read_messages
from hf_spam.inference.explain import WORD, leave_out, log_odds_of

TOLERANCE = 1e-5  # of a float32 sum
MAX_SHAPLEY = 10  # words, whose 1,024 sets are all left out


@click.command()
@click.option("--data", default="sample", show_default=True, help="Messages: a source, as for evaluate.")
@click.option("--messages", "count", default=200, show_default=True, help="Messages of each length.")
def main(data: str, count: int) -> None:
    """Measure explanations of the bundled model on messages of 4 to 10, 11 to 25 and 26 to 32 words."""
    classifier, texts = SpamClassifier.from_pretrained(), read_messages(data, allow_single_label=True)["text"][:]
    random.Random(0).shuffle(texts)
    started = time.perf_counter()
    lengths = [len(explanation.words) for explanation in classifier.explain(texts[:count])]
    seconds = (time.perf_counter() - started) / len(lengths)
    click.echo(f"{1000 * seconds:.0f} ms a message of {np.mean(lengths):.0f} words on average")
    for low, high in ((4, 10), (11, 25), (26, 32)):
        chosen = [text for text in texts if low <= len(WORD.findall(text)) <= high][
            : count if high < 26 else count // 5
        ]
        found: Counter[str] = Counter()
        for text in chosen:
            found.update(compare(classifier, text))
        shown = ", ".join(f"{name} {100 * hits / len(chosen):.1f}" for name, hits in found.items())
        click.echo(f"{len(chosen)} messages of {low} to {high} words, % with the best three words: {shown}")


def compare(classifier: SpamClassifier, text: str) -> dict[str, bool]:
    """Return for each way to choose three words whether no other three change the answer more."""
    (explanation,) = classifier.explain(text)
    spans = [(word.start, word.end) for word in explanation.words]
    everything = range(len(spans))
    sizes = range(len(spans) + 1) if len(spans) <= MAX_SHAPLEY else range(4)
    sets = [words for size in sizes for words in combinations(everything, size)]
    logits = classifier.logits([leave_out(text, [spans[i] for i in words]) for words in sets])
    sign = 1 if explanation.label == "spam" else -1
    change = {
        words: sign * (explanation.log_odds - odds) for words, odds in zip(sets, log_odds_of(logits, 1), strict=True)
    }

    def of(*words: int) -> float:
        return change[tuple(sorted(words))]

    chosen = {
        "named": [explanation.words.index(word) for word in explanation.strongest],
        "largest contributions": sorted(everything, key=lambda i: -of(i))[:3],
    }
    if len(spans) <= MAX_SHAPLEY:
        values = shapley(change, len(spans))
        chosen["largest Shapley values"] = sorted(everything, key=lambda i: -values[i])[:3]
    best = max(value for words, value in change.items() if len(words) == 3)
    return {name: of(*words) >= best - TOLERANCE for name, words in chosen.items()}


def shapley(change: dict[tuple[int, ...], float], n: int) -> list[float]:
    """Return the Shapley value of each of n words from the changes by all sets of them."""
    values = [0.0] * n
    for words in change:
        weight = 1 / (n * math.comb(n - 1, len(words))) if len(words) < n else 0
        for i in set(range(n)) - {*words}:
            values[i] += weight * (change[tuple(sorted((*words, i)))] - change[words])
    return values


if __name__ == "__main__":
    entry.run(main, "measure_explanations.py")
