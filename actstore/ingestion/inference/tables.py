"""Tables of rows beside the activations: by their number of rows, or by the examples' ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actstore import paths, schema
from actstore.errors import PathError, SidecarError
from actstore.ingestion.inference.words import COLUMNS
from actstore.ingestion.sidecar_table import Record, read_records
from actstore.ingestion.source_file import Entry

_SUFFIXES: Final = (".csv", ".jsonl", ".ndjson", ".json", ".parquet")
_LARGEST: Final = 64 << 20
_MOST: Final = 6
_PLAIN_NAME: Final = re.compile(r"[^{}|\[\]]*[^{}|\[\]0-9]|[^{}|\[\]+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table beside the files."""

    path: str
    """Relative to SOURCE."""
    records: Sequence[Record]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.records)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that an expression can name."""
        names = dict.fromkeys(str(name) for record in self.records[:50] for name in record)
        return tuple(name for name in names if _PLAIN_NAME.fullmatch(name))

    def id_column(self, ids: Iterable[Any]) -> str | None:
        """Return the column that holds every one of these ids once, or None."""
        wanted = {_text(each) for each in ids}
        for name in self.columns:
            values = [_text(record.get(name)) for record in self.records]
            if len(set(values)) == len(values) and wanted and wanted <= set(values):
                return name
        return None


def tables(entries: Sequence[Entry]) -> list[Table]:
    """Return the tables among some files.

    Raises:
        PathError, SidecarError: the system cannot read one.
    """
    found: list[Table] = []
    for entry in entries:
        if not entry.relative.lower().endswith(_SUFFIXES) or entry.size > _LARGEST:
            continue
        if len(found) == _MOST:
            break
        within = (paths.real(entry.root),)
        try:
            found.append(Table(path=entry.relative, records=read_records(entry.path, None, within)))
        except (PathError, SidecarError) as error:
            if isinstance(error.__cause__, OSError):  # nobody knows what it would have joined
                raise
        except ValueError:
            pass  # no table of rows: a configuration, a log
    return found


def columns_of(names: Iterable[str]) -> dict[str, str]:
    """Return which column of the schema stands under which of some names."""
    known = {str(name).lower(): str(name) for name in reversed(list(names))}
    allowed = set(schema.metadata_names()) - {"site", "pooling", "region", "position"}
    found: dict[str, str] = {}
    for column, words in COLUMNS.items():
        for word in words:
            if word in known and column in allowed:
                found[column] = known[word]
                break
    return found


def _text(value: Any) -> str:
    return str(value).strip()
