"""An approximate index of all vectors of one place, by usearch: built and used only when asked."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import resources
from actstore.errors import ActstoreError, MissingExtraError, NotInStoreError, UsageError
from actstore.querying import mixture, ranking, vector_math
from actstore.querying.ranking import Best
from actstore.querying.vector_math import METRICS, Metric
from actstore.storage import derived, floats, layout, pages
from actstore.storage.disk_errors import reading, reason_of
from actstore.storage.threads import workers

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows
    from actstore.storage.derived import Derived
    from actstore.storage.snapshot import Snapshot

_METRICS = {"cosine": "cos", "dot": "ip", "l2": "l2sq"}
_ADDED = 1 << 24
"""Values added at a time."""
_TRIED, _NEIGHBOURS = 100, 10
_MORE = 64
"""Rows that the index names beyond those asked for: float64 chooses among them."""
_PATTERN = "index-{metric}-{digest}.usearch"


_AGAIN = "build it with `actstore index` (Store.index)"


class Built(NamedTuple):
    """An index, and how well it does."""

    path: Path
    rows: int
    """Rows in it: those without a score (zeros for a cosine, infinity, NaN) are not."""
    bytes: int
    recall: float
    """Share of the ten nearest rows that it found, for stored vectors as queries."""
    tried: int
    """How many queries that is from."""


def build(selection: SelectedRows, metric: Metric = "cosine") -> Built:
    """Build the index of some rows, beside the store's other derived files here, and try it.

    Args:
        selection: all rows of one model, site and layer, or of several whole ones that agree
            in their place otherwise.
        metric: what it searches by.

    Raises:
        MissingExtraError: usearch is not installed.
        UsageError: the rows are not whole layers, or the index cannot be kept.
        MixedVectorsError: they are of several places.
        NotInStoreError: there are none.
    """
    library = _library()
    path = _path(selection, metric)
    rows = selection.rows
    width, dtype = selection.shape[1], selection.dtype
    try:
        path.parent.mkdir(exist_ok=True)
        if not _is_ours(path):
            path.unlink(missing_ok=True)

        def make(draft: Path) -> None:
            index = library.Index(
                ndim=width, metric=_METRICS[metric], dtype="f16" if dtype == "float16" else "f32"
            )
            for start, stop, vectors in vector_math.blocks(
                selection.snapshot, rows, max(1, _ADDED // width)
            ):
                norms = floats.norms(vectors)
                usable = np.isfinite(norms) & ((norms > 0) | (metric != "cosine"))
                places = np.arange(start, stop, dtype=np.uint64)[usable]
                if len(places):
                    index.add(places, vectors[usable], threads=workers())
            index.save(str(draft))
            _finish(draft, {"metric": metric, "rows": len(rows), "inside": len(index)})

        made = derived.made(path, make)
    except OSError as error:
        if isinstance(error, ActstoreError):
            raise
        raise UsageError(f"the index cannot be written to {path.parent}: {error}") from error
    _remember(made.path)
    size = made.path.stat().st_size
    made.lease.release()
    tried = np.unique(np.linspace(0, len(rows) - 1, _TRIED).astype(np.int64))
    queries = selection.snapshot.gather(rows[tried]).astype(np.float32)
    nobody = np.full(len(queries), -1)
    exact = ranking.search(selection.snapshot, rows, queries, _NEIGHBOURS, metric, nobody)
    found = search(selection, queries, _NEIGHBOURS, metric, nobody)
    hits = sum(len(np.intersect1d(a.places, b.places)) for a, b in zip(exact, found, strict=True))
    wanted = sum(len(each.places) for each in exact)
    return Built(path, _inside(path), size, hits / max(1, wanted), len(tried))


def search(
    selection: SelectedRows, queries: np.ndarray, k: int, metric: Metric, left_out: np.ndarray
) -> list[Best]:
    """Return nearly the best rows for each query, as :func:`ranking.search` does the best ones.

    What the index names is scored in float64: it may miss a row, but no score is wrong.

    Raises:
        MissingExtraError: usearch is not installed.
        UsageError: there is no index of just these rows, or somebody else built it.
    """
    library = _library()
    path = _path(selection, metric)
    opened = _opened(path, metric)

    def read(places: np.ndarray) -> np.ndarray:
        return selection.snapshot.gather(selection.rows[places])

    with opened.lease:
        index = _restored(library, opened.path)
        try:
            count = min(len(index), k + _MORE)
            results = []
            for query, row in zip(queries, left_out.tolist(), strict=True):
                keys = index.search(query, count).keys if count else np.empty(0)
                places = np.sort(np.asarray(keys).astype(np.int64))
                places = places[selection.rows[places] != row]
                results.append(ranking.exact(read, places, query, k, metric))
        finally:
            index.reset()
    return results


def _restored(library: Any, path: Path) -> Any:
    try:
        index = library.Index.restore(str(path), view=True)
        reason = "it is gone"
    except (RuntimeError, ValueError) as error:  # it has the system's words in the one
        index, reason = None, str(error)
    if index is None:
        raise UsageError(f"the index {path} cannot be read: {reason}; {_AGAIN}")
    return index


def _library() -> Any:
    try:
        from usearch import index
    except ImportError:
        raise MissingExtraError("an approximate index", "index") from None
    return index


def _path(selection: SelectedRows, metric: str) -> Path:
    """Return where the index of these rows is or would be: its name tells their shards apart."""
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is unknown: use {', '.join(METRICS)}")
    if not len(selection):
        raise NotInStoreError("there are no rows to index")
    mixture.refuse(selection, mixed=None, instead="")
    if not selection.fills_shards():
        raise UsageError(
            "an index is of all rows of a layer: choose by model, site and layer alone, or "
            "search without the index, which takes any condition"
        )
    text = "\n".join(shard.sha256 for shard in selection.shards)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _folder(selection.snapshot) / _PATTERN.format(metric=metric, digest=digest)


def _folder(snapshot: Snapshot) -> Path:
    """Return where indexes lie: in the store, or in the user's cache of one that is elsewhere."""
    if snapshot.files.portion is None:
        return snapshot.root / layout.CACHE
    make, *_ = snapshot.files.cache_folders()
    try:
        return make()
    except OSError as error:
        raise UsageError(f"the index cannot be kept on this machine: {error}") from error


def _opened(path: Path, metric: str) -> Derived:
    if not path.exists():
        others = any(path.parent.glob(_PATTERN.format(metric=metric, digest="*")))
        stale = "; those there are were built for other rows, or before rows were added"
        raise UsageError(f"there is no {metric} index of these rows{stale * others}: {_AGAIN}")
    if not _is_ours(path):
        # usearch believes what such a file says, of addresses in memory too.
        raise UsageError(
            f"the index {path} was built by another user, on another machine, or was changed "
            f"since, and is not opened: {_AGAIN}"
        )

    def damaged(draft: Path) -> None:
        raise UsageError(f"the index {path} is damaged: {_AGAIN}")

    try:
        return derived.made(path, damaged)
    except OSError as error:
        raise UsageError(
            f"the index {path} cannot be read: {reason_of(error)}; {_AGAIN}"
        ) from error


def _finish(draft: Path, facts: dict[str, object]) -> None:
    """End the file as a Parquet file ends, which is where a derived file has its seal."""
    text = json.dumps(facts).encode()
    with draft.open("ab") as file:
        file.write(text + struct.pack("<I4s", len(text), pages.MAGIC))


def _inside(path: Path) -> int:
    with reading(path), path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        (length,) = struct.unpack("<I", file.read(4))
        file.seek(end - length)
        return int(json.loads(file.read(length))["inside"])


def _record(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return resources.cache_folder() / "indexes" / f"{name}.json"


def _identity(path: Path) -> list[int]:
    facts = path.stat()
    return [facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns]


def _remember(path: Path) -> None:
    """Note, in the user's own folder, that this very file was built here."""
    record = _record(path)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(_identity(path)))


def _is_ours(path: Path) -> bool:
    try:
        return bool(json.loads(_record(path).read_text()) == _identity(path))
    except (OSError, ValueError):
        return False
