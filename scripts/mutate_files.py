"""Write data files in the many shapes that people bring, whose messages are known, and check how they are read.

    python scripts/mutate_files.py --cases 500

A case is a file with one to four mutations: another delimiter, other columns, quotes, labels or encodings, odd texts,
bad rows, damage. It is read as training data and as texts. Each must give the true messages in order, or a `DataError`
of at most three lines and 1,000 characters that names the file; where a row is bad, nothing but the error will do.
Other answers, other exceptions, hangs and the use of 3 GiB are wrong.

A refusal is never wrong but may be unfair: those of files that are clear to a person are counted and shown, and no more
than one in twenty of all answers may be.
"""

import csv
import logging
import random
import re
import resource
import signal
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from mutations import Case, Row, make_case, write

from hf_spam.data.formats import DataError
from hf_spam.data.sources import read_messages, read_texts

MESSAGES = Path(__file__).parents[1] / "tests" / "messages.csv"
SECONDS, MEMORY, LONGEST, LINES = 20, 3 * 2**30, 1000, 3
MOST_UNFAIR = 1 / 20
HAM, SPAM = {"not spam", "ham"}, {"spam"}
OUTCOMES = ("same", "refused", "unfair", "WRONG")


def stop(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def judge(case: Case, path: Path, use: str, read: Callable[[], list]) -> tuple[str, str]:
    """Return "same", "refused" or "WRONG", and what was wrong or what the error says."""
    signal.alarm(SECONDS)
    try:
        answer = read()
    except DataError as error:
        return refusal(path, str(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "WRONG", f"{type(error).__name__}, {Path(place.filename).name}:{place.lineno}: {str(error)[:150]}"
    finally:
        signal.alarm(0)
    if case.damaged is not None and case.kind == "Parquet":  # it may give any messages
        return "same", ""
    if use == "training" and "label" not in case.columns:
        return "WRONG", f"read, but cannot be right: {difference(case, use, answer)}"
    wrong = difference(case, use, answer)
    if wrong and path.suffix == ".txt" and use != "training":
        lines = [line for line in case.lines if line.strip()]  # a .txt file has a message on each line
        wrong = "" if answer == lines else wrong
    return ("WRONG", wrong) if wrong else ("same", "")


def refusal(path: Path, message: str) -> tuple[str, str]:
    if len(message) > LONGEST or message.count("\n") >= LINES:
        return "WRONG", f"error of {message.count(chr(10)) + 1} lines, {len(message)} characters: {message[:200]}"
    if path.name not in message:
        return "WRONG", f"error without the file: {message[:200]}"
    return "refused", message


def difference(case: Case, use: str, answer: list) -> str:
    """Return how an answer differs from the truth; "" if it does not."""
    skips = case.reading.get("skip_bad_rows", False)
    if case.damaged is not None:
        before, after = case.rows[: case.damaged], case.rows[case.damaged + 1 :]
        if not len(before) + len(after) <= len(answer) <= len(case.rows) + 3:
            return f"{len(answer)} of {len(case.rows)} messages, one of them damaged"
        return compare(case, before, answer[: len(before)]) or compare(case, after, answer[len(answer) - len(after) :])
    unusable = ("text", "row") if use != "training" else ("text", "row", "label")
    bad = [row for row in case.rows if row.bad in unusable]
    if not skips and any(use == "training" or row.bad == "row" for row in bad):
        return f"{len(answer)} messages, though {len(bad)} of {len(case.rows)} rows are bad"
    expected = [row for row in case.rows if row not in bad]
    wrong = compare(case, expected, answer, skips)
    if wrong and use != "training" and skips:  # rows without a label may be skipped too
        wrong = compare(case, [row for row in expected if row.bad != "label"], answer, skips)
    return wrong


def compare(case: Case, rows: list[Row], answer: list, skips: bool = False) -> str:
    found = iter([*answer, None])
    one = next(found)
    for i, row in enumerate(rows):
        if one is not None and is_right(case, row, one):
            one = next(found)
        elif "" not in row.also and not (skips and may_go(case, row)):  # "": what may be an empty text in quotes
            expected = f"expected {row.text!r:.200} ({row.label!r}), got {one!r:.200}"
            return f"{len(answer)} of {len(rows)} messages; message {i + 1}: {expected}"
    return "" if one is None else f"{len(answer)} messages for {len(rows)}; got {one!r:.120}"


def may_go(case: Case, row: Row) -> bool:
    """Return whether a row may be left out: it is damaged, has an unknown label, or seems to hold other rows."""
    return row.may_go or "unknown labels" in case.unclear or bool(re.search(r"[\r\n]\w+,", row.text))


def is_right(case: Case, row: Row, one: Any) -> bool:
    if isinstance(one, str):
        return row.has(one)
    text, label = one
    own = case.own_classes and label.strip().lower() == str(row.label).strip().lower()
    return row.has(text) and (own or label in (SPAM if row.spam else HAM))


def read_training(case: Case, path: Path) -> list:
    data = read_messages(str(path), allow_single_label=True, **case.reading)
    names = data.features["label"].names
    return [(text, names[label]) for text, label in zip(data["text"][:], data["label"][:], strict=True)]


@click.command()
@click.option("--cases", default=500, show_default=True, help="Number of files.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=int, help="Make this case alone, and show it.")
def main(cases: int, seed: int, only: int | None) -> None:
    """Print the outcomes by mutation; exit with an error if a file was read wrongly."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, stop)
    with MESSAGES.open(encoding="utf-8", newline="") as file:
        messages = [(row["text"], row["label"] == "spam") for row in csv.DictReader(file)]
    counts: dict[str, Counter] = defaultdict(Counter)
    shown: dict[str, list[str]] = {"unfair": [], "WRONG": []}
    numbers = range(cases) if only is None else [only]
    for number in numbers:
        case = make_case(random.Random(f"{seed} {number}"), messages)
        with tempfile.TemporaryDirectory() as folder:
            path = write(case, Path(folder))
            if only is not None:
                click.echo(f"{case.kinds}, {path.name} read with {case.reading}:\n{path.read_bytes()[-3000:]!r}\n")
            training = partial(read_training, case, path)
            for use, read in {"training": training, "texts": partial(read_texts, str(path), **case.reading)}.items():
                outcome, detail = judge(case, path, use, read)
                if outcome == "refused" and not case.unclear and (use == "texts" or "label" in case.columns):
                    outcome = "unfair"
                for kind in [*case.kinds, "all"]:
                    counts[kind][outcome] += 1
                if outcome in shown:
                    what = f"{outcome} case {number}, {use} ({'; '.join(case.kinds)})"
                    shown[outcome].append(f"{what}: {ascii(detail)[1:-1]:.400}")
    click.echo(f"{'mutation':44}" + "".join(f"{outcome:>8}" for outcome in OUTCOMES))
    for kind in sorted(counts, key=lambda kind: (kind == "all", kind)):
        click.echo(f"{kind:44}" + "".join(f"{counts[kind][outcome]:8}" for outcome in OUTCOMES))
    click.echo("\n".join([*shown["unfair"][:40], *shown["WRONG"][:40]]))
    if shown["WRONG"]:
        raise click.ClickException(f"{len(shown['WRONG'])} wrong readings of {len(numbers)} files.")
    if len(shown["unfair"]) > MOST_UNFAIR * counts["all"].total():
        raise click.ClickException(f"{len(shown['unfair'])} of {counts['all'].total()} answers are unfair refusals.")
    click.echo(f"{len(numbers)} files, none read wrongly.")


if __name__ == "__main__":
    main()
