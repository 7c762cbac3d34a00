"""Stores and selections as small HTML tables, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from actstore.wording import counted, escaped

if TYPE_CHECKING:
    from actstore.querying.info import StoreInfo
    from actstore.querying.selected import SelectedRows

_ROWS = 10
_CELL = 80


def store_html(found: StoreInfo) -> str:
    """Return what a store holds: one line, and a table of its models, sites and layers."""
    labels = ", ".join(
        f"{'none' if name is None else name} {rows:,}"
        for name, rows in list(found.labels.items())[:_ROWS]
    )
    more = ", …" if len(found.labels) > _ROWS else ""
    if found.skipped:
        more += f"; without {counted(len(found.skipped), 'damaged shard')}"
    parts = [
        (
            *(part.model, part.site, part.pooling, part.region),
            *(part.layer, part.width, part.dtype, part.rows),
        )
        for part in found.partitions[:_ROWS]
    ]
    return _page(
        f"Store {found.path}",
        f"{counted(found.rows)}, commit {found.commit}; labels: {labels or 'none'}{more}",
        ("model", "site", "pooling", "region", "layer", "width", "dtype", "rows"),
        parts,
        len(found.partitions) - len(parts),
    )


def selection_html(selection: SelectedRows) -> str:
    """Return a selection in one line, and the metadata of its first rows."""
    table = selection[: min(_ROWS, len(selection))].table()
    shown = [
        name
        for name in table.column_names
        if table[name].null_count < table.num_rows and name not in _UNTOLD
    ]
    rows = table.select(shown).to_pylist()
    return _page(
        repr(selection),
        "",
        shown,
        [tuple(row.values()) for row in rows],
        len(selection) - len(rows),
    )


_UNTOLD = frozenset({"run_id", "captured_at", "source", "extra"})


def _page(
    title: str, text: str, header: Sequence[str], rows: Iterable[Sequence[object]], left: int
) -> str:
    head = "".join(f"<th>{escaped(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    told = f"<p>{escaped(text)}</p>" if text else ""
    more = f"<p>… and {left:,} more</p>" if left > 0 else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f"<div><p><b>{escaped(title)}</b></p>{told}{table}{more}</div>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return escaped(text if len(text) <= _CELL else text[: _CELL - 1] + "…")
