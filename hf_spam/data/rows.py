"""Format scored rows as pieces of a CSV, TSV, JSON lines or Parquet file."""

import csv
import io
import json
from collections.abc import Sequence

import numpy as np

from .formats import DELIMITERS, JSON_LINES, DataError
from .windows import Reader, Strings, Table

OUTPUTS = (".csv", ".tsv", *JSON_LINES, ".parquet")


def check_output(name: str, rows: list[str] | Table, suffix: str, *, has_types: bool) -> None:
    """Raise a `DataError`, which calls the rows `name`, if an output format cannot hold them unchanged.

    `suffix` is one of `OUTPUTS`; `has_types` says whether values may have types other than string.
    """
    if suffix == ".parquet":
        import pyarrow  # noqa: F401  # fails before anything is scored
    if isinstance(rows, list):
        if suffix not in JSON_LINES:
            raise DataError(f"{name}: JSON lines may have different keys, which {suffix} cannot hold; write .jsonl")
        return
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
        check_output(reader.name, reader.table(messages.window), suffix, has_types=reader.has_types)
        if reader.file is None:
            return reader.total
        rows += len(window)
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
    """Return a table or raw JSON lines with their labels and scores as a piece of an output.

    An output consists of its pieces one after another. Those for a Parquet file are Arrow streams. Labels and scores
    are written to two new columns, called `added`: scores with as many digits as float32 needs, and `None` as an empty
    cell or null. The `first` piece starts with the header. A `DataError`, which calls the rows `name`, is raised for
    values that the format cannot hold, such as NaN in JSON.
    """
    if suffix == ".parquet":
        import pyarrow as pa

        if isinstance(rows, Strings):
            rows = pa.table([pa.array(column, pa.string()) for column in rows.columns], rows.column_names)
        table = rows.append_column(added[0], pa.array(labels, pa.string()))
        table = table.append_column(added[1], pa.array(scores, pa.float32()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()
    if suffix in DELIMITERS:
        header = [[*rows.column_names, *added]] if first else []
        answers = ["" if label is None else label for label in labels], ["" if s is None else str(s) for s in scores]
        records = zip(*rows.columns, *answers, strict=True)
        return _delimited([*header, *records], DELIMITERS[suffix]).encode()
    lines = rows if isinstance(rows, list) else _json_lines(name, rows)
    # Insert the new keys before the closing brace, and leave everything else unchanged.
    label_name, score_name = map(json.dumps, added)
    quoted = {label: json.dumps(label) for label in set(labels)}
    added = [
        f"{label_name}: {quoted[label]}, {score_name}: {'null' if score is None else str(score)}}}\n"
        for label, score in zip(labels, scores, strict=True)
    ]
    bodies = (line.strip()[:-1].rstrip() for line in lines)
    return "".join(body + ("" if body == "{" else ", ") + end for body, end in zip(bodies, added, strict=True)).encode()


def _json_lines(name: str, table: Table) -> list[str]:
    try:
        columns = table.columns if isinstance(table, Strings) else (column.to_pylist() for column in table.columns)
        rows = (dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True))
        return [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    except (TypeError, ValueError) as error:  # such as bytes, dates, NaN
        raise DataError(f"{name}: {error}, so it cannot be written as JSON; write .parquet") from None


def _delimited(records: list[Sequence[str]], delimiter: str) -> str:
    # csv.writer quotes cells that contain "\n", but not "\r", which readers also take for a line end.
    has_returns = any("\r" in cell for record in records for cell in record)
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=quoting).writerows(records)
    return text.getvalue()
