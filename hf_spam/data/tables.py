"""Read messages from Parquet files and datasets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..text import first_line
from .formats import DataError, DataFile
from .reading import Reading
from .windows import Reader, Window, joined, rejoined, rest_of_text


class TableReader(Reader):
    """Read rows from consecutive tables."""

    unit, has_types = "row", True

    def tables(self, size: int) -> Iterator[pa.Table]:
        """Yield at least one table, each of at most `size` rows."""
        raise NotImplementedError

    def windows(self, size: int) -> Iterator[Window]:
        rest, number = None, 1
        for table in self.tables(size):
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= size:
                yield Window(rest.slice(0, size), range(number, number + size))
                rest, number = rest.slice(size), number + size
        if rest is not None and (number == 1 or rest.num_rows):
            yield Window(rest, range(number, number + rest.num_rows))

    def cells(self, window: Window) -> tuple[list[Any], list[Any], dict[int, str | None]]:
        table = window.rows
        texts_at, label_at = self.reading.find(self.name, table.column_names)
        self._know_columns(table.column_names, texts_at, label_at)
        for column, kind in ((table.column_names[at], table.schema.types[at]) for at in texts_at):
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
            if not (is_text or pa.types.is_null(kind)):
                raise DataError(f"{self.name}: the text column {column!r} holds {kind}, not strings; see --text-column")
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: damaged, or not UTF-8 ({first_line(error)})") from None
        labels = [] if label_at is None else table.column(label_at).to_pylist()
        if self.class_names:
            names = dict(enumerate(self.class_names))
            labels = [names.get(label, label) for label in labels]
        rest = rest_of_text(table.column_names, texts_at)
        texts = [table.column(at).to_pylist() for at in (*texts_at, *rest)]
        join = rejoined if rest else joined
        return texts[0] if len(texts) == 1 else list(map(join, zip(*texts, strict=True))), labels, {}

    def table(self, window: Window) -> pa.Table:
        return window.rows

    def _find_class_names(self, schema: pa.Schema) -> None:
        if not self.reading.labelled or b"huggingface" not in (schema.metadata or {}):
            return
        from datasets import ClassLabel, Features  # slow to import, and needed for labels only

        feature = Features.from_arrow_schema(schema).get(schema.names[self.reading.find_label(self.name, schema.names)])
        self.class_names = feature.names if isinstance(feature, ClassLabel) else None


class ParquetReader(TableReader):
    """Read a Parquet file, one row group at a time."""

    def __init__(self, file: DataFile, reading: Reading):
        super().__init__(file.name, reading)
        self.file = file
        with self._open() as parquet:
            self.total = parquet.metadata.num_rows
            self._find_class_names(parquet.schema_arrow)

    def tables(self, size: int) -> Iterator[pa.Table]:
        with self._open() as parquet:
            yield parquet.schema_arrow.empty_table()
            for group in range(parquet.num_row_groups):  # not every nested type can be read across groups
                for batch in parquet.iter_batches(size, [group]):
                    yield pa.Table.from_batches([batch])

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self.file.open() as file:
            try:
                yield pq.ParquetFile(file)
            except (pa.ArrowException, KeyError, TypeError) as error:
                raise DataError(f"{self.name}: broken Parquet file ({first_line(error)})") from error


class DatasetReader(TableReader):
    """Read a `Dataset` or `IterableDataset` of the `datasets` library."""

    def __init__(self, name: str, dataset: Any, reading: Reading):
        super().__init__(name, reading)
        self.dataset = dataset.with_format("arrow")
        self.schema = None if dataset.features is None else dataset.features.arrow_schema
        split = (dataset.info.splits or {}).get(str(dataset.split))
        self.total = split.num_examples if split else None
        if self.schema is not None:
            self._find_class_names(self.schema)

    def tables(self, size: int) -> Iterator[pa.Table]:
        if self.schema is not None:
            yield self.schema.empty_table()
        yield from self.dataset.iter(size)
