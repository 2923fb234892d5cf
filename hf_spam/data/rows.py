"""Format scored rows as pieces of a CSV, TSV, JSON lines or Parquet file."""

import csv
import io
import json
from itertools import chain

import numpy as np

from .formats import DELIMITERS, JSON_LINES, DataError
from .windows import Reader, Strings, Table

OUTPUTS = (".csv", ".tsv", *JSON_LINES, ".parquet")


def check_output(name: str, rows: list[str] | Table, suffix: str) -> None:
    """Raise a `DataError`, which calls the rows `name`, if an output format cannot hold them unchanged."""
    if suffix == ".parquet":
        import pyarrow  # noqa: F401  # fails before anything is scored
    if isinstance(rows, list):
        if suffix not in JSON_LINES:
            raise DataError(f"{name}: JSON lines may have different keys, which {suffix} cannot hold; write .jsonl")
        return
    has_types = not isinstance(rows, Strings)
    if suffix in DELIMITERS:
        if has_types:
            raise DataError(f"{name}: {suffix} cannot hold types and nulls; write .parquet or .jsonl")
        return
    for column in rows.column_names:
        if rows.column_names.count(column) > 1:
            raise DataError(f"{name}: {suffix} cannot hold two columns called {column!r}; write .csv")
    if suffix in JSON_LINES and has_types:
        _json_lines(name, rows)


def check_input(reader: Reader, window_size: int, suffix: str) -> int | None:
    """Check a whole file, or the first window of a Hub dataset, before scoring starts; return the number of rows."""
    rows = 0
    for window in reader.windows(window_size):
        messages = reader.messages(window)
        check_output(reader.name, reader.table(messages.window), suffix)
        if reader.file is None:
            return reader.total
        rows += len(messages.texts) + len(messages.left_out)
    reader.file.check_unchanged()
    return rows


def format_rows(
    name: str,
    rows: list[str] | Table,
    added: tuple[str, str],
    labels: list[str | None],
    scores: list[np.float32 | None],
    suffix: str,
    *,
    first: bool,
) -> bytes:
    """Return a table or raw JSON lines as a piece of an output, with labels and scores in two columns `added`.

    An output consists of its pieces one after another, and the `first` one starts with the header; those for a Parquet
    file are Arrow streams. Scores have as many digits as float32 needs, and `None` is an empty cell or null.
    """
    if suffix == ".parquet":
        import pyarrow as pa

        if isinstance(rows, Strings):
            schema = pa.schema([(column, pa.string()) for column in rows.column_names])
            rows = pa.Table.from_pylist(rows.to_pylist(), schema)
        table = rows.append_column(added[0], pa.array(labels, pa.string()))
        table = table.append_column(added[1], pa.array(scores, pa.float32()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()
    if suffix in DELIMITERS:
        # csv.writer quotes cells that contain "\n", but not "\r", which readers also take for a line end.
        has_returns = any("\r" in cell for cell in chain(rows.column_names, *rows.rows))
        quoting = csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=DELIMITERS[suffix], lineterminator="\n", quoting=quoting)
        if first:
            writer.writerow([*rows.column_names, *added])
        writer.writerows((*row, label, score) for row, label, score in zip(rows.rows, labels, scores, strict=True))
        return text.getvalue().encode()
    lines = rows if isinstance(rows, list) else _json_lines(name, rows)
    # Insert the new keys before the closing brace, and leave everything else unchanged.
    label_name, score_name = map(json.dumps, added)
    quoted = {label: json.dumps(label) for label in set(labels)}
    scored = []
    for line, label, score in zip(lines, labels, scores, strict=True):
        body = line.strip()[:-1].rstrip()
        comma, number = "" if body == "{" else ", ", "null" if score is None else str(score)
        scored.append(f"{body}{comma}{label_name}: {quoted[label]}, {score_name}: {number}}}\n")
    return "".join(scored).encode()


def _json_lines(name: str, table: Table) -> list[str]:
    try:
        return [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table.to_pylist()]
    except (TypeError, ValueError) as error:  # such as bytes, dates, NaN
        raise DataError(f"{name}: {error}, so it cannot be written as JSON; write .parquet") from None
