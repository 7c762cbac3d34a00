"""Probes: how well a classifier reads a label off the vectors of each layer, honestly measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import classes, example_groups, lineages, near_copies, place_rows
from actstore.analysis.examples.matching import places_in
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import significance, splits, words_baseline
from actstore.analysis.probes.evaluating import Progress, evaluate
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.solvers import linear
from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader

_WEAKEST, _STRONGEST = 1e-10, 1e10
"""Strengths beyond which penalties are no numbers for scikit-learn, or lost in rounding."""
UNSETTLED = (
    "{place}: the regression has not converged: its weights are not determined to 1 in 10,000, "
    "and may differ from another program's; a smaller --strength settles them"
)
"""Note on a fit that ended before it came to the optimum."""


def probe(
    store: StoreReader,
    label: str = "label",
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    choice: RowChoice | None = None,
    settings: ProbeSettings | None = None,
    train: str | None = None,
    test: str | None = None,
    test_store: StoreReader | None = None,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
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
        MismatchError: the other store has no rows of the same model, site, layer, pooling
            and region.
        MissingExtraError: scikit-learn is not installed.
    """
    linear.require()
    chosen, setting = choice or RowChoice(), settings or ProbeSettings()
    _check(setting, train, test, test_store)
    notes: list[str] = []
    if train is not None and test is not None:
        rows = chosen.and_where(f"({train}\n) OR ({test}\n)")
    else:
        rows = chosen.and_where(train)
    selection, values = place_rows.rows_and_labels(store, rows, label)
    if test_store is not None:
        values = values + _values(test_store, chosen.and_where(test), label)
    sides = classes.find(label, values, positive, negative)
    others = None
    if test_store is not None:
        others = test_store.select(chosen.and_where(test).where)
    both = [selection] if others is None else [selection, others]
    used = np.concatenate([place_rows.known_rows(each, sides) for each in both])
    grouping = example_groups.groups_of(both, group_by, used=used, notes=notes)
    own = place_rows.by_place(
        selection, sides, notes=notes, grouping=grouping.part(slice(0, len(selection)))
    )
    if test_store is not None and others is not None:
        fitting = places_in(others, [rows.place for rows in own], test_store.name)
        theirs = grouping.part(slice(len(selection), None))
        jobs = splits.across(own, others, fitting, theirs, sides, setting, notes)
    elif test is not None:
        held = place_rows.choose(store, chosen.and_where(test)).rows
        kept = place_rows.choose(store, chosen.and_where(train)).rows if train is not None else None
        jobs = splits.split(own, held, kept, setting, notes)
    else:
        jobs = splits.crossed(own, setting)
    notes += _near_copies(jobs)
    evaluated, told = evaluate(jobs, setting, progress)
    results, best = significance.judge(jobs, evaluated, told, setting, notes)
    results = [
        replace(result, made_of=_made_of(job, grouping.grouped_by))
        for job, result in zip(jobs, results, strict=True)
    ]
    notes += [UNSETTLED.format(place=each.place.text) for each in results if not each.converged]
    lineage: dict[str, object] = {
        "store": place_rows.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "train": train,
        "test": test,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "group_by": grouping.grouped_by,
        "method": setting.method,
        "strength": setting.strength,
        "folds": setting.folds if test is None and test_store is None else None,
        "permutations": setting.permutations,
        "seed": setting.seed,
    }
    if test_store is not None:
        lineage["test_store"] = place_rows.store_name(test_store)
        lineage["test_store_fingerprint"] = test_store.fingerprint
    return ProbeReport(
        results=results,
        best=best,
        classes=sides,
        method=setting.method,
        lineage=lineage,
        notes=list(dict.fromkeys(notes)),
    )


def _made_of(job: Job, grouped_by: str) -> np.ndarray:
    """Return the keys of the rows that the kept probe is trained on."""
    selection = job.rows.selection
    if len(job.divisions) == 1:
        selection = selection.take(job.divisions[0].train)
    return lineages.keys(selection, grouped_by)


def _values(store: StoreReader, choice: RowChoice, label: str) -> list[object]:
    column: list[object] = store.select(choice.where).table([label])[label].to_pylist()
    return column


def _check(
    setting: ProbeSettings, train: str | None, test: str | None, test_store: StoreReader | None
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
    # Groups and questions are those of the run, and places have the same ones as a rule.
    largest = max(jobs, key=lambda job: len(job.positive))
    texts = words_baseline.texts_of(largest)
    if not texts.some:
        return []
    found = near_copies.find(texts.texts, texts.codes, largest.groups)
    remark = near_copies.note(found, largest.rows.grouping.grouped_by)
    return [] if remark is None else [remark]
