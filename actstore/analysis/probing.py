"""Probes: how well a classifier reads a label off the vectors of each layer, honestly measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis import cells, classes, folds, linear
from actstore.analysis.cells import Cell, Choice, Place
from actstore.analysis.classes import Classes
from actstore.analysis.evaluating import Job, Progress, Settings, evaluate, joined, numbers
from actstore.analysis.folds import Fold
from actstore.analysis.results import Report
from actstore.errors import MismatchError, TooFewRowsError, UsageError

if TYPE_CHECKING:
    from actstore.querying.selection import Selection
    from actstore.store import Store

_WEAKEST, _STRONGEST = 1e-10, 1e10
"""Strengths beyond which penalties are no numbers for scikit-learn, or lost in rounding."""
UNSETTLED = (
    "{place}: the regression has not converged: its weights are not determined to 1 in 10,000, "
    "and may differ from another program's; a smaller --strength settles them"
)
"""Note on a fit that ended before it came to the optimum."""
_REFITS = 20
"""Permutations of a method that must be trained anew for each."""


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
        group_by: column whose equal values stay on one side; ``question`` when missing,
            ``row_id`` for no groups at all.
        progress: is told how far it has come.

    Raises:
        TooFewRowsError: too few rows or groups of a class, one class only, or NaN.
        UsageError: several models, more than two labels, or contradicting arguments.
        NotInStoreError: a layer, site, label or column is not there.
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
    own = cells.cells(selection, sides, group_by, notes)
    if test_store is not None:
        jobs = _across(own, test_store, chosen.and_where(test), sides, group_by, setting, notes)
    elif test is not None:
        held = cells.choose(store, chosen.and_where(test)).rows
        kept = cells.choose(store, chosen.and_where(train)).rows if train is not None else None
        jobs = [_split(cell, held, kept, setting, notes) for cell in own]
    else:
        known: dict[bytes, Job] = {}
        jobs = [_crossed(cell, setting, known) for cell in own]
    results = evaluate(jobs, setting, progress)
    notes += [UNSETTLED.format(place=each.place.text) for each in results if not each.converged]
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
        "group_by": group_by or "question",
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


def _crossed(cell: Cell, setting: Settings, known: dict[bytes, Job]) -> Job:
    """Divide a cell into folds; cells of the same examples get the same ones."""
    groups = numbers(cell.groups)
    key = groups.tobytes() + cell.positive.tobytes()
    if key not in known:
        try:
            divisions = folds.grouped(cell.positive, groups, setting.folds, setting.seed)
        except TooFewRowsError as error:
            raise TooFewRowsError(f"{cell.place.text}: {error}") from error
        _check_divisions(cell.place, cell.positive, divisions)
        parts = [fold.test for fold in divisions]
        known[key] = _job(cell, None, cell.positive, groups, divisions, parts, setting)
    return known[key]._replace(cell=cell)


def _split(
    cell: Cell, held: np.ndarray, kept: np.ndarray | None, setting: Settings, notes: list[str]
) -> Job:
    tested = np.isin(cell.selection.rows, held)
    trained = ~tested if kept is None else np.isin(cell.selection.rows, kept) & ~tested
    return _divided(cell, None, trained, tested, setting, notes)


def _across(
    own: Sequence[Cell],
    store: Store,
    choice: Choice,
    sides: Classes,
    group_by: str | None,
    setting: Settings,
    notes: list[str],
) -> list[Job]:
    places = [cell.place for cell in own]
    others = matching(store, places, choice)
    jobs = []
    for cell in own:
        found = cells.cells(others[cell.place], sides, group_by, notes)
        (other,) = found
        tested = np.arange(len(cell) + len(other)) >= len(cell)
        jobs.append(_divided(cell, other, ~tested, tested, setting, notes))
    return jobs


def matching(store: Store, places: Sequence[Place], choice: Choice) -> dict[Place, Selection]:
    """Return the rows of ``store`` for each place: same model, site, layer and pooling.

    The region must be the same only where a pooling comes with several.

    Raises:
        MismatchError: there are none; the message names both sides.
    """
    selection = store.select(choice.where)
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
        found[place] = selection.take(codes == fitting[0])
    return found


def _told(there: Sequence[Place], wanted: Place) -> str:
    """Return the places nearest to the wanted one, in words."""
    for name in ("model", "site", "pooling", "layer"):
        values = {getattr(place, name) for place in there}
        if getattr(wanted, name) not in values:
            told = ", ".join(str(value) for value in sorted(values, key=str)[:8])
            return f"{name} {told}"
    return ", ".join(place.text for place in there[:4])


def _divided(
    cell: Cell,
    other: Cell | None,
    trained: np.ndarray,
    tested: np.ndarray,
    setting: Settings,
    notes: list[str],
) -> Job:
    positive = joined(cell.positive, None if other is None else other.positive)
    groups = numbers(joined(cell.groups, None if other is None else other.groups))
    division, dropped = folds.divided(trained, tested, groups)
    if dropped:
        notes.append(
            f"{cell.place.text}: {dropped:,} training rows share their group with a tested row "
            "and are left out"
        )
    if dropped and not len(division.train):
        raise TooFewRowsError(
            f"{cell.place.text}: every training row shares its group, the question as a rule, with "
            "a tested row, and none is left to train on: test on other rows, or group them "
            "otherwise with --group-by"
        )
    _check_divisions(cell.place, positive, [division])
    parts = [division.train, division.test]
    return _job(cell, other, positive, groups, [division], parts, setting)


def _job(
    cell: Cell,
    other: Cell | None,
    positive: np.ndarray,
    groups: np.ndarray,
    divisions: list[Fold],
    parts: list[np.ndarray],
    setting: Settings,
) -> Job:
    count = setting.permutations
    if setting.method == "mlp":
        count = min(count, _REFITS)
    shuffled = folds.permutations(positive, groups, parts, count, setting.seed) if count else None
    return Job(cell, other, divisions, shuffled)


def _check_divisions(place: Place, positive: np.ndarray, divisions: Sequence[Fold]) -> None:
    for division in divisions:
        for part, name in ((division.train, "training"), (division.test, "test")):
            count = int(positive[part].sum())
            if not 0 < count < len(part):
                raise TooFewRowsError(
                    f"{place.text}: the {name} part has {len(part)} rows, {count} of them "
                    "positive, and both classes are needed in it: use fewer --folds, other "
                    "conditions, or more rows"
                )
