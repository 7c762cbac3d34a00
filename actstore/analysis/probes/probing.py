"""Probes: how well a classifier reads a label off the vectors of each layer, honestly measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from actstore.analysis.examples import classes
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import judging, run_plan
from actstore.analysis.probes.evaluating import Progress, evaluate
from actstore.analysis.probes.results import ProbeReport
from actstore.analysis.probes.run_plan import RunPlan
from actstore.analysis.probes.splits import ProbeSettings

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows


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
    join_layers: bool = False,
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
        join_layers: one probe per site and pooling on the vectors of all chosen layers, those
            of an example one after the other, instead of one for each layer. Examples that
            lack one of the layers are left out, and counted in the notes.
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
    plan = RunPlan(
        store=store,
        label=label,
        choice=choice or RowChoice(),
        setting=settings or ProbeSettings(),
        train=train,
        test=test,
        test_store=test_store,
        group_by=group_by,
        join_layers=join_layers,
    )
    plan.check()
    selection, values = plan.rows()
    return of_two(plan, selection, classes.find(label, values, positive, negative), progress)


def of_two(
    plan: RunPlan, selection: SelectedRows, sides: Classes, progress: Progress | None = None
) -> ProbeReport:
    """Train and test the probes of two classes.

    Args:
        plan: what was asked.
        selection: the store's rows.
        sides: the classes.
        progress: is told how far it has come.
    """
    notes: list[str] = []
    jobs = plan.jobs(selection, sides, notes)
    evaluated, words = evaluate(jobs, plan.setting, progress)
    results, best = judging.judge(jobs, evaluated, words, plan.setting, notes)
    results = [
        replace(result, made_of=run_plan.made_of(job))
        for job, result in zip(jobs, results, strict=True)
    ]
    notes += [
        run_plan.UNSETTLED.format(place=each.place.text) for each in results if not each.converged
    ]
    told_apart = {"positive": list(sides.positive), "negative": list(sides.negative)}
    return ProbeReport(
        results=results,
        best=best,
        classes=sides,
        method=plan.setting.method,
        lineage=plan.lineage(jobs[0].rows.grouping.grouped_by, told_apart),
        notes=list(dict.fromkeys(notes)),
    )
