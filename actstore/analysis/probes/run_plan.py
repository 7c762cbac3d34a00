"""What a run of probes was asked: which rows of which store, how they are divided and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from actstore.analysis.examples import (
    example_groups,
    joined_layers,
    lineages,
    near_copies,
    place_rows,
)
from actstore.analysis.examples.classes import Classes
from actstore.analysis.examples.matching import places_in
from actstore.analysis.examples.numbers import Numbers
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import splits, words_baseline
from actstore.analysis.probes.splits import Job, ProbeSettings
from actstore.analysis.solvers import linear
from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.querying.reader import StoreReader
    from actstore.querying.selected import SelectedRows

_WEAKEST, _STRONGEST = 1e-10, 1e10
"""Strengths beyond which penalties are no numbers for scikit-learn, or lost in rounding."""
UNSETTLED = (
    "{place}: the regression has not converged: its weights are not determined to 1 in 10,000, "
    "and may differ from another program's; a smaller --strength settles them"
)
"""Note on a fit that ended before it came to the optimum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What :func:`actstore.analysis.probes.probing.probe` was asked, but for the classes."""

    store: StoreReader
    label: str
    choice: RowChoice
    setting: ProbeSettings
    train: str | None
    test: str | None
    test_store: StoreReader | None
    group_by: str | None
    join_layers: bool = False

    def check(self) -> None:
        """Refuse settings that are none, and conditions that contradict each other.

        Raises:
            UsageError: says which.
            MissingExtraError: scikit-learn is not installed.
        """
        linear.require()
        setting = self.setting
        if setting.method not in linear.METHODS:
            raise UsageError(f"no method {setting.method!r}: there are {', '.join(linear.METHODS)}")
        if not _WEAKEST <= setting.inverse <= _STRONGEST:
            raise UsageError(
                f"the strength must be between {_WEAKEST:g} and {_STRONGEST:g}, "
                f"got {setting.strength}"
            )
        if setting.seed < 0:
            raise UsageError(f"a seed cannot be negative, got {setting.seed}")
        if self.train is not None and self.test is None and self.test_store is None:
            raise UsageError(
                "train rows need rows to test on: give a test condition or a test store"
            )
        layers = self.choice.layers
        if self.join_layers and layers is not None and len({*layers} - {None}) < 2:
            raise UsageError(
                "--join-layers makes one vector of those of several layers: name two numbered "
                "layers or more with --layers, or leave --layers out to join all"
            )
        if setting.permutations < 0:
            raise UsageError(f"permutations cannot be negative, got {setting.permutations}")

    def rows(self) -> tuple[SelectedRows, list[object]]:
        """Return the store's rows, and the labels of all rows, the other store's included."""
        if self.train is not None and self.test is not None:
            rows = self.choice.and_where(f"({self.train}\n) OR ({self.test}\n)")
        else:
            rows = self.choice.and_where(self.train)
        selection, values = place_rows.rows_and_labels(self.store, rows, self.label)
        if self.test_store is not None:
            others = self.test_store.select(self.choice.and_where(self.test).where)
            values = values + others.table([self.label])[self.label].to_pylist()
        return selection, values

    def jobs(
        self,
        selection: SelectedRows,
        sides: Classes | Numbers,
        notes: list[str],
        names: Sequence[str] = (),
    ) -> list[Job]:
        """Return what each place is trained and tested on.

        Args:
            selection: the store's rows.
            sides: the classes; where there are several, all of them are on one of the sides. Or
                the numbers, which are not shuffled yet either.
            notes: takes what should be known of the rows.
            names: the classes where there are several; labels are then not shuffled yet.
        """
        setting, others = self.setting, None
        if names or isinstance(sides, Numbers):
            setting = replace(setting, permutations=0)
        if self.test_store is not None:
            others = self.test_store.select(self.choice.and_where(self.test).where)
        both = [selection] if others is None else [selection, others]
        used = np.concatenate([place_rows.known_rows(each, sides) for each in both])
        grouping = example_groups.groups_of(both, self.group_by, used=used, notes=notes)
        own = place_rows.by_place(
            selection, sides, notes=notes, grouping=grouping.part(slice(0, len(selection)))
        )
        if self.join_layers:
            own = joined_layers.join(own, self.label, notes, self.choice.layers)
        if self.test_store is not None and others is not None:
            fitting = places_in(others, [rows.place for rows in own], self.test_store.name)
            theirs = grouping.part(slice(len(selection), None))
            jobs = splits.across(own, others, fitting, theirs, sides, setting, notes)
        elif self.test is not None:
            held = place_rows.choose(self.store, self.choice.and_where(self.test)).rows
            kept = None
            if self.train is not None:
                kept = place_rows.choose(self.store, self.choice.and_where(self.train)).rows
            jobs = splits.split(own, held, kept, setting, notes)
        elif names:
            codes = [place_rows.codes_of(rows.table, self.label, names) for rows in own]
            jobs = splits.crossed(own, setting, codes, names)
        elif isinstance(sides, Numbers):
            codes = [np.zeros(len(rows), np.int64) for rows in own]
            jobs = splits.crossed(own, setting, codes, (f"numbered by {self.label}",))
        else:
            jobs = splits.crossed(own, setting)
        notes += _near_copies(jobs)
        return jobs

    def lineage(self, grouped_by: str, classes: Mapping[str, object]) -> dict[str, object]:
        """Return where the rows come from and how they were used.

        Args:
            grouped_by: what kept rows together.
            classes: what is told apart.
        """
        setting = self.setting
        found: dict[str, object] = {
            "store": place_rows.store_name(self.store),
            "commit": self.store.commit,
            "store_fingerprint": self.store.fingerprint,
            "query": self.choice.text,
            **({"join_layers": True} if self.join_layers else {}),
            "train": self.train,
            "test": self.test,
            "label": self.label,
            **classes,
            "group_by": grouped_by,
            "method": setting.method,
            "strength": setting.inverse,
            "folds": setting.folds if self.test is None and self.test_store is None else None,
            "permutations": setting.permutations,
            "seed": setting.seed,
        }
        if self.test_store is not None:
            found["test_store"] = place_rows.store_name(self.test_store)
            found["test_store_fingerprint"] = self.test_store.fingerprint
        return found


def made_of(job: Job) -> np.ndarray:
    """Return the keys of the rows that the kept probe is trained on."""
    found = []
    for selection in job.rows.selections:
        trained = selection.take(job.divisions[0].train) if len(job.divisions) == 1 else selection
        found.append(lineages.keys(trained, job.rows.grouping.grouped_by))
    return np.unique(np.concatenate(found))


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
