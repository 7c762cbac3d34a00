"""Selected rows as a Ray Dataset: a task for each portion, which reads it from the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.extensions import ArrowTensorArray

from actstore import schema
from actstore.querying.portions import Portion, portions

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.querying.selected import SelectedRows


def dataset(rows: SelectedRows, columns: Sequence[str] | None) -> ray.data.Dataset:
    """Return rows as a data set, see ``Selection.to_ray``."""
    found: ray.data.Dataset = ray.data.read_datasource(_Selected(portions(rows, columns)))
    return found


class _Selected(Datasource):
    """Portions of selected rows."""

    def __init__(self, parts: list[Portion]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        self._parts = parts

    def get_name(self) -> str:
        return "actstore"

    def estimate_inmemory_data_size(self) -> int | None:
        return sum(part.size for part in self._parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_blocks, part),
                BlockMetadata(
                    num_rows=len(part.rows),
                    size_bytes=part.size,
                    input_files=None,
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for part in self._parts
        ]


def _blocks(part: Portion) -> Iterable[pa.Table]:
    """Read a portion, its vectors as a column of tensors."""
    table = part.table()
    at = table.column_names.index(schema.VECTOR)
    column = table.column(at).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    matrix = flat.reshape(table.num_rows, column.type.list_size)
    yield table.set_column(at, schema.VECTOR, ArrowTensorArray.from_numpy(matrix))
