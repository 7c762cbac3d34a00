"""Nearest rows by brute force over one large layer, beside faiss, Lance and reading the bytes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

import actstore
from benchmarks.corpus import Corpus
from benchmarks.measure import Moved, Outcome, interleaved

_K = 10
_BATCH = 64


def run(corpus: Corpus) -> list[Outcome]:
    """One query by dot and by cosine, and a batch; results are the same rows."""
    import faiss
    import lance

    large = corpus.large
    store = actstore.open(large.store("float16"))
    matrix = large.values(large.layer)
    wide = matrix.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1)
    flat = faiss.IndexFlatIP(large.width)
    flat.add(wide)
    data = lance.dataset(_in_lance(large))
    queries = np.random.default_rng(5).standard_normal((_BATCH, large.width)).astype(np.float32)
    words = matrix.view(np.int64)
    columns = ["row_id"]

    def ours(query: np.ndarray, metric: Any) -> np.ndarray:
        found = store.nearest(query, _K, layer=large.layer, metric=metric, columns=columns)
        rows: np.ndarray = found["row_id"].to_numpy()
        return rows

    def in_lance(metric: str) -> np.ndarray:
        asked = {"column": "activation", "q": queries[0], "k": _K, "metric": metric}
        found = data.to_table(nearest={**asked, "use_index": False}, columns=["row", "_distance"])
        rows: np.ndarray = found["row"].to_numpy()
        return rows

    def in_faiss(batch: np.ndarray) -> np.ndarray:
        rows: np.ndarray = flat.search(batch, _K)[1]
        return rows.reshape(-1)

    outcomes = []
    expected = np.argsort(-(wide @ queries[0]), kind="stable")[:_K]
    one = {
        "actstore": partial(ours, queries[0], "dot"),
        "faiss flat": partial(in_faiss, queries[:1]),
        "Lance": partial(in_lance, "dot"),
        "reading the bytes": partial(np.max, words),
    }
    for name, find in list(one.items())[:3]:
        assert np.array_equal(find(), expected), name
    times = interleaved(one, rounds=corpus.rounds)
    size = matrix.nbytes / 1e9
    moved = Moved(matrix.nbytes, times.median("actstore"), "memory")
    for peer in ("faiss flat", "Lance"):
        outcomes.append(
            Outcome(
                point=4,
                what=f"nearest by dot, one query over {size * 1e3:.0f} MB: actstore / {peer}",
                value=times.ratio(peer, "actstore"),
                at_least=1,
                note=times.note("actstore", peer),
            )
        )
    outcomes.append(
        Outcome(
            point=4,
            what="nearest by dot, one query: time of actstore / of reading the bytes",
            value=times.ratio("actstore", "reading the bytes"),
            at_most=1.3,
            moved=moved,
            note="one thread, the largest int64; "
            f"{size / times.median('actstore'):.1f} GB/s; "
            + times.note("actstore", "reading the bytes"),
        )
    )
    expected = np.argsort(-(wide @ queries[0] / norms), kind="stable")[:_K]
    cosine = {"actstore": partial(ours, queries[0], "cosine"), "Lance": partial(in_lance, "cosine")}
    for name, find in cosine.items():
        assert np.array_equal(find(), expected), name
    times = interleaved(cosine, rounds=corpus.rounds)
    outcomes.append(
        Outcome(
            point=4,
            what="nearest by cosine, one query: actstore / Lance",
            value=times.ratio("Lance", "actstore"),
            at_least=1,
            note=f"{size / times.median('actstore'):.1f} GB/s; " + times.note("actstore", "Lance"),
        )
    )
    many = {"actstore": partial(ours, queries, "dot"), "faiss flat": partial(in_faiss, queries)}
    assert np.array_equal(many["actstore"](), many["faiss flat"]())
    times = interleaved(many, rounds=max(3, corpus.rounds // 4))
    outcomes.append(
        Outcome(
            point=4,
            what=f"nearest by dot, {_BATCH} queries at once: actstore / faiss flat",
            value=times.ratio("faiss flat", "actstore"),
            at_least=1,
            note=times.note("actstore", "faiss flat"),
        )
    )
    store.close()
    return outcomes


def _in_lance(corpus: Corpus) -> str:
    """Return a Lance data set of the layer and the number of each row."""
    import lance

    path = corpus.folder / "nearest.lance"
    if not path.exists():
        values = pa.array(corpus.values(corpus.layer).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(values, corpus.width)
        lance.write_dataset(
            pa.table({"row": np.arange(corpus.examples), "activation": vectors}), path
        )
    return str(path)
