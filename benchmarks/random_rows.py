"""Point 2: 1,024 random rows of the whole store as a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import actstore
from benchmarks.corpus import Corpus, matrix_of
from benchmarks.measure import Outcome, check_same, drop_cache, interleaved


def run(corpus: Corpus) -> list[Outcome]:
    """Gather rows that lie all over the store, warm and cold."""
    rows = np.random.default_rng(0).integers(0, corpus.rows, 64 if corpus.quick else 1024)
    # Apart, because pages that a process has mapped stay in the cache.
    return [*_warm(corpus, rows), _cold(corpus, rows)]


def _warm(corpus: Corpus, rows: np.ndarray) -> list[Outcome]:
    import datasets
    import lance

    store = actstore.open(corpus.store())
    mapped = np.load(corpus.all_npy, mmap_mode="r")
    lance_data: Any = lance.dataset(corpus.lance(one_layer=False))
    hugging_face: Any = datasets.load_from_disk(str(corpus.hugging_face(one_layer=False)))
    numpy_format = hugging_face.with_format("numpy", ["activation"], dtype=np.float16)
    picked = rows.tolist()

    def lance_take() -> np.ndarray:
        found = lance_data.take(picked, columns=["activation"])
        return matrix_of(found["activation"], corpus.width)

    candidates: dict[str, Callable[[], np.ndarray]] = {
        "actstore": lambda: store.rows_at(rows).numpy(mixed=True),
        "NumPy memmap": lambda: np.asarray(mapped[rows]),
        "Lance": lance_take,
        "datasets": lambda: numpy_format[picked]["activation"],
    }
    check_same({name: read() for name, read in candidates.items()})
    times = interleaved(candidates, rounds=corpus.rounds)
    speed = len(rows) / times.median("actstore")
    outcomes = [
        Outcome(
            point=2,
            what=f"{len(rows)} random rows: actstore / {peer}",
            value=times.ratio(peer, "actstore"),
            at_least=at_least,
            note=times.note("actstore", peer),
        )
        for peer, at_least in (("Lance", 8), ("datasets", 8))
    ]
    outcomes.append(
        Outcome(
            point=2,
            what="the same: time of actstore / of NumPy memmap",
            value=times.ratio("actstore", "NumPy memmap"),
            at_most=1.2,
            note=f"{speed:,.0f} rows/s; {times.note('actstore', 'NumPy memmap')}",
        )
    )
    store.close()
    return outcomes


def _cold(corpus: Corpus, rows: np.ndarray) -> Outcome:
    def ours() -> object:
        with actstore.open(corpus.store()) as store:
            return store.rows_at(rows).numpy(mixed=True)

    times = interleaved(
        {
            "actstore": ours,
            "NumPy memmap": lambda: np.asarray(np.load(corpus.all_npy, mmap_mode="r")[rows]),
        },
        rounds=3 if corpus.quick else 5,
        before=lambda: drop_cache([corpus.store() / "activations", corpus.all_npy]),
    )
    return Outcome(
        point=2,
        what="the same, cold, opening included: actstore / NumPy memmap",
        value=times.ratio("NumPy memmap", "actstore"),
        note=times.note("actstore", "NumPy memmap"),
    )
