"""Shifts and scales vectors to a common size, as sparse autoencoders are trained on them.

``norm`` is ``y = x * sqrt(d) / E|x|``: one factor for all vectors, after which their mean L2
norm is ``sqrt(d)``. SAELens calls that ``expected_average_only_in``; it estimates ``E|x|``
from some batches, here it is over all rows. ``mean-norm`` first takes the mean vector away:
``y = (x - m) * sqrt(d) / E|x - m|``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np

from actstore.errors import AnalysisError, TooFewRowsError, UsageError
from actstore.storage import floats
from actstore.training.state import fingerprint

if TYPE_CHECKING:
    from actstore.storage.snapshot import Snapshot

Kind = Literal["norm", "mean-norm"]
KINDS: tuple[Kind, ...] = ("norm", "mean-norm")
_BLOCK_BYTES = 8 << 20
_PIECE = 1 << 16
"""Values shifted and scaled at a time: they stay in the processor's cache."""
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"""Vectors are scaled in float32."""
_KEPT = 64
"""Results kept in a store's cache folder."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Normalisation:
    """``y = (x - mean) * scale``."""

    mean: np.ndarray | None
    """Taken away from each vector, float32 ``[width]``; None takes away nothing. It may be given as
    whatever NumPy makes an array of."""
    scale: float

    def __post_init__(self) -> None:
        try:
            with np.errstate(over="ignore"):
                mean = None if self.mean is None else np.asarray(self.mean, np.float32)
            scale = float(self.scale)
        except (TypeError, ValueError) as error:
            raise UsageError(f"a normalisation is made of numbers: {error}") from None
        one_vector = mean is None or (mean.ndim == 1 and bool(np.isfinite(mean).all()))
        if not (one_vector and _SMALLEST <= scale <= _LARGEST):
            shape = "none" if mean is None else f"one of shape {mean.shape}"
            raise UsageError(
                "a normalisation needs one finite vector as its mean, or none, and a scale above 0 "
                f"that float32 holds, got {shape} and scale={scale}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", scale)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Normalise float32 ``[rows, width]`` in place and return it.

        Raises:
            UsageError: the width is another than the mean's.
        """
        self._check(vectors)
        step = max(1, _PIECE // max(1, vectors.shape[1]))
        for start in range(0, len(vectors), step):
            piece = vectors[start : start + step]
            if self.mean is not None:
                piece -= self.mean
            piece *= np.float32(self.scale)
        return vectors

    def invert(self, vectors: np.ndarray) -> np.ndarray:
        """Return normalised float32 ``[rows, width]`` as they were, but for rounding.

        Raises:
            UsageError: the width is another than the mean's.
        """
        self._check(vectors)
        found = vectors / np.float32(self.scale)
        return found if self.mean is None else found + self.mean

    def _check(self, vectors: np.ndarray) -> None:
        if self.mean is not None and vectors.shape[1:] != self.mean.shape:
            raise UsageError(
                f"the normalisation is for vectors of width {len(self.mean)}, these have "
                f"{vectors.shape[-1]}: compute it from the rows that are trained on"
            )


def normalisation(
    snapshot: Snapshot, rows: np.ndarray, kind: Kind, *, name: str = "selection"
) -> Normalisation:
    """Return the normalisation of the given rows, from the store's cache or computed now.

    Computing reads every vector once for ``norm`` and twice for ``mean-norm``, a bounded
    block at a time; sums are made in float64.

    Args:
        snapshot: where the vectors are.
        rows: row numbers, int64, all of one width.
        kind: ``norm`` or ``mean-norm``.
        name: what messages call the rows.

    Raises:
        UsageError: there is no such kind.
        TooFewRowsError: there are no rows.
        AnalysisError: vectors are not finite, or all alike, so that there is no scale.
        MixedVectorsError: the vectors differ in width.
    """
    if kind not in KINDS:
        raise UsageError(f"normalise is one of {', '.join(KINDS)}, got {kind!r}")
    if not len(rows):
        raise TooFewRowsError(f"{name} has no rows, so there is no mean to compute")
    file = f"normalisation-{kind}-{fingerprint(snapshot, [rows])}.npz"
    kept = _load(snapshot, file, kind, snapshot.shape(rows)[0])
    if kept is None:
        kept = _compute(snapshot, rows, kind, name)
        _keep(snapshot, file, kept)
    return kept


def _compute(snapshot: Snapshot, rows: np.ndarray, kind: Kind, name: str) -> Normalisation:
    width, _ = snapshot.shape(rows)
    mean: np.ndarray | None = None
    if kind == "mean-norm":
        total = np.zeros(width, np.float64)
        with np.errstate(invalid="ignore"):
            for block in _blocks(snapshot, rows, width):
                total += block.sum(axis=0, dtype=np.float64)
        mean = (total / len(rows)).astype(np.float32)
    norms = 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for block in _blocks(snapshot, rows, width):
            if mean is not None:
                block -= mean
            norms += float(floats.norms(block).sum(dtype=np.float64))
    average = norms / len(rows)
    if not np.isfinite(average):
        raise AnalysisError(
            f"{name} holds vectors that are not finite, so they have no mean norm: leave them out "
            'by a condition such as "isfinite(norm)"'
        )
    if average * _LARGEST < np.sqrt(width):
        raise AnalysisError(
            f"the {len(rows)} vectors of {name} are all "
            f"{'zero' if mean is None else 'the same'}, or nearly, so no factor gives them a norm"
        )
    return Normalisation(mean=mean, scale=float(np.sqrt(width) / average))


def _blocks(snapshot: Snapshot, rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield the vectors as float32, a bounded block at a time; each may be changed."""
    step = max(1, _BLOCK_BYTES // max(1, 4 * width))
    for first, last in snapshot.portions(rows):
        for start in range(first, last, step):
            part = rows[start : min(start + step, last)]
            yield floats.widen(snapshot.gather(part))


def _load(snapshot: Snapshot, file: str, kind: Kind, width: int) -> Normalisation | None:
    shape = (width,) if kind == "mean-norm" else None
    for make in snapshot.files.cache_folders():
        # Derived and perhaps damaged: computed anew then.
        damaged = contextlib.suppress(OSError, EOFError, ValueError, KeyError, BadZipFile)
        with damaged, (make() / file).open("rb") as source:
            found = np.load(source, allow_pickle=False)
            mean = found.get("mean")
            if (None if mean is None else mean.shape) == shape:
                return Normalisation(mean=mean, scale=float(found["scale"]))
    return None


def _keep(snapshot: Snapshot, file: str, found: Normalisation) -> None:
    """Put a result into the first cache folder that takes it; it is no loss if none does."""
    arrays: dict[str, Any] = {"scale": np.float64(found.scale)}
    if found.mean is not None:
        arrays["mean"] = found.mean
    for make in snapshot.files.cache_folders():
        try:
            folder = make()
            draft = folder / f".{file}.{secrets.token_hex(4)}"
            try:
                with draft.open("wb") as target:
                    np.savez(target, **arrays)
                draft.replace(folder / file)
            finally:
                draft.unlink(missing_ok=True)
            _remove_old(folder)
            return
        except OSError:  # read-only, or full
            continue


def _remove_old(folder: Path) -> None:
    kept = sorted(folder.glob("normalisation-*.npz"), key=os.path.getmtime, reverse=True)
    for path in kept[_KEPT:]:
        path.unlink(missing_ok=True)
