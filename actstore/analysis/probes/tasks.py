"""What is asked of a column: which of two classes, which of several, what number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from actstore.analysis.examples import classes, numbers
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import numbers_probing, probing, several_classes
from actstore.analysis.probes.evaluating import Progress
from actstore.analysis.probes.number_results import NumberReport
from actstore.analysis.probes.results import ClassesReport, ProbeReport
from actstore.analysis.probes.run_plan import RunPlan
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader

Task = Literal["auto", "binary", "classes", "number"]
TASKS: tuple[Task, ...] = ("auto", "binary", "classes", "number")
_READERS = ("logistic", "ridge")
"""Methods that numbers may be asked with: the default, which is another for them, and theirs."""


class ProbeOptions(TypedDict, total=False):
    """Keywords of :func:`probe`, as :func:`actstore.analysis.probes.probing.probe` has them."""

    positive: str | Sequence[str] | None
    negative: str | Sequence[str] | None
    choice: RowChoice | None
    settings: ProbeSettings | None
    train: str | None
    test: str | None
    test_store: StoreReader | None
    group_by: str | None
    join_layers: bool
    progress: Progress | None


@overload
def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Literal["binary"],
    **options: Unpack[ProbeOptions],
) -> ProbeReport: ...


@overload
def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Literal["classes"],
    **options: Unpack[ProbeOptions],
) -> ClassesReport: ...


@overload
def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Literal["number"],
    **options: Unpack[ProbeOptions],
) -> NumberReport: ...


@overload
def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Task = "auto",
    **options: Unpack[ProbeOptions],
) -> ProbeReport | ClassesReport | NumberReport: ...


def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Task = "auto",
    **options: Unpack[ProbeOptions],
) -> ProbeReport | ClassesReport | NumberReport:
    """Train and test one probe per layer, site and pooling, or one for each class there.

    With ``join_layers`` there is one per site and pooling, on the vectors of all layers.

    Args:
        store: where the rows are.
        label: column with the classes or numbers.
        task: ``binary`` tells two classes apart, ``classes`` each of several from the rest,
            ``number`` predicts a number by ridge regression. ``auto`` is ``binary`` where
            ``positive`` or ``negative`` is named or there are two values; where there are more it
            is ``number`` of a numeric column and ``classes`` of any other.
        options: as :func:`actstore.analysis.probes.probing.probe` has them.

    Raises:
        UsageError: there is no such task, or something was said that it does not have.
        ActstoreError: whatever the binary probes raise.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}: there are {', '.join(TASKS)}")
    positive, negative = options.get("positive"), options.get("negative")
    if task in ("classes", "number") and (positive or negative):
        kind = "several classes" if task == "classes" else "numbers"
        raise UsageError(
            f"{kind} have no positive and no negative one: leave out --positive and "
            "--negative, or take --task binary"
        )
    if task == "binary" or positive or negative:
        return probing.probe(store, label, **options)
    plan = RunPlan(
        store=store,
        label=label,
        choice=options.get("choice") or RowChoice(),
        setting=options.get("settings") or ProbeSettings(),
        train=options.get("train"),
        test=options.get("test"),
        test_store=options.get("test_store"),
        group_by=options.get("group_by"),
        join_layers=options.get("join_layers", False),
    )
    plan.check()
    selection, values = plan.rows()
    progress = options.get("progress")
    named = {value for value in values if value is not None}
    numeric = numbers.numeric(selection.table([label])[label])
    if task == "number" or (task == "auto" and numeric and len(named) > 2):
        if plan.setting.method not in _READERS:
            raise UsageError(
                f"numbers are predicted by ridge regression, not by {plan.setting.method}: leave "
                "out --method, or take --task classes"
            )
        return numbers_probing.of_numbers(plan, selection, progress)
    names = classes.several(label, values)
    if task == "auto" and len(names) == 2:
        return probing.of_two(plan, selection, classes.find(label, values), progress)
    return several_classes.of_several(plan, selection, names, progress)
