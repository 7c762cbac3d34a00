"""Document 002's validation: project a store's vectors on steering vectors, AUROC by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis.examples import (
    classes,
    lineages,
    place_rows,
    previous_report,
    question_scores,
)
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.lineages import InSample
from actstore.analysis.examples.matching import mismatch
from actstore.analysis.examples.place_rows import ActivationPlace, PlaceRows, RowChoice
from actstore.analysis.statistics import metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.analysis.steering import vector_files
from actstore.errors import MismatchError, TooFewRowsError, UsageError
from actstore.storage import unfinished

if TYPE_CHECKING:
    from actstore.analysis.steering.vector_files import LoadedVector
    from actstore.querying.reader import StoreReader


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """Figures of one layer's vector on validation data."""

    place: ActivationPlace
    """Of the rows; pooling and region may differ from the vector's where that was asked for."""
    made_for: ActivationPlace | None
    """Of the vector; None where its file does not say."""
    auroc: IntervalEstimate
    examples: int
    positives: int
    groups: int
    """Groups of examples that belong together; the interval counts these."""
    in_sample: InSample
    entries: list[tuple[object, ...]]
    """One for each example, in the columns of ``probe_stats_layerL.csv``; where training rows
    are shown, whether it is one of them stands last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """All layers."""

    layers: list[Validated]
    classes: Classes
    lineage: dict[str, Any]
    notes: list[str]


def validate(
    store: StoreReader,
    folder: str | Path,
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    label: str = "label",
    choice: RowChoice | None = None,
    group_by: str | None = None,
    in_sample: bool = False,
    other_pooling: bool = False,
) -> Validation:
    """Score every example by its vectors' dot product with its layer's steering vector.

    An example's score is the mean over its rows (its tokens, or its one vector). The AUROC
    is that of these means, as scikit-learn's ``roc_auc_score`` has it, with DeLong's interval.
    Rows that the vectors were made of are left out
    (see :mod:`actstore.analysis.examples.lineages`).

    Args:
        store: validation data.
        folder: with ``layer_L.pt`` files, as ``actstore steer`` or document 002 write them.
        positive: value or values of ``label`` that should score high. When missing, the
            vectors' own positive class if the store has it, else the second of two.
        negative: the same for those that should score low.
        label: column with the classes.
        choice: which rows; its layers choose among the vectors.
        group_by: which rows belong together where the interval counts groups, as for probes;
            what the vectors' making kept together when missing, where the rows have it.
        in_sample: keep the rows that the vectors were made of; the figures then flatter,
            and everything that shows them says so.
        other_pooling: project rows of another pooling or region than the vectors'.

    Raises:
        MismatchError: the vectors are for another model, site, layer, pooling, region or
            width.
        TooFewRowsError: no row is left, one class only, or vectors that are not finite.
        UsageError: there are no vectors, or more than two classes and none is named.
    """
    chosen, notes = choice or RowChoice(), list[str]()
    loaded = vector_files.load(Path(folder))
    if chosen.layers is not None:
        loaded = [one for one in loaded if one.layer in chosen.layers]
        missing = set(chosen.layers) - {one.layer for one in loaded}
        if missing:
            told = ", ".join(sorted(place_rows.layer_text(layer) for layer in missing))
            raise MismatchError(f"{folder} has no vector for {told}")
    everything = RowChoice(
        where=chosen.where, model=chosen.model, site=chosen.site, pooling=chosen.pooling
    )
    selection, values = place_rows.rows_and_labels(store, everything, label)
    if positive is None and negative is None and loaded[0].lineage:
        positive = _positive(loaded[0], label, values, notes)
    sides = classes.find(label, values, positive, negative)
    if group_by is None:
        group_by = lineages.kept_together(loaded[0].lineage, selection, notes)
    by_place = place_rows.by_place(selection, sides, group_by, notes)
    layers = []
    for one in loaded:
        rows = _rows_for(one, by_place, store, other_pooling)
        own = lineages.own_rows(rows.selection, store, one.made_of, one.lineage, one.place)
        counted = lineages.count(own, shown=in_sample, place=rows.place, what="vector")
        if own is not None and not in_sample:
            rows, own = rows.part(~own), None
        layers.append(_validated(one, rows, sides, counted, own))
    notes += [*lineages.notes([one.in_sample for one in layers], "vector"), *_elsewhere(layers)]
    if len(layers) > 1:
        notes.append(
            f"each interval is of its layer alone: of {len(layers)} layers that tell nothing apart "
            "one in twenty leaves out 0.5, and the largest AUROC of several is optimistic"
        )
    lineage = {
        "store": place_rows.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "group_by": by_place[0].grouping.grouped_by,
        "in_sample": in_sample,
        "other_pooling": other_pooling,
        "vectors": loaded[0].lineage,
    }
    return Validation(layers=layers, classes=sides, lineage=lineage, notes=notes)


def save(validation: Validation, out: Path) -> list[Path]:
    """Write ``probe_stats_layerL.csv`` for each layer, and ``report.json``.

    Scores that an earlier run into the same folder reported are removed.
    """
    out.mkdir(parents=True, exist_ok=True)
    previous_report.remove(out, "report.json", ("scores",))
    written = []
    for one in validation.layers:
        path = out / question_scores.file_name(one.place)
        marked = one.in_sample.shown and one.in_sample.rows is not None
        columns = (*question_scores.COLUMNS, "in_sample") if marked else question_scores.COLUMNS
        question_scores.write(path, one.entries, columns)
        written.append(path)
    text = json.dumps(summary(validation), indent=2, ensure_ascii=False, allow_nan=False)
    unfinished.write_text(out / "report.json", text + "\n")
    return [*written, out / "report.json"]


def summary(validation: Validation) -> list[dict[str, Any]]:
    """Return what ``report.json`` says, one entry for each layer."""
    return [
        {
            **one.place.named,
            "positive": list(validation.classes.positive),
            "negative": list(validation.classes.negative),
            "rows": one.examples,
            "positives": one.positives,
            "groups": one.groups,
            "grouped_by": validation.lineage["group_by"],
            "made_for": None if one.made_for is None else one.made_for.named,
            **one.in_sample.summary,
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
    found = classes.alike(own, values, vector.lineage.get("negative", ()))
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


def _rows_for(
    vector: LoadedVector, by_place: Sequence[PlaceRows], store: StoreReader, other_pooling: bool
) -> PlaceRows:
    """Return the rows of a vector's place; without a recorded place, those of its layer."""
    if vector.place is not None:
        fitting = [rows for rows in by_place if rows.place == vector.place]
        if not fitting and other_pooling:
            fitting = [rows for rows in by_place if rows.place[:3] == vector.place[:3]]
        if not fitting:
            wrong = mismatch(vector.place, [rows.place for rows in by_place], store.name)
            near = any(rows.place[:3] == vector.place[:3] for rows in by_place)
            if near:
                raise MismatchError(
                    f"{vector.path}: {wrong}; --other-pooling projects other rows on it all the "
                    "same, and says so"
                )
            raise MismatchError(f"{vector.path}: {wrong}")
    else:
        fitting = [rows for rows in by_place if rows.place.layer == vector.layer]
    if not fitting:
        there = ", ".join(dict.fromkeys(rows.place.text for rows in by_place))
        raise MismatchError(
            f"{vector.path} is for {place_rows.layer_text(vector.layer)}; {store.name} has "
            f"{there}: name the layers that both have with --layers"
        )
    if len(fitting) > 1:
        there = ", ".join(rows.place.text for rows in fitting)
        raise MismatchError(
            f"{vector.path} fits several kinds of rows of {store.name}: {there}; choose with "
            "--sites, --pool or --where"
        )
    return fitting[0]


def _elsewhere(layers: Sequence[Validated]) -> list[str]:
    """Return notes on vectors that are held against other rows than they were made for."""
    told = []
    if any(one.made_for is None for one in layers):
        told.append(
            "the vectors do not say which model, site and pooling they were made for; only layer "
            "and width were compared"
        )
    pairs = {
        (one.made_for[3:5], one.place[3:5])
        for one in layers
        if one.made_for is not None and one.made_for != one.place
    }
    for made_for, place in sorted(pairs, key=str):
        words = [
            f"{pooling} over {region or 'an unrecorded region'}"
            for pooling, region in (made_for, place)
        ]
        told.append(f"OTHER POOLING: vectors made for {words[0]}, rows of {words[1]}")
    return told


def _validated(
    vector: LoadedVector, rows: PlaceRows, sides: Classes, counted: InSample, own: np.ndarray | None
) -> Validated:
    """Return a vector's figures on a place's rows; ``own`` says which it was made of."""
    vector_files.check_width(vector, rows.selection.shape[1], f"{rows.place.text}")
    scores = rows.vectors().astype(np.float64) @ vector.vector.astype(np.float64)
    entries = question_scores.by_question(rows.table, scores, sides.column)
    positive = np.array([entry[2] in sides.positive for entry in entries])
    means = np.array([entry[3] for entry in entries], np.float64)
    if not 0 < int(positive.sum()) < len(positive):
        left = f", {counted.rows:,} rows of the making left out" if counted.rows else ""
        raise TooFewRowsError(
            f"{rows.place.text}: {int(positive.sum())} of {len(positive)} examples are "
            f"{sides.names[0]}{left}; an AUROC needs both classes"
        )
    codes = question_scores.examples(rows.table, sides.column)
    first = np.unique(codes, return_index=True)[1]
    groups = np.unique(rows.groups[first], return_inverse=True)[1]
    everything = [Fold(np.empty(0, np.int64), np.arange(len(entries)))]
    if own is not None:
        entries = [(*entry, flag) for entry, flag in zip(entries, own[first].tolist(), strict=True)]
    return Validated(
        place=rows.place,
        made_for=vector.place,
        auroc=metrics.auroc_interval(means, positive, groups, everything),
        examples=len(entries),
        positives=int(positive.sum()),
        groups=int(groups.max()) + 1,
        in_sample=counted,
        entries=entries,
    )
