"""Read messages from Parquet files and datasets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..text import first_line
from .formats import DataError, DataFile
from .reading import Reading
from .windows import Reader, Window, check_rest, joined, rejoined, rest_of_text

TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())


class TableReader(Reader):
    """Read rows from the consecutive tables that `tables(size)` yields, each of at most `size` rows."""

    unit = "row"

    def __init__(self, name: str, reading: Reading, schema: pa.Schema | None):
        super().__init__(name, reading)
        self.schema = schema
        if schema is not None:
            self.find_columns(name, schema.names)
        if schema is None or not reading.labelled or b"huggingface" not in (schema.metadata or {}):
            return
        from datasets import ClassLabel, Features  # slow to import, and needed for labels only

        feature = Features.from_arrow_schema(schema).get(schema.names[reading.find_label(name, schema.names)])
        self.class_names = feature.names if isinstance(feature, ClassLabel) else None

    def windows(self, size: int) -> Iterator[Window]:
        rest, number = None if self.schema is None else self.schema.empty_table(), 1
        for table in self.tables(size):
            rest = table if rest is None else pa.concat_tables([rest, table])
            while rest.num_rows >= size:
                yield Window(rest.slice(0, size), range(number, number + size))
                rest, number = rest.slice(size), number + size
        if rest is not None and (number == 1 or rest.num_rows):
            yield Window(rest, range(number, number + rest.num_rows))

    def cells(self, window: Window) -> tuple[list[Any], list[Any], dict[int, str | None]]:
        table = window.rows
        texts_at, label_at = self.find_columns(self.name, table.column_names)
        try:
            table.validate(full=True)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.name}: damaged, or not UTF-8 ({first_line(error)})") from None
        labels = [] if label_at is None else table.column(label_at).to_pylist()
        if self.class_names:
            names = dict(enumerate(self.class_names))
            labels = [names.get(label, label) for label in labels]
        types = table.schema.types
        rest = [at for at in rest_of_text(table.column_names, texts_at, label_at) if types[at] in TEXT_TYPES]
        texts = [table.column(at).to_pylist() for at in (*texts_at, *rest)]
        join = rejoined if rest else joined
        if rest:
            check_rest(self.name, list(map(any, zip(*texts[1:], strict=True))))
        return texts[0] if len(texts) == 1 else list(map(join, zip(*texts, strict=True))), labels, {}


class ParquetReader(TableReader):
    """Read a Parquet file, one row group at a time."""

    def __init__(self, file: DataFile, reading: Reading):
        self.file = file
        with self._open() as parquet:
            super().__init__(file.name, reading, parquet.schema_arrow)

    def tables(self, size: int) -> Iterator[pa.Table]:
        with self._open() as parquet:
            for group in range(parquet.num_row_groups):  # not every nested type can be read across groups
                for batch in parquet.iter_batches(size, [group]):
                    yield pa.Table.from_batches([batch])

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self.file.open() as file:
            try:
                yield pq.ParquetFile(file)
            except (pa.ArrowException, KeyError, TypeError) as error:
                raise DataError(f"{self.file.name}: broken Parquet file ({first_line(error)})") from error


class DatasetReader(TableReader):
    """Read a `Dataset` or `IterableDataset` of the `datasets` library."""

    def __init__(self, name: str, dataset: Any, reading: Reading):
        super().__init__(name, reading, None if dataset.features is None else dataset.features.arrow_schema)
        self.dataset = dataset.with_format("arrow")
        split = (dataset.info.splits or {}).get(str(dataset.split))
        self.total = split.num_examples if split else None  # number of rows, if known

    def tables(self, size: int) -> Iterator[pa.Table]:
        return self.dataset.iter(size)
