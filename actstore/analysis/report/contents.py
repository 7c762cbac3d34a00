"""What a report tells of a selection: composition, labels, norms, components, AUROC, outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore.analysis.examples import classes, place_rows
from actstore.analysis.examples.hover_text import hover_texts
from actstore.analysis.probes import probe_runs
from actstore.analysis.probes.probe_runs import Curve
from actstore.analysis.statistics import group_by, projection, sampling, separation
from actstore.analysis.statistics.moments import measure
from actstore.analysis.statistics.norms import ClassCodes, NormProfile, class_codes, norms_by_layer
from actstore.analysis.statistics.summaries import outlier_dimensions
from actstore.errors import AnalysisError, NotInStoreError, UsageError
from actstore.querying.info import EXAMPLE
from actstore.storage import key_hashes
from actstore.wording import pooling_text

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows

PLACES = 6
"""Models, sites, poolings and regions that are shown."""
PANELS = 4
"""Layers whose components are shown."""
POINTS = 400
"""Rows of each of them."""
AUROC_ROWS = 1000
DIMENSION_ROWS = 256
_LISTED = 10


class Panel(NamedTuple):
    """The rows of one layer along their first two components."""

    layer: int | None
    points: np.ndarray
    """Float32 ``[rows, 2]``."""
    codes: np.ndarray
    texts: list[str]
    explained: tuple[float, float]
    note: str


class OutlierRow(NamedTuple):
    """A row whose norm is far from its layer's median."""

    layer: int | None
    row: dict[str, Any]
    """All that is known of it; what is not is left out."""
    row_id: int
    ratio: float
    """Its norm over the layer's median."""


class Step(NamedTuple):
    """A run that brought rows into the store."""

    kind: str
    started_at: str
    run_id: str


class OutlierDimensions(NamedTuple):
    """A dimension that is an outlier in some layers."""

    dimension: int
    layers: list[int | None]
    ratio: float
    """The largest of them, over the median dimension's root mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One model, site, pooling and region."""

    title: str
    rows: int
    classes: ClassCodes
    layers: list[int | None]
    norms: list[NormProfile]
    panels: list[Panel]
    probes: Curve | None
    """What trained probes came to, where there are any."""
    separation: separation.Separations | None
    """By the difference of means, where there are none."""
    why_not: str
    """Why there is neither, if that is so."""
    dimensions: list[OutlierDimensions]
    rows_apart: list[OutlierRow]
    nonfinite: int
    """Rows with a norm that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a report's page shows."""

    name: str
    commit: int
    created_at: str
    rows: int
    skipped: int
    """Damaged shards that the store was opened without."""
    by: str
    composition: list[dict[str, Any]]
    labels: dict[str | None, int]
    table: dict[str | None, dict[str | None, int]]
    """Rows by task and label, the largest first; empty where there are no tasks."""
    places: list[Place]
    left_out: int
    """Places that are not shown."""
    command: str
    """What wrote the report."""
    steps: list[Step]
    """Runs that the rows come from, the latest first."""


def collect(
    selection: SelectedRows,
    by: str = "label",
    *,
    probes: Sequence[str | Path] = (),
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Gather what a report tells.

    Metadata are read wholly; of the vectors a sample of each layer (seed 0), so that it
    takes seconds whatever the store's size.

    Args:
        selection: which rows; ``store.select()`` for all.
        by: column whose values are told apart.
        probes: what ``actstore probe --out`` wrote for these rows, folders or their
            ``report.json``. Without any, AUROC is that of the difference of means.
        command: what is to stand in the report as the command that wrote it.
        progress: called with the places done and the places there are.

    Raises:
        NotInStoreError: there is no such column.
        MismatchError: the probes are for other rows.
        UsageError: they are no probes.
    """
    snapshot = selection.snapshot
    names = ("model", "site", "pooling", "region")
    groups = group_by.group(selection, names)
    groups.sort(key=lambda found: -len(found.places))
    shown = groups[:PLACES]
    curves = probe_runs.curves(probes, selection, by)
    places = []
    for number, found in enumerate(shown):
        curve = curves.get(place_rows.ActivationPlace(layer=None, **found.key))
        places.append(_place(selection.take(found.places), by, found.key, curve))
        if progress is not None:
            progress(number + 1, len(shown))
    return Report(
        name=shown_name(snapshot.name),
        commit=snapshot.manifest.number,
        created_at=snapshot.manifest.created_at,
        rows=len(selection),
        skipped=len(snapshot.skipped),
        by=by,
        composition=_composition(selection, groups),
        labels=_counts(selection, by),
        table=_table(selection, by),
        places=places,
        left_out=len(groups) - len(shown),
        command=command,
        steps=_steps(selection),
    )


def shown_name(name: str) -> str:
    """Return what a store is called in a report.

    A page is for passing on: where a store lies on this machine is nobody's business.
    """
    return name if "://" in name else Path(name).resolve().name


def _steps(selection: SelectedRows) -> list[Step]:
    named = {name for name in _counts(selection, "run_id") if name is not None}
    runs = [run for run in selection.snapshot.manifest.runs if run.run_id in named]
    runs.sort(key=lambda run: (run.started_at, run.run_id), reverse=True)
    return [Step(run.kind, run.started_at, run.run_id) for run in runs]


def _composition(selection: SelectedRows, groups: list[group_by.RowGroup]) -> list[dict[str, Any]]:
    snapshot = selection.snapshot
    rows = []
    for found in sorted(groups, key=lambda one: group_by.order(one.key.values())):
        part = selection.take(found.places)
        numbers = np.unique(np.searchsorted(snapshot.offsets, part.rows, "right") - 1)
        shards = [snapshot.shards[number] for number in numbers.tolist()]
        examples = key_hashes.hash_table(part.table(EXAMPLE), EXAMPLE)
        rows.append(
            {
                **found.key,
                "layers": layer_list(sampling.layer_values(part)),
                "width": ", ".join(map(str, sorted({shard.width for shard in shards}))),
                "type": ", ".join(sorted({shard.dtype for shard in shards})),
                "examples": len(np.unique(examples)),
                "rows": len(part),
            }
        )
    if all(row["region"] is None for row in rows):
        for row in rows:
            del row["region"]
    return rows


def layer_list(layers: list[int | None]) -> str:
    """Return layers in short: ``0-31``, ``6, 12, 18``, ``not recorded``."""
    known = [layer for layer in layers if layer is not None]
    step = known[1] - known[0] if len(known) > 1 else 1
    even = len(known) > 3 and known == list(range(known[0], known[-1] + 1, step))
    if even:
        text = f"{known[0]}-{known[-1]}" + (f" in steps of {step}" if step > 1 else "")
    else:
        text = ", ".join(map(str, known[:12])) + (f", … {known[-1]}" if len(known) > 12 else "")
    return ", ".join(filter(None, [text, "not recorded" if None in layers else ""]))


def _counts(selection: SelectedRows, column: str) -> dict[str | None, int]:
    found = selection.table([column])[column].value_counts().to_pylist()
    pairs = [(entry["values"], entry["counts"]) for entry in found]
    pairs.sort(key=lambda pair: (-pair[1], group_by.order([pair[0]])))
    return dict(pairs)


def _table(selection: SelectedRows, by: str) -> dict[str | None, dict[str | None, int]]:
    if by == "task":
        return {}
    table = selection.table(["task", by])
    if table["task"].null_count == len(table):
        return {}
    counted = table.group_by(["task", by]).aggregate([([], "count_all")]).to_pylist()
    found: dict[str | None, dict[str | None, int]] = {}
    for row in counted:
        found.setdefault(row["task"], {})[row[by]] = row["count_all"]
    return dict(sorted(found.items(), key=lambda one: (-sum(one[1].values()), str(one[0]))))


def _place(selection: SelectedRows, by: str, key: dict[str, Any], curve: Curve | None) -> Place:
    classes = class_codes(selection, by)
    layers, norms = norms_by_layer(selection, by)
    of_layer = sampling.layers_of(selection)
    all_norms = selection.table(["norm"])["norm"].to_numpy()
    shown = np.unique(np.linspace(0, len(layers) - 1, min(PANELS, len(layers))).round())
    panels = [
        _panel(selection, np.flatnonzero(of_layer == number), classes, layers[number])
        for number in shown.astype(int).tolist()
    ]
    separated, why_not = _separation(selection, by) if curve is None else (None, "")
    return Place(
        title=" · ".join(
            filter(
                None,
                (
                    *(key["model"], key["site"]),
                    pooling_text(key["pooling"], key["region"]),
                ),
            )
        ),
        rows=len(selection),
        classes=classes,
        layers=layers,
        norms=norms,
        panels=[panel for panel in panels if panel is not None],
        probes=curve,
        separation=separated,
        why_not=why_not,
        dimensions=_dimensions(selection, of_layer, layers),
        rows_apart=_rows_apart(selection, of_layer, layers, all_norms),
        nonfinite=int((~np.isfinite(all_norms)).sum()),
    )


def _panel(
    selection: SelectedRows, places: np.ndarray, classes: ClassCodes, layer: int | None
) -> Panel | None:
    drawn = sampling.draw(selection.take(places), POINTS)
    codes = classes.codes[places[drawn.places]]
    vectors = drawn.selection.numpy()
    if not np.isfinite(vectors).all(axis=1).any():
        return None
    components = projection.fit(vectors)
    points = components.apply(vectors)
    finite = np.isfinite(points).all(axis=1)
    if not finite.any():
        return None
    texts = hover_texts(drawn.selection)
    return Panel(
        layer,
        points[finite],
        codes[finite],
        [texts[at] for at in np.flatnonzero(finite).tolist()],
        (float(components.explained[0]), float(components.explained[1])),
        drawn.note,
    )


def _separation(selection: SelectedRows, by: str) -> tuple[separation.Separations | None, str]:
    counts = {value: rows for value, rows in _counts(selection, by).items() if value is not None}
    if len(counts) < 2:
        return None, f"there are no two values of {by} to tell apart"
    # Of more than two values the two most frequent stand for all; in the order of their names.
    negative, positive = sorted(map(classes.text, list(counts)[:2]))
    try:
        found = separation.by_layer(
            selection, by, positive=positive, negative=negative, most=AUROC_ROWS
        )
    except (AnalysisError, UsageError, NotInStoreError) as error:
        return None, str(error)
    return found, ""


def _dimensions(
    selection: SelectedRows, of_layer: np.ndarray, layers: list[int | None]
) -> list[OutlierDimensions]:
    found: dict[int, OutlierDimensions] = {}
    for number, layer in enumerate(layers):
        part = sampling.draw(
            selection.take(np.flatnonzero(of_layer == number)), DIMENSION_ROWS
        ).selection
        for moments in measure(part.snapshot, part.rows):
            for one in outlier_dimensions(moments):
                known = found.get(one.dimension, OutlierDimensions(one.dimension, [], 0.0))
                found[one.dimension] = OutlierDimensions(
                    one.dimension, [*known.layers, layer], max(known.ratio, one.ratio)
                )
    return sorted(found.values(), key=lambda one: (-one.ratio, one.dimension))[:_LISTED]


def _rows_apart(
    selection: SelectedRows, of_layer: np.ndarray, layers: list[int | None], norms: np.ndarray
) -> list[OutlierRow]:
    norms = norms.astype(np.float64)
    medians = np.ones(len(layers))
    for number in range(len(layers)):
        known = norms[(of_layer == number) & np.isfinite(norms)]
        medians[number] = np.median(known) if len(known) else np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.nan_to_num(norms / medians[of_layer], nan=1.0, posinf=0, neginf=0)
    places = np.argsort(-ratios, kind="stable")[:_LISTED]
    apart = selection.take(places)
    rows = apart.table().to_pylist()
    return [
        OutlierRow(
            layers[int(of_layer[place])],
            {name: value for name, value in row.items() if value is not None},
            row_id,
            float(ratios[place]),
        )
        for place, row, row_id in zip(places.tolist(), rows, apart.rows.tolist(), strict=True)
    ]
