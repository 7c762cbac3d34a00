"""Applies saved probes to the rows of any store, and writes what they say as labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from actstore.analysis.examples import (
    classes,
    example_groups,
    joined_layers,
    lineages,
    numbers,
    place_rows,
)
from actstore.analysis.examples.lineages import InSample
from actstore.analysis.examples.matching import matching
from actstore.analysis.examples.place_rows import ActivationPlace, RowChoice
from actstore.analysis.probes import probe_files
from actstore.analysis.probes.number_results import FEWEST
from actstore.analysis.statistics import agreement, metrics
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.metrics import IntervalEstimate
from actstore.errors import NotInStoreError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from actstore.analysis.probes.probe_files import SavedProbe
    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

LabelAs = Literal["class", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one probe says about the rows of its place."""

    place: ActivationPlace
    probe: Path
    row_ids: np.ndarray
    """``row_id`` of the vectors that each score is of, int64 ``[rows, layers]``: one, but for
    probes that join several layers."""
    scores: np.ndarray
    """Float64; positive where the probe sees the positive class. Of numbers the predicted ones."""
    classes: list[str] | None
    """The class that the probe names for each row; None of numbers."""
    auroc: IntervalEstimate | None
    """Where the rows have labels of both classes."""
    accuracy: IntervalEstimate | None
    """Among rows with such a label."""
    r2: IntervalEstimate | None
    """Of predicted numbers, where the rows have true ones."""
    spearman: IntervalEstimate | None
    in_sample: InSample
    own: np.ndarray | None
    """Which rows are of the probe's making, bool ``[rows]``; None where nobody knows."""
    lacking: int = 0
    """Examples left out since they lack one of several layers."""
    notes: tuple[str, ...] = ()
    """Labels that were taken for the probe's classes though they are called otherwise, and what
    the making kept together and these rows do not have."""

    @property
    def rows(self) -> np.ndarray:
        """``row_id`` of each, int64; of several layers that at the first."""
        found: np.ndarray = self.row_ids[:, 0]
        return found


def score(
    store: StoreReader,
    probe: str | Path,
    *,
    choice: RowChoice | None = None,
    label: str | None = None,
    in_sample: bool = False,
) -> list[Scored]:
    """Score the rows that probes were made for: same model, site, layer, pooling and region.

    Rows that a probe was trained on are left out (see :mod:`actstore.analysis.examples.lineages`).

    Args:
        store: any store.
        probe: folder that ``actstore probe`` wrote, or one of its probes.
        choice: which rows; its layers choose among the probes.
        label: column that says what is right; the one that the probes were trained on
            when missing.
        in_sample: score the rows that a probe was trained on too; figures then flatter, and
            everything that shows them says so.

    Raises:
        MismatchError: the store has no rows for one of the probes, or of another width.
        NotInStoreError: none of the probes is for a layer that was asked for.
        TooFewRowsError: no row is left, or vectors that are not finite.
        UsageError: there are no probes.
    """
    saved = probe_files.load(Path(probe))
    chosen = choice or RowChoice()
    saved = [one for one in saved if _wanted(one.probe.place, chosen)]
    if not saved:
        raise NotInStoreError(f"{probe} has no probe for {chosen.text}")
    selections = matching(store, [one.probe.place for one in saved], RowChoice(where=chosen.where))
    return [_scored(one, selections[one.probe.place], store, label, in_sample) for one in saved]


def write_labels(store: StoreReader, scored: Sequence[Scored], label_as: LabelAs) -> int | None:
    """Give the scored rows the probes' classes or scores as labels, in one commit.

    Returns:
        The commit's number.

    Raises:
        UsageError: the store is on the Hub, damaged shards of it were left out, or a row was
            scored twice.
    """
    from actstore.remote.bucket_address import is_bucket
    from actstore.remote.working import working
    from actstore.storage import fencing
    from actstore.storage.labels import set_labels
    from actstore.storage.snapshot import open_snapshot

    fencing.require_whole(store.name, store.skipped, "writing labels")
    rows = np.concatenate([one.row_ids.ravel() for one in scored])
    if len(np.unique(rows)) < len(rows):
        raise UsageError("some rows were scored by several probes: choose one of them")
    texts: list[str | None] = []
    for one in scored:
        if label_as == "class" and one.classes is None:
            raise UsageError(
                f"{one.probe} predicts numbers, not classes: --write-label score writes these"
            )
        told = (
            (one.classes or []) if label_as == "class" else [f"{each:.6g}" for each in one.scores]
        )
        # An example's rows at all joined layers.
        texts += [text for text in told for _ in range(one.row_ids.shape[1])]
    message = f"{label_as} by probe {Path(scored[0].probe).name}"
    marked = lineages.title([one.in_sample for one in scored])
    if marked:
        message = f"{message} ({marked})"
    place = store.name if is_bucket(store.name) else store.path
    at = store.commit
    with working(place, at=at) as root, closing(open_snapshot(root, at)) as snapshot:
        return set_labels(snapshot, rows, texts, message=message)


def table(store: StoreReader, scored: Sequence[Scored]) -> pa.Table:
    """Return scores beside the rows' metadata, ordered by probe and row.

    ``in_sample`` says of each row whether the probe was trained on it or its like; null
    where nobody knows. Where a probe joins several layers, ``layers`` lists them, ``layer`` is
    null, and ``row_id`` is that of the example at the first of them.
    """
    import pyarrow as pa

    parts = []
    joined = any(one.place.layers is not None for one in scored)
    for one in scored:
        metadata = store.rows_at(one.rows).table(
            ["row_id", "example_id", "question", "label", "model", "site", "layer", "pooling"]
        )
        if joined:
            metadata = _with_layers(metadata, one.place)
        part = metadata.append_column("score", pa.array(one.scores))
        nothing = pa.nulls(len(one.rows), pa.string())
        named = nothing if one.classes is None else pa.array(one.classes, pa.string())
        part = part.append_column("class", named)
        own = pa.nulls(len(one.rows), pa.bool_()) if one.own is None else pa.array(one.own)
        parts.append(part.append_column("in_sample", own))
    return pa.concat_tables(parts)


def _with_layers(metadata: pa.Table, place: ActivationPlace) -> pa.Table:
    """Return metadata with a column of the layers that a place joins; null where it has one."""
    import pyarrow as pa

    if place.layers is None:
        return metadata.append_column("layers", pa.nulls(len(metadata), pa.string()))
    of_place = {"site": place.site, "layer": None}
    for name, value in of_place.items():
        at = metadata.column_names.index(name)
        field = metadata.schema.field(at)
        column = pa.array([value] * len(metadata), field.type)
        metadata = metadata.set_column(at, field, column)
    told = ", ".join(map(str, place.layers))
    return metadata.append_column("layers", pa.array([told] * len(metadata), pa.string()))


def _wanted(place: ActivationPlace, choice: RowChoice) -> bool:
    return (
        (choice.layers is None or {*(place.layers or (place.layer,))} <= {*choice.layers})
        and (choice.model is None or place.model == choice.model)
        and (choice.site is None or place.site == choice.site)
        and (choice.pooling is None or place.pooling == choice.pooling)
    )


def _scored(
    saved: SavedProbe, selection: SelectedRows, store: StoreReader, label: str | None, shown: bool
) -> Scored:
    probe, lineage, lacking = saved.probe, saved.lineage, 0
    layers = [selection]
    if probe.place.layers is not None:
        layers, lacking = joined_layers.split(selection, probe.place)
    probe_files.check_width(probe, sum(each.shape[1] for each in layers), store.name)
    made = [lineages.own_rows(each, store, saved.made_of, lineage, probe.place) for each in layers]
    known = [each for each in made if each is not None]
    own = np.any(known, axis=0) if len(known) == len(made) else None
    in_sample = lineages.count(own, shown=shown, place=probe.place, what="probe")
    if own is not None and not shown:
        layers, own = [each.take(~own) for each in layers], own[~own]
    scores = probe.scores(place_rows.side_by_side(layers, probe.place))
    values = _agreed([_values(saved, each, label) for each in layers])
    found = (_numbers if saved.of_numbers else _sides)(saved, layers[0], scores, values)
    return Scored(
        place=probe.place,
        probe=saved.path,
        row_ids=np.column_stack([each.rows for each in layers]),
        scores=scores,
        classes=found.classes,
        auroc=found.auroc,
        accuracy=found.accuracy,
        r2=found.r2,
        spearman=found.spearman,
        in_sample=in_sample,
        own=own,
        lacking=lacking,
        notes=found.notes,
    )


class _Held(NamedTuple):
    """What a probe names for rows, and how that agrees with what is known of them."""

    classes: list[str] | None = None
    auroc: IntervalEstimate | None = None
    accuracy: IntervalEstimate | None = None
    r2: IntervalEstimate | None = None
    spearman: IntervalEstimate | None = None
    notes: tuple[str, ...] = ()


def _values(saved: SavedProbe, selection: SelectedRows, label: str | None) -> np.ndarray | None:
    """Return what is right of each row, texts or numbers; None where the column does not say.

    Raises:
        NotInStoreError: there is no such column, and somebody named it.
        UsageError: somebody named it, and its values are no numbers.
    """
    column = label or str(saved.lineage["label"])
    try:
        values = selection.table([column])[column]
        if saved.of_numbers:
            return numbers.of(column, values)
        texts = values.cast("string").to_numpy(zero_copy_only=False)
        return np.asarray(texts, object)
    except (NotInStoreError, UsageError):
        if label is not None:
            raise
        return None


def _agreed(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return what is right of each example: nothing where that differs between its layers."""
    first, *others = values
    for other in others:
        if first is None or other is None:
            return None
        nothing = np.full_like(first, None if first.dtype == object else np.nan)
        first = np.where(first == other, first, nothing)
    return first


def _sides(
    saved: SavedProbe, selection: SelectedRows, scores: np.ndarray, texts: np.ndarray | None
) -> _Held:
    positive, negative = list(saved.lineage["positive"]), list(saved.lineage["negative"])
    names = [" or ".join(positive), " or ".join(negative)]
    named = [names[0] if each > 0 else names[1] for each in scores.tolist()]
    if texts is None:
        return _Held(named)
    there = set(texts.tolist())
    meant = classes.alike(positive, there, negative), classes.alike(negative, there, positive)
    truth = np.isin(texts, meant[0])
    known = np.flatnonzero(truth | np.isin(texts, meant[1]))
    if not len(known):
        return _Held(named)
    notes: list[str] = []
    groups = _groups(saved, selection.take(known), notes)
    everything = [Fold(np.empty(0, np.int64), np.arange(len(known)))]
    right = (scores[known] > 0) == truth[known]
    accuracy = metrics.accuracy_interval(right, groups, everything)
    auroc = None
    if 0 < int(truth[known].sum()) < len(known):
        auroc = metrics.auroc_interval(scores[known], truth[known], groups, everything)
    notes += [
        f"{' or '.join(found)} is taken for the probe's {name}"
        for found, wanted, name in zip(meant, (positive, negative), names, strict=True)
        if not {*found} <= {*wanted}
    ]
    return _Held(named, auroc, accuracy, notes=tuple(notes))


def _numbers(
    saved: SavedProbe, selection: SelectedRows, scores: np.ndarray, truth: np.ndarray | None
) -> _Held:
    if truth is None:
        return _Held()
    known = np.flatnonzero(np.isfinite(truth))
    notes: list[str] = []
    groups = _groups(saved, selection.take(known), notes)
    if len(np.unique(groups)) < FEWEST or len(np.unique(truth[known])) < 2:
        return _Held()
    everything = [Fold(np.empty(0, np.int64), np.arange(len(known)))]
    where = scores[known], truth[known], groups, everything
    return _Held(
        r2=agreement.r2_interval(*where),
        spearman=agreement.spearman_interval(*where),
        notes=tuple(notes),
    )


def _groups(saved: SavedProbe, selection: SelectedRows, notes: list[str]) -> np.ndarray:
    """Return what counts as one in an interval: what the probe's making kept together."""
    named = lineages.kept_together(saved.lineage, selection, notes)
    return example_groups.groups_of(selection, named).groups
