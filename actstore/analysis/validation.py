"""Document 002's validation: project a store's vectors on steering vectors, AUROC by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis import cells, classes, earlier, metrics, question_scores, vectors
from actstore.analysis.cells import Cell, Choice, Place
from actstore.analysis.classes import Classes
from actstore.analysis.folds import Fold
from actstore.analysis.metrics import Estimate
from actstore.analysis.probing import matching
from actstore.errors import MismatchError, TooFewRowsError, UsageError

if TYPE_CHECKING:
    from actstore.analysis.vectors import LoadedVector
    from actstore.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What one layer's vector comes to on validation data."""

    place: Place
    auroc: Estimate
    examples: int
    positives: int
    entries: list[tuple[object, ...]]
    """One for each example, in the columns of ``probe_stats_layerL.csv``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All layers."""

    layers: list[Validated]
    classes: Classes
    lineage: dict[str, Any]
    notes: list[str]


def validate(
    store: Store,
    folder: str | Path,
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    label: str = "label",
    choice: Choice | None = None,
) -> Validation:
    """Score every example by its vectors' dot product with its layer's steering vector.

    An example's score is the mean over its rows (its tokens, or its one vector). The AUROC
    is that of these means, as scikit-learn's ``roc_auc_score`` has it, with DeLong's interval.

    Args:
        store: validation data.
        folder: with ``layer_L.pt`` files, as ``actstore steer`` or document 002 write them.
        positive: value or values of ``label`` that should score high. When missing, the
            vectors' own positive class if the store has it, else the second of two.
        negative: the same for those that should score low.
        label: column with the classes.
        choice: which rows; its layers choose among the vectors.

    Raises:
        MismatchError: the vectors are for another model, site, layer or width.
        TooFewRowsError: one class only, or vectors that are not finite.
        UsageError: there are no vectors, or more than two classes and none is named.
    """
    chosen, notes = choice or Choice(), list[str]()
    loaded = vectors.load(Path(folder))
    if chosen.layers is not None:
        loaded = [one for one in loaded if one.layer in chosen.layers]
        missing = set(chosen.layers) - {one.layer for one in loaded}
        if missing:
            told = ", ".join(sorted(cells.layer_text(layer) for layer in missing))
            raise MismatchError(f"{folder} has no vector for {told}")
    everything = Choice(
        where=chosen.where, model=chosen.model, site=chosen.site, pooling=chosen.pooling
    )
    selection, values = cells.labels_of(store, everything, label)
    if positive is None and negative is None and loaded[0].lineage:
        positive = _positive(loaded[0], label, values, notes)
    sides = classes.find(label, values, positive, negative)
    rows = cells.cells(selection, sides, None, notes)
    layers = [_validated(one, _rows_for(one, rows, store, everything), sides) for one in loaded]
    lineage = {
        "store": cells.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "vectors": loaded[0].lineage,
    }
    return Validation(layers=layers, classes=sides, lineage=lineage, notes=notes)


def save(validation: Validation, out: Path) -> list[Path]:
    """Write ``probe_stats_layerL.csv`` for each layer, and ``report.json``.

    Scores that an earlier run into the same folder reported are removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    earlier.remove(out, "report.json", ("scores",))
    written = []
    for one in validation.layers:
        path = out / question_scores.file_name(one.place)
        question_scores.write(path, one.entries)
        written.append(path)
    text = json.dumps(summary(validation), indent=2, ensure_ascii=False, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    return [*written, out / "report.json"]


def summary(validation: Validation) -> list[dict[str, Any]]:
    """Return what ``report.json`` says, one entry for each layer."""
    return [
        {
            **one.place._asdict(),
            "positive": list(validation.classes.positive),
            "negative": list(validation.classes.negative),
            "rows": one.examples,
            "positives": one.positives,
            "auroc": one.auroc.value,
            "auroc_interval": [one.auroc.low, one.auroc.high],
            "scores": question_scores.file_name(one.place),
            "lineage": validation.lineage,
            "notes": validation.notes,
        }
        for one in validation.layers
    ]


def _positive(
    vector: LoadedVector, label: str, values: Sequence[object], notes: list[str]
) -> tuple[str, ...]:
    """Return the store's values that mean the vectors' own positive class."""
    own = vector.lineage["positive"]
    found = classes.alike(own, values)
    if not found or set(found) == {str(value) for value in values if value is not None}:
        there = ", ".join(sorted({str(value) for value in values if value is not None}))
        raise UsageError(
            f"the vectors point towards {' or '.join(own)}, and {label} has "
            f"{there or 'no values'}: "
            "say with --positive which of these should score high"
        )
    if set(found) != set(own):
        notes.append(f"{' or '.join(found)} is taken for the vectors' {' or '.join(own)}")
    return found


def _rows_for(vector: LoadedVector, rows: Sequence[Cell], store: Store, choice: Choice) -> Cell:
    """Return the cell that a vector is for; of vectors without origin, that of its layer."""
    if vector.place is not None:
        fitting = [cell for cell in rows if cell.place[:3] == vector.place[:3]]
        if not fitting:
            matching(store, [vector.place], choice)  # says what does not match
    else:
        fitting = [cell for cell in rows if cell.place.layer == vector.layer]
    same = [cell for cell in fitting if vector.place and cell.place.pooling == vector.place.pooling]
    fitting = same or fitting
    if not fitting:
        there = ", ".join(dict.fromkeys(cell.place.text for cell in rows))
        raise MismatchError(
            f"{vector.path} is for {cells.layer_text(vector.layer)}; {store.name} has {there}: "
            "name the layers that both have with --layers"
        )
    if len(fitting) > 1:
        there = ", ".join(cell.place.text for cell in fitting)
        raise MismatchError(
            f"{vector.path} fits several kinds of rows of {store.name}: {there}; choose with "
            "--site, --pooling or --where"
        )
    return fitting[0]


def _validated(vector: LoadedVector, cell: Cell, sides: Classes) -> Validated:
    vectors.check_width(vector, cell.selection.shape[1], f"{cell.place.text}")
    scores = cell.vectors().astype(np.float64) @ vector.vector.astype(np.float64)
    entries = question_scores.by_question(cell.table, scores, sides.column)
    positive = np.array([entry[2] in sides.positive for entry in entries])
    means = np.array([entry[3] for entry in entries], np.float64)
    if not 0 < int(positive.sum()) < len(positive):
        raise TooFewRowsError(
            f"{cell.place.text}: {int(positive.sum())} of {len(positive)} examples are "
            f"{sides.names[0]}; an AUROC needs both classes"
        )
    questions = np.array([str(entry[1] or entry[0]) for entry in entries])
    groups = np.unique(questions, return_inverse=True)[1]
    if groups.max() == 0:
        groups = np.arange(len(entries))
    everything = [Fold(np.empty(0, np.int64), np.arange(len(entries)))]
    return Validated(
        place=cell.place,
        auroc=metrics.auroc_interval(means, positive, groups, everything),
        examples=len(entries),
        positives=int(positive.sum()),
        entries=entries,
    )
