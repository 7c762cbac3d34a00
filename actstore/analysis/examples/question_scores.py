"""Scores by question, in the columns that document 002's own code reads."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.analysis.examples.place_rows import ActivationPlace, layer_word
from actstore.storage import unfinished

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    *("question_id", "question", "type"),
    *("mean_score", "max_score", "min_score", "std_score"),
)
_OF_EXAMPLE = tuple(name for name in schema.key_names() if name != "position")


def examples(table: pa.Table, column: str) -> np.ndarray:
    """Return the number of each row's example and class, int64 ``[rows]``.

    Args:
        table: metadata of the rows.
        column: the one that holds the class.
    """
    names = [name for name in _OF_EXAMPLE if name in table.column_names]
    keys = zip(*(table[name].to_pylist() for name in names), strict=True)
    types = table[column].cast("string").to_pylist()
    numbers: dict[object, int] = {}
    return np.array(
        [
            numbers.setdefault((key, kind), len(numbers))
            for key, kind in zip(keys, types, strict=True)
        ],
        np.int64,
    )


def by_question(table: pa.Table, scores: np.ndarray, column: str) -> list[tuple[object, ...]]:
    """Return one entry for each example, its tokens taken together.

    Args:
        table: metadata of the rows.
        scores: ``[rows]``.
        column: the one that holds the class.

    Returns:
        In the order of :data:`COLUMNS` and of :func:`examples`; the deviation is that of the
        example's own rows.
    """
    codes = examples(table, column)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    if not len(order):
        return []
    ordered = scores[order].astype(np.float64)
    counts = np.diff(np.append(starts, len(order)))
    means = np.add.reduceat(ordered, starts) / counts
    offsets = np.square(ordered - np.repeat(means, counts))
    deviations = np.sqrt(np.add.reduceat(offsets, starts) / counts)
    highest, lowest = np.maximum.reduceat(ordered, starts), np.minimum.reduceat(ordered, starts)
    first = order[starts]
    named = table["example_id"].take(first).to_pylist()
    questions = table["question"].take(first).to_pylist()
    types = table[column].cast("string").take(first).to_pylist()
    return list(
        zip(
            *(named, questions, types),
            *(means.tolist(), highest.tolist(), lowest.tolist(), deviations.tolist()),
            strict=True,
        )
    )


def write(
    path: Path, entries: list[tuple[object, ...]], columns: tuple[str, ...] = COLUMNS
) -> None:
    """Write entries as CSV with a header; nulls are empty."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(entries)
    unfinished.write_text(path, sink.getvalue())


def file_name(place: ActivationPlace) -> str:
    """Return ``probe_stats_layer6.csv``, of several layers ``probe_stats_layers_5_10_15.csv``."""
    word = f"layer{layer_word(place.layer)}" if place.layers is None else place.file_word
    return f"probe_stats_{word}.csv"


def folders(places: list[ActivationPlace]) -> dict[ActivationPlace, str]:
    """Return where each place's files go: nowhere special, unless layers occur repeatedly."""
    # Embeddings, numbered -1, lie beside the residual stream of the other layers.
    if len({place.layer for place in places}) == len(places):
        return dict.fromkeys(places, "")
    found = {}
    for place in places:
        words = [place.site, place.pooling, *([place.region] if place.region else [])]
        found[place] = "-".join(plain(word) for word in words)
    return found


def plain(word: str) -> str:
    """Return a word as a folder may be called."""
    return "".join(c if c.isalnum() or c in "._" else "_" for c in word).lstrip(".") or "_"
