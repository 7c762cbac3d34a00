"""What a smaller type costs: the error of the vectors, and the change of what probes read off them.

Both are measured before anything is written: on a snapshot that hands out each vector as it would
be read back. Rows, labels, groups and folds are the same on both sides, so all that differs is
the rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore.analysis.examples import place_rows
from actstore.analysis.examples.place_rows import PLACE_COLUMNS, ActivationPlace, RowChoice
from actstore.analysis.probes import tasks
from actstore.analysis.probes.number_results import NumberReport
from actstore.analysis.probes.splits import ProbeSettings
from actstore.errors import HarmError, MissingExtraError, TooFewRowsError, UsageError
from actstore.querying import vector_math
from actstore.querying.reader import StoreReader
from actstore.storage import converting, narrowing
from actstore.storage.checksums import Check
from actstore.storage.converting import Target
from actstore.storage.files import LocalFiles
from actstore.storage.manifest import ShardEntry
from actstore.storage.mapping import ShardReader
from actstore.storage.snapshot import Snapshot

_BLOCK = 1 << 20
"""Values compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHarm:
    """What the vectors of one model, site, layer and pooling lose."""

    place: ActivationPlace
    rows: int
    relative_error: float
    """Root of the mean squared error over that of the values."""
    greatest_error: float
    """The largest difference of a value."""
    cosine: float
    """Mean cosine of a vector, zeros left out, and what is left of it; 0 where nothing is."""
    lowest_cosine: float
    score: str | None = None
    """What ``before`` and ``after`` are: ``AUROC``, ``macro AUROC`` or ``R2``; None without."""
    before: float | None = None
    """Of a probe on the vectors as they are, tested on rows that it was not trained on."""
    after: float | None = None
    """The same on the vectors as they would be."""

    @property
    def change(self) -> float | None:
        """How much the probe gets better, or with a minus worse."""
        return None if self.before is None or self.after is None else self.after - self.before

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        found = {name: value for name, value in asdict(self).items() if name != "place"}
        return {**self.place.named, **found, "change": self.change}


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What a conversion costs, place by place."""

    to: Target
    places: tuple[PlaceHarm, ...]
    bytes_before: int
    """Of all vectors."""
    bytes_after: int
    """Of all vectors, with the scales of those that become int8."""
    notes: tuple[str, ...]
    """Why there is no probe, where there is none."""

    @property
    def worst(self) -> PlaceHarm | None:
        """The place whose probe loses most; None where nothing could be probed."""
        probed = [each for each in self.places if each.change is not None]
        return min(probed, key=lambda each: each.change or 0.0) if probed else None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "to": self.to,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "places": [each.as_dict() for each in self.places],
            "notes": list(self.notes),
        }


def measure(
    store: StoreReader,
    to: Target,
    *,
    label: str = "label",
    progress: Callable[[int], None] | None = None,
) -> Harm:
    """Measure what converting a store costs; nothing is written.

    Args:
        store: a store on this machine.
        to: the type.
        label: column whose values the probes tell apart.
        progress: called with the bytes compared so far, as float32.
    """
    selection = store.select()
    snapshot = selection.snapshot
    becoming = becomes(snapshot, to)
    codes, places = place_rows.places_of(selection.table(list(PLACE_COLUMNS)))
    measured: list[tuple[ActivationPlace, int, _Errors]] = []
    staying = np.zeros(len(snapshot.shards), np.int64)
    done = 0
    for number, place in sorted(enumerate(places), key=lambda each: _order(each[1])):
        rows = np.flatnonzero(codes == number)
        errors, stay = _errors(snapshot, becoming, rows, to)
        measured.append((place, len(rows), errors))
        shards = np.searchsorted(snapshot.offsets, stay, "right") - 1
        staying += np.bincount(shards, minlength=len(staying))
        done += len(rows) * 4 * snapshot.shape(rows[:1])[0]
        if progress:
            progress(done)
    notes: list[str] = []
    scores = _scores(store, becoming, label, notes)
    found = [
        PlaceHarm(place=place, rows=rows, **errors._asdict(), **scores.get(place, {}))
        for place, rows, errors in measured
    ]
    return Harm(
        to=to,
        places=tuple(found),
        bytes_before=sum(entry.vector_bytes for entry in snapshot.shards),
        bytes_after=sum(
            converting.bytes_after(entry, to, staying=stay)
            for entry, stay in zip(snapshot.shards, staying.tolist(), strict=True)
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


def check(harm: Harm, most: float, *, asked: bool) -> None:
    """Refuse a conversion that costs a probe more than is allowed.

    Args:
        harm: what was measured.
        most: how much a probe may get worse.
        asked: whether the user named ``most``: it cannot then be left unmeasured.

    Raises:
        HarmError: it costs more, or cannot be told.
    """
    worst = harm.worst
    if worst is None:
        if asked:
            raise HarmError(
                f"--max-harm {most:g} cannot be held: no probe could be trained on these rows "
                f"({'; '.join(harm.notes) or 'there are no labels'}); nothing was converted. Set "
                "labels with actstore label, or leave --max-harm out to go by the errors alone"
            )
        return
    assert worst.change is not None
    if -worst.change > most:
        raise HarmError(
            f"{harm.to} would cost the probe of {worst.place.text} {-worst.change:.4f} of its "
            f"{worst.score} ({worst.before:.4f} before, {worst.after:.4f} after), more than the "
            f"{most:g} allowed; nothing was converted. Convert to a larger type, or allow more "
            "with --max-harm"
        )


def becomes(snapshot: Snapshot, to: Target) -> Snapshot:
    """Return the same commit with its vectors as they would be read back."""
    changing = {entry.path: entry for entry in converting.changing(snapshot.shards, to)}
    files = _BecomingFiles(snapshot.root, snapshot.files.check, to, changing)
    # As float32, which int8 is handed out as: float16, though stored so now, would round again.
    shards = tuple(
        dataclasses.replace(entry, dtype="float32") if entry.path in changing else entry
        for entry in snapshot.shards
    )
    return Snapshot(files, dataclasses.replace(snapshot.manifest, shards=shards))


def _order(place: ActivationPlace) -> tuple[Any, ...]:
    layer = place.layer
    return place.model, place.site, place.pooling, place.region or "", layer is None, layer or 0


class _Errors(NamedTuple):
    relative_error: float
    greatest_error: float
    cosine: float
    lowest_cosine: float


def _errors(
    snapshot: Snapshot, becoming: Snapshot, rows: np.ndarray, to: Target
) -> tuple[_Errors, np.ndarray]:
    """Return what rows of one width lose, and those of them that the type cannot hold."""
    width = snapshot.shape(rows[:1])[0]
    squares = total = greatest = cosines = 0.0
    lowest = 1.0
    counted = 0
    staying = [rows[:0]]
    for block in vector_math.blocks(snapshot, rows, max(1, _BLOCK // width)):
        held = narrowing.fits(block.vectors, converting.narrow_of(to))
        staying.append(rows[block.start : block.stop][~held])
        was = block.vectors.astype(np.float64)
        now = becoming.gather(rows[block.start : block.stop]).astype(np.float64)
        finite = np.isfinite(was).all(axis=1)
        was, now = was[finite], now[finite]
        if not len(was):
            continue
        gap = was - now
        squares += float(np.vecdot(gap, gap).sum())
        total += float(np.vecdot(was, was).sum())
        greatest = max(greatest, float(np.abs(gap).max()))
        lengths = np.sqrt(np.vecdot(was, was) * np.vecdot(now, now))
        along = np.divide(np.vecdot(was, now), lengths, out=np.zeros(len(was)), where=lengths > 0)
        cosine = np.minimum(along[was.any(axis=1)], 1.0)
        cosines += float(cosine.sum())
        counted += len(cosine)
        lowest = min(lowest, float(cosine.min(initial=1.0)))
    errors = _Errors(
        float(np.sqrt(squares / total)) if total else 0.0,
        greatest,
        cosines / counted if counted else 1.0,
        lowest,
    )
    return errors, np.concatenate(staying)


def _scores(
    store: StoreReader, becoming: Snapshot, label: str, notes: list[str]
) -> dict[ActivationPlace, dict[str, Any]]:
    """Return the figures of the probes of each place, before and after."""
    found: dict[ActivationPlace, dict[str, Any]] = {}
    after = StoreReader(becoming, lambda: becoming)
    try:
        for model in store.models:
            mine = _probed(store, model, label, notes)
            theirs = _probed(after, model, label, []) if mine else {}
            for place, (score, value) in mine.items():
                if place in theirs:
                    found[place] = {"score": score, "before": value, "after": theirs[place][1]}
    finally:
        after.close()
    return found


def _probed(
    store: StoreReader, model: str, label: str, notes: list[str]
) -> dict[ActivationPlace, tuple[str, float]]:
    choice = RowChoice(model=model)
    try:
        report = tasks.probe(store, label, choice=choice, settings=ProbeSettings(permutations=0))
    except (TooFewRowsError, UsageError) as error:
        notes.append(f"no probe of {model}: {error}")
        return {}
    except MissingExtraError as error:
        notes.append(f"no probes: {error}")
        return {}
    if isinstance(report, NumberReport):
        return {each.place: ("R2", each.r2.value) for each in report.results}
    results: Sequence[Any] = report.results
    name = "AUROC" if hasattr(report, "classes") else "macro AUROC"
    return {each.place: (name, each.auroc.value) for each in results}


class _BecomingFiles(LocalFiles):
    """The files of a store, read as they would be after a conversion."""

    def __init__(
        self, root: Path, check: Check, to: Target, changing: Mapping[str, ShardEntry]
    ) -> None:
        super().__init__(root, check)
        self._to: Target = to
        self._changing = changing

    def open_shard(self, entry: ShardEntry) -> ShardReader:
        if entry.path not in self._changing:
            return super().open_shard(entry)
        return _Becoming(super().open_shard(self._changing[entry.path]), self._to)


class _Becoming:
    """A shard whose vectors are handed out as they would be after a conversion."""

    def __init__(self, shard: ShardReader, to: Target) -> None:
        self._shard = shard
        self._to: Target = to

    def close(self) -> None:
        self._shard.close()

    def view(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def run(self, start: int, out: np.ndarray) -> None:
        np.copyto(out, self.take(np.arange(start, start + len(out))))

    def take(self, rows: np.ndarray) -> np.ndarray:
        return converting.rounded(self._shard.take(rows), self._to)

    def fetch(self, rows: np.ndarray) -> None:
        self._shard.fetch(rows)
