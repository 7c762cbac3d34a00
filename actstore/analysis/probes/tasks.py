"""What is asked of a column: which of two classes, which of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, overload

from actstore.analysis.examples import classes
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import probing, several_classes
from actstore.analysis.probes.evaluating import Progress
from actstore.analysis.probes.results import ClassesReport, ProbeReport
from actstore.analysis.probes.run_plan import RunPlan
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader

Task = Literal["auto", "binary", "classes"]
TASKS: tuple[Task, ...] = ("auto", "binary", "classes")


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
    task: Task = "auto",
    **options: Unpack[ProbeOptions],
) -> ProbeReport | ClassesReport: ...


def probe(
    store: StoreReader,
    label: str = "label",
    *,
    task: Task = "auto",
    **options: Unpack[ProbeOptions],
) -> ProbeReport | ClassesReport:
    """Train and test one probe per layer, site and pooling, or one for each class there.

    Args:
        store: where the rows are.
        label: column with the classes.
        task: ``binary`` tells two classes apart, ``classes`` each of several from the rest.
            ``auto`` is ``binary`` where ``positive`` or ``negative`` is named or there are two
            values, and ``classes`` where there are more.
        options: as :func:`actstore.analysis.probes.probing.probe` has them.

    Raises:
        UsageError: there is no such task, or numbers that nobody called classes.
        ActstoreError: whatever the binary probes raise.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}: there are {', '.join(TASKS)}")
    positive, negative = options.get("positive"), options.get("negative")
    if task == "classes" and (positive or negative):
        raise UsageError(
            "several classes have no positive and no negative one: leave out --positive and "
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
    )
    plan.check()
    selection, values = plan.rows()
    names = classes.several(label, values)
    progress = options.get("progress")
    if task == "auto" and len(names) == 2:
        return probing.of_two(plan, selection, classes.find(label, values), progress)
    if task == "auto" and all(
        isinstance(value, int | float) for value in values if value is not None
    ):
        raise UsageError(
            f"{label} has {counted(len(names), 'number')}, and there are no probes of numbers: "
            "--task classes takes each as a class, --positive VALUE holds one against the rest"
        )
    return several_classes.of_several(plan, selection, names, progress)
