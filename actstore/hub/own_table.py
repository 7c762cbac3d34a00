"""The table of own columns that goes with a push: what `load_dataset` shows typed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from actstore.storage import card_configs, own_columns
from actstore.storage.card_configs import OwnColumns
from actstore.storage.file_hashes import sha256_of

if TYPE_CHECKING:
    import pyarrow as pa
    from huggingface_hub import CommitOperationAdd

_TYPES = {"double": "float64"}
"""What `datasets` calls Arrow's types, where by another name."""


class OwnTable(NamedTuple):
    """A file of all rows' metadata, fields of ``extra`` as columns with types."""

    file: Path
    sha256: str
    columns: OwnColumns

    def operation(self) -> CommitOperationAdd:
        """Return what puts it into a commit."""
        from huggingface_hub import CommitOperationAdd

        return CommitOperationAdd(path_in_repo=card_configs.OWN_FILE, path_or_fileobj=self.file)


def make(tables: Iterable[pa.Table], folder: Path) -> OwnTable:
    """Write the table of some shards' metadata, in their order.

    Equal rows make equal bytes, so that a second push finds the file in its place.

    Args:
        tables: all metadata columns of each shard.
        folder: temporary folder.
    """
    import pyarrow.parquet as pq

    from actstore import schema

    plain = folder / "metadata.parquet"
    own_columns.path_of(plain).unlink(missing_ok=True)
    with pq.ParquetWriter(plain, schema.metadata_schema()) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows or 1)
    made = own_columns.own_file(plain)
    file = plain if made is None else made.path
    columns = [
        (name, _TYPES.get(str(kind), str(kind))) for name, kind in own_columns.types(file).items()
    ]
    return OwnTable(file, sha256_of(file)[0], columns)
