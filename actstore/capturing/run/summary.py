"""What a capture reports: progress while it runs, and what became of it in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore import paths
from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.images import image_paths
from actstore.capturing.run.asked import Asked
from actstore.capturing.run.estimate import CaptureEstimate
from actstore.capturing.selfcheck.pad_leaks import Padding
from actstore.errors import UsageError
from actstore.querying import tables
from actstore.querying.reader import open_reader
from actstore.querying.selected import SelectedRows
from actstore.wording import counted

if TYPE_CHECKING:
    import numpy as np
    import polars as pl


class CaptureProgress(NamedTuple):
    """How far a capture is; given to ``progress`` after every batch."""

    examples: int
    """Examples done in this session, refused ones included, not those stored earlier."""
    total: int | None
    """Examples to do in this session; None where the source does not say how many it has."""
    tokens: int
    """Tokens that the model has read and written, padding not counted."""
    stored_earlier: int
    """Examples that an earlier session had stored."""


class Refused(NamedTuple):
    """An example without rows, and why."""

    example: str
    reason: str

    @classmethod
    def by(cls, example: Example, error: Exception) -> Refused:
        """Return an example's refusal; messages that begin with its name lose it.

        It is stored, so that images lose the folders that they lie in.
        """
        reason = str(error).removeprefix(example.where).removeprefix(":").lstrip()
        folders = {} if example.images is None else {example.images: "the images' folder"}
        return cls(example.where, paths.shareable(reason, folders, image_paths(example)))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CaptureSummary:
    """What a capture did, or what it would do; and the rows of what was asked.

    Rows come by example in the order asked; those of one example by layer (of sites without
    one last), then site and pool as they were named, then position of the token. Examples that
    were refused have none. It does not matter when, and in how many runs, they were stored.
    """

    run_id: str
    model: str
    dataset: str | None
    dry_run: bool
    resumed: bool
    """Whether an earlier run, broken off, was taken up again under its ``run_id``."""
    commit: int | None
    """Number of the last commit; None if nothing new was stored."""
    examples: int
    """Examples captured in this session."""
    skipped: int
    """Examples left out because the store already had them."""
    refused: tuple[Refused, ...]
    """Examples that could not be captured: too long, an image missing, values not finite."""
    rows: int
    """Rows that are new in the store."""
    rows_present: int
    """Rows that the store already held."""
    empty: Mapping[str, int]
    """Pool: captured examples that have no row for it, because the region is empty."""
    empty_responses: int
    """Captured examples whose response has no token with a state (of one or no token)."""
    labels: Mapping[str, int]
    """Label: examples; those without one are not counted."""
    layers: tuple[int, ...]
    sites: tuple[str, ...]
    pools: tuple[str, ...]
    batches: int
    batch_tokens: int | None
    """Tokens per batch that ``batch_size="auto"`` had come down to, if memory ran out."""
    tokens: int
    """Tokens that the model read and wrote, padding not counted."""
    bytes: int
    """Bytes of the vectors that are new."""
    seconds: float
    self_check: Mapping[str, Any] | None
    """Numbers of the self-check; None if it was left out."""
    estimate: CaptureEstimate | None
    """What the whole run takes; in a dry run only."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know."""
    asked: Asked | None = field(default=None, compare=False)
    """What was asked of the store; None in a dry run."""

    def __repr__(self) -> str:
        places = f"{counted(len(self.layers), 'layer')} of {', '.join(self.sites)}"
        asked = self.examples + self.skipped
        done = f"{self.examples:,} captured, {self.skipped:,} there before"
        if self.refused:
            done += f", {len(self.refused):,} refused"
        if self.estimate is not None:
            done = f"a dry run, {self.estimate.rows:,} rows to come"
        return (
            f"{type(self).__name__}({self.model!r}, {counted(asked, 'example')}: {done}; "
            f"{places}, {', '.join(self.pools)}; {counted(self.rows, 'row')} new"
            f"{f', commit {self.commit}' if self.commit is not None else ''})"
        )

    @property
    def row_ids(self) -> np.ndarray:
        """The ``row_id`` of each row of what was asked, int64, in the order that is said above.

        Raises:
            UsageError: it was a dry run, which stores nothing.
        """
        return self._asked().rows

    @property
    def without_rows(self) -> tuple[str, ...]:
        """The ids of examples that were asked and have no row, refused ones among them.

        Raises:
            UsageError: as :attr:`row_ids`.
        """
        return self._asked().without_rows

    def selected(self) -> SelectedRows:
        """Return the rows of what was asked, in their order, at the commit of this capture.

        Raises:
            UsageError: as :attr:`row_ids`.
            StoreNotFoundError: every example was refused, and there is no store yet.
        """
        asked = self._asked()
        return open_reader(asked.store, asked.commit).rows_at(asked.rows)

    def to_polars(
        self, columns: Sequence[str] | None = None, *, vectors: bool = True
    ) -> pl.DataFrame:
        """Return the rows of what was asked as a Polars frame.

        Args:
            columns: metadata columns; the schema's and ``row_id`` when missing.
            vectors: with the vectors, as ``activation``, last.

        Raises:
            UsageError: as :attr:`row_ids`.
            NotInStoreError: there is no such column.
            MixedVectorsError: the vectors differ in width.
        """
        return tables.to_polars(self.selected(), columns, vectors=vectors)

    def _asked(self) -> Asked:
        if self.asked is None:
            raise UsageError("a dry run stores nothing, so there are no rows: leave out dry_run")
        return self.asked

    @property
    def examples_per_second(self) -> float:
        """Examples captured per second, model and storing together."""
        return self.examples / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens read and written per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        found = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "asked"
        }
        found["refused"] = [each._asdict() for each in self.refused]
        for name in ("layers", "sites", "pools", "notes"):
            found[name] = list(found[name])
        for name in ("empty", "labels"):
            found[name] = dict(found[name])
        found["self_check"] = None if self.self_check is None else dict(self.self_check)
        found["estimate"] = None if self.estimate is None else self.estimate.as_dict()
        found["examples_per_second"] = round(self.examples_per_second, 3)
        found["tokens_per_second"] = round(self.tokens_per_second, 3)
        return found


def later_notes(padding: Padding | None, budget: int | None, empty: Collection[str]) -> list[str]:
    """Return what only the end of a run can tell.

    Args:
        padding: what pads do to the model's states.
        budget: tokens of a batch after memory ran out.
        empty: pools that some examples have no row of.
    """
    notes = [padding.note] if padding is not None and padding.note else []
    if budget is not None:
        notes.append(f"memory ran out: batches were cut down to {budget:,} tokens")
    if any(pool.startswith("question.") for pool in empty):
        notes.append("no row of a question whose text does not stand in the prompt as it is")
    return notes
