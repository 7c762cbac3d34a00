"""Probes: how well a classifier reads a label off the vectors of each layer, honestly measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis import (
    cells,
    classes,
    judging,
    kinship,
    linear,
    near_copies,
    planning,
    words,
)
from actstore.analysis.cells import Choice, Place
from actstore.analysis.evaluating import Progress, evaluate
from actstore.analysis.planning import Job, Settings
from actstore.analysis.results import Report
from actstore.errors import MismatchError, UsageError

if TYPE_CHECKING:
    from actstore.querying.selection import Selection
    from actstore.store import Store

_WEAKEST, _STRONGEST = 1e-10, 1e10
"""Strengths beyond which penalties are no numbers for scikit-learn, or lost in rounding."""


def probe(
    store: Store,
    label: str = "label",
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    choice: Choice | None = None,
    settings: Settings | None = None,
    train: str | None = None,
    test: str | None = None,
    test_store: Store | None = None,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train and test one probe per layer, site and pooling.

    Tested rows are never trained on, nor is any row of their group; means and scales of
    the dimensions come from training rows alone. The saved probe is trained on all rows
    after a cross-validation, else on the training part.

    Args:
        store: where the rows are.
        label: column with the classes.
        positive: value or values of the positive class; the second of two when missing.
        negative: the same for the negative class; all others when missing.
        choice: which rows.
        settings: method, folds, penalty, seed.
        train: SQL condition on the training rows, given with ``test``.
        test: SQL condition on the rows to test on. Either replaces the folds.
        test_store: store whose rows are tested on, instead of folds.
        group_by: column, ``extra.FIELD`` or SQL expression whose equal values stay on one
            side; when missing, rows that share their example or their question do;
            ``row_id`` for no groups at all.
        progress: is told how far it has come.

    Raises:
        TooFewRowsError: too few rows or groups of a class, one class only, or NaN.
        UsageError: several models, more than two labels, or contradicting arguments.
        NotInStoreError: a layer, site, label or column is not there.
        SqlError: a condition or ``group_by`` is refused or fails.
        MismatchError: the other store has no rows of the same model, site and layer.
        MissingExtraError: scikit-learn is not installed.
    """
    linear.require()
    chosen, setting = choice or Choice(), settings or Settings()
    _check(setting, train, test, test_store)
    notes: list[str] = []
    if train is not None and test is not None:
        rows = chosen.and_where(f"({train}\n) OR ({test}\n)")
    else:
        rows = chosen.and_where(train)
    selection, values = cells.labels_of(store, rows, label)
    if test_store is not None:
        values = values + _values(test_store, chosen.and_where(test), label)
    sides = classes.find(label, values, positive, negative)
    others = None
    if test_store is not None:
        others = test_store.select(chosen.and_where(test).where)
    both = [selection] if others is None else [selection, others]
    used = np.concatenate([cells.known_rows(each, sides) for each in both])
    kin = kinship.groups_of(both, group_by, used=used, notes=notes)
    own = cells.cells(selection, sides, notes=notes, kin=kin.part(slice(0, len(selection))))
    if test_store is not None and others is not None:
        fitting = _matching(test_store, others, [cell.place for cell in own])
        theirs = kin.part(slice(len(selection), None))
        jobs = planning.across(own, others, fitting, theirs, sides, setting, notes)
    elif test is not None:
        held = cells.choose(store, chosen.and_where(test)).rows
        kept = cells.choose(store, chosen.and_where(train)).rows if train is not None else None
        jobs = planning.split(own, held, kept, setting, notes)
    else:
        jobs = planning.crossed(own, setting)
    notes += _near_copies(jobs)
    evaluated, told = evaluate(jobs, setting, progress)
    results, best = judging.judge(jobs, evaluated, told, setting, notes)
    lineage: dict[str, object] = {
        "store": cells.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "train": train,
        "test": test,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "group_by": kin.grouped_by,
        "method": setting.method,
        "strength": setting.strength,
        "folds": setting.folds if test is None and test_store is None else None,
        "permutations": setting.permutations,
        "seed": setting.seed,
    }
    if test_store is not None:
        lineage["test_store"] = cells.store_name(test_store)
        lineage["test_store_fingerprint"] = test_store.fingerprint
    return Report(
        results=results,
        best=best,
        classes=sides,
        method=setting.method,
        lineage=lineage,
        notes=list(dict.fromkeys(notes)),
    )


def _values(store: Store, choice: Choice, label: str) -> list[object]:
    column: list[object] = store.select(choice.where).table([label])[label].to_pylist()
    return column


def _check(
    setting: Settings, train: str | None, test: str | None, test_store: Store | None
) -> None:
    if setting.method not in linear.METHODS:
        raise UsageError(f"no method {setting.method!r}: there are {', '.join(linear.METHODS)}")
    if not _WEAKEST <= setting.strength <= _STRONGEST:
        raise UsageError(
            f"the strength must be between {_WEAKEST:g} and {_STRONGEST:g}, got {setting.strength}"
        )
    if setting.seed < 0:
        raise UsageError(f"a seed cannot be negative, got {setting.seed}")
    if train is not None and test is None and test_store is None:
        raise UsageError("train rows need rows to test on: give a test condition or a test store")
    if setting.permutations < 0:
        raise UsageError(f"permutations cannot be negative, got {setting.permutations}")


def _near_copies(jobs: Sequence[Job]) -> list[str]:
    """Return what should be said of questions that are nearly those of another group."""
    # Groups and questions are those of the run, and cells have the same ones as a rule.
    largest = max(jobs, key=lambda job: len(job.positive))
    texts = words.texts_of(largest)
    if not texts.some:
        return []
    found = near_copies.find(texts.texts, texts.codes, largest.groups)
    remark = near_copies.note(found, largest.cell.kin.grouped_by)
    return [] if remark is None else [remark]


def matching(store: Store, places: Sequence[Place], choice: Choice) -> dict[Place, Selection]:
    """Return the rows of ``store`` for each place: same model, site, layer and pooling.

    The region must be the same only where a pooling comes with several.

    Raises:
        MismatchError: there are none; the message names both sides.
    """
    selection = store.select(choice.where)
    rows = _matching(store, selection, places)
    return {place: selection.take(rows[place]) for place in places}


def _matching(
    store: Store, selection: Selection, places: Sequence[Place]
) -> dict[Place, np.ndarray]:
    """Return which rows of a selection are those of each place, bool ``[rows]``."""
    table = selection.table(list(Place._fields))
    codes, there = cells.places_of(table)
    found = {}
    for place in places:
        fitting = [each for each in range(len(there)) if there[each][:4] == place[:4]]
        if len(fitting) > 1:
            fitting = [each for each in fitting if there[each].region == place.region]
        if not fitting:
            raise MismatchError(
                f"made for {place.text} of model {place.model}, but {store.name} "
                f"{'has ' + _told(there, place) if there else 'has no such rows at all'}: use "
                "rows of the same model, site, layer and pooling, or name the layers that both "
                "have with --layers"
            )
        found[place] = codes == fitting[0]
    return found


def _told(there: Sequence[Place], wanted: Place) -> str:
    """Return the places nearest to the wanted one, in words."""
    for name in ("model", "site", "pooling", "layer"):
        values = {getattr(place, name) for place in there}
        if getattr(wanted, name) not in values:
            told = ", ".join(str(value) for value in sorted(values, key=str)[:8])
            return f"{name} {told}"
    return ", ".join(place.text for place in there[:4])
