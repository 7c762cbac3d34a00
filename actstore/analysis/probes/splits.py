"""What each cell of a run is trained and tested on, and the shuffled labels they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.example_groups import Kinship
from actstore.analysis.examples.place_rows import Cell, Place
from actstore.analysis.solvers.linear import Method
from actstore.analysis.statistics import folds, shuffling
from actstore.analysis.statistics.folds import Fold
from actstore.analysis.statistics.shuffling import Labelled, Shuffled
from actstore.errors import TooFewRowsError
from actstore.querying.selected import SelectedRows

REFITS = 20
"""Permutations of a method that must be trained anew for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How probes are trained and tested."""

    method: Method = "logistic"
    strength: float = 1.0
    """Inverse of the L2 penalty: scikit-learn's ``C``, and ``1 / alpha`` of ridge and MLP."""
    folds: int = 5
    permutations: int = 100
    seed: int = 0

    @property
    def runs(self) -> int:
        """How often labels are shuffled."""
        return min(self.permutations, REFITS) if self.method == "mlp" else self.permutations


class Job(NamedTuple):
    """One cell with its divisions, ready to be worked on."""

    cell: Cell
    other: Cell | None
    """Rows of another store, tested on; they follow the cell's own."""
    divisions: list[Fold]
    shuffled: Shuffled | None
    shared: bool
    """Whether what is a fold here is the same examples' fold in the run's other cells."""
    choose: bool = False
    """Whether there is a choice among cells, whose worth is to be told."""
    stop: Event | None = None
    """Set when nobody waits for the result any more."""

    @property
    def positive(self) -> np.ndarray:
        """Bool ``[rows]``, the other store's rows included."""
        return _joined(self.cell.positive, None if self.other is None else self.other.positive)

    @property
    def groups(self) -> np.ndarray:
        """Int64 ``[rows]``, the other store's rows included."""
        return _joined(self.cell.groups, None if self.other is None else self.other.groups)

    @property
    def units(self) -> np.ndarray:
        """Int64 ``[rows, 3]``, as ``Kinship`` has them, the other store's rows included."""
        other = None if self.other is None else self.other.kin.units
        return _joined(self.cell.kin.units, other)

    def check(self) -> None:
        """Go no further where nobody waits."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped


class Stopped(Exception):
    """Ends the work on a cell; whoever set the event has the reason."""


def crossed(own: Sequence[Cell], setting: Settings) -> list[Job]:
    """Divide cells into folds; an example is in the same fold in all of them.

    Raises:
        TooFewRowsError: a class occurs in too few groups of a cell.
    """
    number = max(int(cell.groups.max(initial=-1)) for cell in own) + 1
    sizes = np.zeros((number, 2), np.int64)
    counted = []
    for cell in own:
        size = np.zeros_like(sizes)
        np.add.at(size, (cell.groups, cell.positive.astype(np.int64)), 1)
        np.maximum(sizes, size, out=sizes)
        counted.append(size)
    there = sizes.any(1)
    fold_of = np.full(number, -1, np.int64)
    if setting.folds >= 2 and setting.seed >= 0:
        fold_of[there] = folds.dealt(sizes[there], setting.folds, setting.seed)
    jobs = []
    for cell, size in zip(own, counted, strict=True):
        held = np.stack([size[fold_of == fold].sum(0) for fold in range(setting.folds)])
        shared = bool(held.all())
        if shared:
            divisions = folds.divisions(fold_of[cell.groups], setting.folds)
        else:
            # The cell lacks so many rows that it needs folds of its own.
            try:
                divisions = folds.grouped(cell.positive, cell.groups, setting.folds, setting.seed)
            except TooFewRowsError as error:
                raise TooFewRowsError(f"{cell.place.text}: {error}") from error
            _check_divisions(cell.place, cell.positive, divisions)
        jobs.append(Job(cell, None, divisions, None, shared))
    if not _agree(jobs):
        # Groups that go by the layer put an example here in one fold, there in another.
        jobs = [job._replace(shared=False) for job in jobs]
    return _shuffled(jobs, setting)


def split(
    own: Sequence[Cell],
    held: np.ndarray,
    kept: np.ndarray | None,
    setting: Settings,
    notes: list[str],
) -> list[Job]:
    """Test each cell on some of its rows.

    Args:
        own: the cells.
        held: ``row_id`` of the rows to test on.
        kept: of those to train on; all others when missing.
        setting: how many shuffled labels.
        notes: takes how many training rows were left out.

    Raises:
        TooFewRowsError: a part has one class only, or nothing is left to train on.
    """
    jobs = []
    for cell in own:
        tested = np.isin(cell.selection.rows, held)
        trained = ~tested if kept is None else np.isin(cell.selection.rows, kept) & ~tested
        jobs.append(_divided(cell, None, trained, tested, notes))
    return _shuffled(jobs, setting)


def across(
    own: Sequence[Cell],
    others: SelectedRows,
    places: Mapping[Place, np.ndarray],
    kin: Kinship,
    sides: Classes,
    setting: Settings,
    notes: list[str],
) -> list[Job]:
    """Test each cell on the rows of another store.

    Args:
        own: the cells.
        others: the other store's rows.
        places: which of them are of each cell's place, bool ``[rows]``.
        kin: what must stay on one side among them, grouped together with the cells' own.
        sides: the classes.
        setting: how many shuffled labels.
        notes: takes how many training rows were left out.

    Raises:
        TooFewRowsError: a part has one class only, or nothing is left to train on.
    """
    jobs = []
    for cell in own:
        rows = places[cell.place]
        (other,) = place_rows.cells(others.take(rows), sides, notes=notes, kin=kin.part(rows))
        tested = np.arange(len(cell) + len(other)) >= len(cell)
        jobs.append(_divided(cell, other, ~tested, tested, notes))
    return _shuffled(jobs, setting)


def _agree(jobs: Sequence[Job]) -> bool:
    """Return whether each version of an example is in one fold, whatever the cell."""
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
    cell: Cell, other: Cell | None, trained: np.ndarray, tested: np.ndarray, notes: list[str]
) -> Job:
    job = Job(cell, other, [], None, True)
    division, dropped = folds.divided(trained, tested, job.groups)
    if dropped:
        notes.append(
            f"{cell.place.text}: {dropped:,} training rows share their group "
            f"({cell.kin.grouped_by}) with a tested row and are left out"
        )
    if dropped and not len(division.train):
        raise TooFewRowsError(
            f"{cell.place.text}: every training row shares its group ({cell.kin.grouped_by}) with "
            "a tested row, and none is left to train on: test on other rows, or group them "
            "otherwise with --group-by, such as question where examples are only numbered alike"
        )
    _check_divisions(cell.place, job.positive, [division])
    return job._replace(divisions=[division])


def _shuffled(jobs: list[Job], setting: Settings) -> list[Job]:
    """Give the jobs labels that were shuffled for all of them at once."""
    if not setting.runs:
        return jobs
    own = []
    for number, job in enumerate(jobs):
        part = np.full(len(job.positive), -1, np.int64)
        if len(job.divisions) == 1:
            part[job.divisions[0].train], part[job.divisions[0].test] = 0, 1
        for fold, division in enumerate(job.divisions if len(job.divisions) > 1 else ()):
            # Folds of its own exchange nothing with others'.
            part[division.test] = fold if job.shared else fold + (number + 1) * setting.folds
        own.append(Labelled(job.positive, part, job.groups, job.units))
    drawn = shuffling.shared(own, setting.runs, setting.seed)
    return [job._replace(shuffled=each) for job, each in zip(jobs, drawn, strict=True)]


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


def _joined(one: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    return one if other is None else np.concatenate([one, other])
