"""What a point in a picture tells of its row."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

_CELL = 160


def hover_texts(selection: SelectedRows) -> list[str]:
    """Return what a point tells of its row: example, token, label, question, answers."""
    names = ("example_id", "position", "token_role", "label", "question", "oracle", "prediction")
    rows = selection.table(names).to_pylist()
    return [
        "\n".join(f"{name}: {_cut(str(row[name]))}" for name in names if row[name] is not None)
        for row in rows
    ]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL else line[: _CELL - 1] + "…"
