"""Measure the recipe `corrections`: ten messages that the bundled model got wrong, and what learning them changes.

    python scripts/measure_corrections.py --uci SMSSpamCollection india_promotions.tsv philippines.tsv

Draws corrections from the files, and from the held-out messages of the sample, and trains on each draw. The table in
docs/training.md comes from this script.
"""

import random
import re
from functools import partial

import click
import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_spam import SpamClassifier, entry, finetune
from hf_spam.data.duplicates import find_duplicates
from hf_spam.data.sources import read_messages
from hf_spam.training.corrections import divide

HOST = re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|info|co|uk|in|ph|me|ly|xyz|top|site|app|shop|id)\b", re.I)
NAMES = ["Maria", "James", "Ahmed", "Wei", "Elena", "Tom", "Priya", "Carlos", "Anna", "David", "Fatima", "Kofi"]
WORDS = ["today", "please", "order", "friend", "house", "update", "school", "number", "garden", "window", "music"]


@click.command()
@click.option("--uci", default="uci", show_default=True, help="The SMS Spam Collection: uci, or its file.")
@click.option("--draws", default=10, show_default=True, help="Draws from the files, and from the sample.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True))
def main(uci: str, draws: int, files: tuple[str, ...]) -> None:
    """Correct the bundled model by ten messages a draw: five misses and five false alarms."""
    base = SpamClassifier.from_pretrained()
    _, held_out = divide(read_messages("sample"))
    given, collection = read_messages(list(files)), read_messages(uci)
    before = [right(base, part) for part in (held_out, collection)]
    click.echo("| corrections | right, of 10 | near-duplicates right, % | sample, held out: accuracy | false alarms | "
               "collection: accuracy | false alarms | kept, % |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name, pool in (("of the files", given), ("of the sample", held_out)):
        is_right = right(base, pool)
        wrong = [np.flatnonzero(~is_right & (np.array(pool["label"][:]) == label)).tolist() for label in (0, 1)]
        rows = []
        for draw in range(draws):
            rng = random.Random(draw)
            chosen = pool.select([row for rows in wrong for row in rng.sample(rows, 5)])
            variants = near_duplicates(chosen, rng)
            run = finetune("corrections", data=chosen, seed=draw)
            model = SpamClassifier(run.model, run.tokenizer)
            changes = []
            for part, old in zip((held_out, collection), before, strict=True):
                new, kept = right(model, part), ~find_duplicates(part["text"][:], chosen["text"][:])[1]
                kept_ham = kept & (np.array(part["label"][:]) == 0)
                changes += [100 * (new[kept].mean() - old[kept].mean())]
                changes += [100 * (old[kept_ham].mean() - new[kept_ham].mean())]
            found = [100 * right(one, variants).mean() for one in (base, model)]
            rows.append([right(model, chosen).sum(), *found, *changes, 100 * run.history.kept])
            click.echo(f"{name}, draw {draw}: {np.round(rows[-1], 2).tolist()}", err=True)
        table = np.array(rows)
        mean = table.mean(0)
        spread = [f"{mean[i]:+.2f} ({table[:, i].min():+.2f} to {table[:, i].max():+.2f})" for i in range(3, 7)]
        cells = [f"{mean[0]:.1f} (at least {table[:, 0].min():.0f})", f"{mean[2]:.0f}, {mean[1]:.0f} before", *spread]
        click.echo(f"| {name} | {' | '.join(cells)} | {mean[7]:.0f} |")


def right(classifier: SpamClassifier, messages: Dataset) -> np.ndarray:
    """Return whether each message is classified correctly."""
    return (np.array(classifier.predict(messages["text"][:])) == "spam") == np.array(messages["label"][:])


def near_duplicates(messages: Dataset, rng: random.Random) -> Dataset:
    """Return six variants of each message: another amount or date, host, name, word, and several of these."""

    def digits(text: str) -> str:
        return re.sub(r"\d", lambda _: rng.choice("0123456789"), text)

    def host(text: str) -> str:
        other = "".join(rng.choice("abcdefghijklmnoprstuvwy") for _ in range(rng.randint(4, 9)))
        return HOST.sub(other + rng.choice((".com", ".net", ".info", ".xyz")), text)

    def replace(pattern: str, others: list[str], text: str) -> str:
        found = list(re.finditer(pattern, text))
        if not found:
            return text
        start, end = rng.choice(found).span()
        return text[:start] + rng.choice(others) + text[end:]

    name, word = partial(replace, r"\b[A-Z][a-z]{2,}\b", NAMES), partial(replace, r"\b[^\W\d_]{3,}\b", WORDS)
    parts = []
    for changes in ((digits,), (digits, host), (digits, name), (word,), (digits, host, word), (digits, name, word)):
        texts = messages["text"][:]
        for change in changes:
            texts = list(map(change, texts))
        kept = [i for i, text in enumerate(texts) if text != messages[i]["text"]]
        parts.append(Dataset.from_dict({"text": [texts[i] for i in kept], "label": messages.select(kept)["label"][:]}))
    return concatenate_datasets(parts)


if __name__ == "__main__":
    entry.run(main, "measure_corrections.py")
