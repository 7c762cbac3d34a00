"""What each place of a run is trained and tested on, and the shuffled labels they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np

from actstore.analysis.examples import joined_layers, place_rows
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.example_groups import ExampleGroups
from actstore.analysis.examples.numbers import Numbers
from actstore.analysis.examples.place_rows import ActivationPlace, PlaceRows
from actstore.analysis.solvers.linear import Method
from actstore.analysis.statistics import folds, shuffling
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.shuffling import LabelledRows, Shuffled
from actstore.errors import TooFewRowsError
from actstore.querying.selected import SelectedRows
from actstore.wording import counted

REFITS = 20
"""Permutations of a method that must be trained anew for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """How probes are trained and tested."""

    method: Method = "logistic"
    strength: float | None = None
    """Inverse of the L2 penalty: scikit-learn's ``C``, and ``1 / alpha`` of ridge and MLP. None
    is 1, and for numbers what the training rows of each fold choose."""
    folds: int = 5
    permutations: int = 100
    seed: int = 0

    @property
    def inverse(self) -> float:
        """The strength, where it is not chosen."""
        return 1.0 if self.strength is None else self.strength

    @property
    def runs(self) -> int:
        """How often labels are shuffled."""
        return min(self.permutations, REFITS) if self.method == "mlp" else self.permutations


class Job(NamedTuple):
    """One place with its divisions, ready to be worked on."""

    rows: PlaceRows
    other: PlaceRows | None
    """Rows of another store, tested on; they follow the place's own."""
    divisions: list[Fold]
    shuffled: Shuffled | None
    shared: bool
    """Whether what is a fold here is the same examples' fold in the run's other places."""
    choose: bool = False
    """Whether there is a choice among places, whose nested AUROC is to be computed."""
    codes: np.ndarray | None = None
    """Number of each row's class, int64 ``[rows]``, where there are more than two."""
    stop: Event | None = None
    """Set when nobody waits for the result any more."""

    @property
    def positive(self) -> np.ndarray:
        """Bool ``[rows]``, the other store's rows included."""
        return _joined(self.rows.positive, None if self.other is None else self.other.positive)

    @property
    def numbers(self) -> np.ndarray | None:
        """Float64 ``[rows]``, the other store's rows included; None where classes are asked for."""
        if self.rows.numbers is None:
            return None
        return _joined(self.rows.numbers, None if self.other is None else self.other.numbers)

    @property
    def groups(self) -> np.ndarray:
        """Int64 ``[rows]``, the other store's rows included."""
        return _joined(self.rows.groups, None if self.other is None else self.other.groups)

    @property
    def units(self) -> np.ndarray:
        """Int64 ``[rows, 3]``, as ``ExampleGroups`` has them, the other store's rows included."""
        other = None if self.other is None else self.other.grouping.units
        return _joined(self.rows.grouping.units, other)

    def check(self) -> None:
        """Go no further where nobody waits."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped


class Stopped(Exception):
    """Ends the work on a place; whoever set the event has the reason."""


def crossed(
    own: Sequence[PlaceRows],
    setting: ProbeSettings,
    codes: Sequence[np.ndarray] | None = None,
    names: Sequence[str] = ("negative", "positive"),
) -> list[Job]:
    """Divide places into folds; an example is in the same fold in all of them.

    Args:
        own: the places.
        setting: folds, seed, and how many shuffled labels.
        codes: class of each place's rows, int64 ``[rows]``, where there are more than two.
        names: of the classes, for messages.

    Raises:
        TooFewRowsError: a class occurs in too few groups of a place.
    """
    number = max(int(rows.groups.max(initial=-1)) for rows in own) + 1
    labels = codes or [rows.positive.astype(np.int64) for rows in own]
    sizes = np.zeros((number, len(names)), np.int64)
    own_sizes = []
    for rows, label in zip(own, labels, strict=True):
        size = np.zeros_like(sizes)
        np.add.at(size, (rows.groups, label), 1)
        np.maximum(sizes, size, out=sizes)
        own_sizes.append(size)
    there = sizes.any(1)
    fold_of = np.full(number, -1, np.int64)
    if setting.folds >= 2 and setting.seed >= 0:
        fold_of[there] = folds.dealt(sizes[there], setting.folds, setting.seed)
    jobs = []
    for rows, label, size in zip(own, labels, own_sizes, strict=True):
        held = np.stack([size[fold_of == fold].sum(0) for fold in range(setting.folds)])
        shared = bool(held.all())
        if shared:
            divisions = folds.divisions(fold_of[rows.groups], setting.folds)
        else:
            # The place lacks so many rows that it needs folds of its own.
            try:
                divisions = folds.grouped(label, rows.groups, setting.folds, setting.seed, names)
            except TooFewRowsError as error:
                raise TooFewRowsError(f"{rows.place.text}: {error}") from error
            check_divisions(rows.place, label, divisions, names)
        jobs.append(Job(rows, None, divisions, None, shared))
    if not _agree(jobs):
        # Groups that go by the layer put an example here in one fold, there in another.
        jobs = [job._replace(shared=False) for job in jobs]
    return jobs if codes else with_shuffled(jobs, setting)


def split(
    own: Sequence[PlaceRows],
    held: np.ndarray,
    kept: np.ndarray | None,
    setting: ProbeSettings,
    notes: list[str],
) -> list[Job]:
    """Test each place on some of its rows.

    Args:
        own: the places.
        held: ``row_id`` of the rows to test on.
        kept: of those to train on; all others when missing.
        setting: how many shuffled labels.
        notes: takes how many training rows were left out.

    Raises:
        TooFewRowsError: a part has one class only, or nothing is left to train on.
    """
    jobs = []
    for rows in own:
        tested = np.any(np.isin(rows.row_ids, held), axis=1)
        trained = ~tested
        if kept is not None:
            trained &= np.all(np.isin(rows.row_ids, kept), axis=1)
        jobs.append(_divided(rows, None, trained, tested, notes))
    return with_shuffled(jobs, setting)


def across(
    own: Sequence[PlaceRows],
    others: SelectedRows,
    places: Mapping[ActivationPlace, np.ndarray],
    grouping: ExampleGroups,
    sides: Classes | Numbers,
    setting: ProbeSettings,
    notes: list[str],
) -> list[Job]:
    """Test each place on the rows of another store.

    Args:
        own: the places.
        others: the other store's rows.
        places: which of them are of each place's place, bool ``[rows]``.
        kin: what must stay on one side among them, grouped together with the places' own.
        sides: the classes, or the numbers.
        setting: how many shuffled labels.
        notes: takes how many training rows were left out.

    Raises:
        TooFewRowsError: a part has one class only, or nothing is left to train on.
    """
    jobs = []
    for rows in own:
        theirs = places[rows.place]
        found = place_rows.by_place(
            others.take(theirs), sides, notes=notes, grouping=grouping.part(theirs)
        )
        if rows.place.layers is not None:
            told: list[str] = []
            found = joined_layers.join(found, sides.column, told, rows.place.layers)
            notes += [f"in the other store: {each}" for each in told]
        (other,) = found
        tested = np.arange(len(rows) + len(other)) >= len(rows)
        jobs.append(_divided(rows, other, ~tested, tested, notes))
    return with_shuffled(jobs, setting)


def _agree(jobs: Sequence[Job]) -> bool:
    """Return whether each version of an example is in one fold, whatever the place."""
    versions = np.concatenate([job.units[:, 1] for job in jobs if job.shared] or [np.zeros(0, int)])
    fold_of = np.full(int(versions.max(initial=-1)) + 1, -1)
    for job in jobs:
        for fold, division in enumerate(job.divisions if job.shared else ()):
            own = job.units[division.test, 1]
            if not np.isin(fold_of[own], (-1, fold)).all():
                return False
            fold_of[own] = fold
    return True


def _divided(
    rows: PlaceRows,
    other: PlaceRows | None,
    trained: np.ndarray,
    tested: np.ndarray,
    notes: list[str],
) -> Job:
    job = Job(rows, other, [], None, True)
    division, dropped = folds.divided(trained, tested, job.groups)
    if dropped:
        notes.append(
            f"{rows.place.text}: {dropped:,} training rows share their group "
            f"({rows.grouping.grouped_by}) with a tested row and are left out"
        )
    if dropped and not len(division.train):
        raise TooFewRowsError(
            f"{rows.place.text}: every training row shares its group "
            f"({rows.grouping.grouped_by}) with a tested row, and none is left to train on: test "
            "on other rows, or group them otherwise with --group-by, such as question where "
            "examples are only numbered alike"
        )
    if rows.numbers is None:
        check_divisions(rows.place, job.positive.astype(np.int64), [division])
    return job._replace(divisions=[division])


def with_shuffled(
    jobs: list[Job], setting: ProbeSettings, codes: Sequence[np.ndarray] | None = None
) -> list[Job]:
    """Give the jobs labels that were shuffled for all of them at once.

    Args:
        jobs: the places.
        setting: how many shuffled labels, and their seed.
        codes: class of each job's rows, int64 ``[rows]``, where there are more than two.
    """
    if not setting.runs:
        return jobs
    own = []
    labels = codes or [job.positive if job.numbers is None else job.numbers for job in jobs]
    for number, (job, label) in enumerate(zip(jobs, labels, strict=True)):
        part = np.full(len(job.positive), -1, np.int64)
        if len(job.divisions) == 1:
            part[job.divisions[0].train], part[job.divisions[0].test] = 0, 1
        for fold, division in enumerate(job.divisions if len(job.divisions) > 1 else ()):
            # Folds of its own exchange nothing with others'.
            part[division.test] = fold if job.shared else fold + (number + 1) * setting.folds
        own.append(LabelledRows(label, part, job.groups, job.units))
    whole = jobs[0].numbers is not None
    drawn = shuffling.shared(own, setting.runs, setting.seed, whole=whole)
    return [job._replace(shuffled=each) for job, each in zip(jobs, drawn, strict=True)]


def check_divisions(
    place: ActivationPlace,
    codes: np.ndarray,
    divisions: Sequence[Fold],
    names: Sequence[str] = ("negative", "positive"),
) -> None:
    """Refuse divisions that lack a class on one of their sides.

    Args:
        place: for messages.
        codes: class of each row, int64 ``[rows]``.
        divisions: the folds.
        names: of the classes.

    Raises:
        TooFewRowsError: one does; the message says which part of it.
    """
    for division in divisions:
        for part, name in ((division.train, "training"), (division.test, "test")):
            counts = np.bincount(codes[part], minlength=len(names))
            if counts.all():
                continue
            if len(names) > 2:
                raise TooFewRowsError(
                    f"{place.text}: the {name} part has {counted(len(part), 'row')}, none of them "
                    f"{names[int(counts.argmin())]}, and all {len(names)} classes are needed in "
                    "it: use fewer --folds, other conditions, or leave the class out with --where"
                )
            raise TooFewRowsError(
                f"{place.text}: the {name} part has {len(part)} rows, {int(counts[1])} of them "
                "positive, and both classes are needed in it: use fewer --folds, other "
                "conditions, or more rows"
            )


def _joined(one: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    return one if other is None else np.concatenate([one, other])
