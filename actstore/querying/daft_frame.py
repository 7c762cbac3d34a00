"""Selected rows as a Daft frame: a task for each portion, which reads it from the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import daft
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch

from actstore.querying import tables
from actstore.querying.portions import Portion, portions

if TYPE_CHECKING:
    from daft.io.pushdowns import Pushdowns

    from actstore.querying.selected import SelectedRows


def frame(rows: SelectedRows, columns: Sequence[str] | None) -> daft.DataFrame:
    """Return rows as a lazy frame, see ``Selection.to_daft``."""
    parts = portions(rows, columns)
    none = tables.to_arrow(rows.at(rows.rows[:0]), columns, vectors=True)
    return _Selected(parts, daft.Schema.from_pyarrow_schema(none.schema)).read()


class _Selected(DataSource):
    """Portions of selected rows."""

    def __init__(self, parts: list[Portion], schema: daft.Schema) -> None:
        self._parts = parts
        self._schema = schema

    @property
    def name(self) -> str:
        return "actstore"

    @property
    def schema(self) -> daft.Schema:
        return self._schema

    async def get_tasks(self, pushdowns: Pushdowns) -> AsyncIterator[DataSourceTask]:
        for part in self._parts:
            yield _Read(part, self._schema)


class _Read(DataSourceTask):
    """Reads one portion."""

    def __init__(self, part: Portion, schema: daft.Schema) -> None:
        self._part = part
        self._schema = schema

    @property
    def schema(self) -> daft.Schema:
        return self._schema

    async def read(self) -> AsyncIterator[RecordBatch]:
        yield RecordBatch.from_arrow_table(self._part.table())
