"""Point 4: SQL that computes on vectors, against DuckDB reading the same Parquet itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import actstore
from benchmarks.corpus import Corpus, FloatType
from benchmarks.measure import Moved, Outcome, interleaved

Means = list[tuple[Any, ...]]


def run(corpus: Corpus) -> list[Outcome]:
    """Cosine of each row with a query vector, averaged per label."""
    return [*_compare(corpus, "float16", (15, 10)), *_compare(corpus, "float32", (4, 4))]


def _compare(corpus: Corpus, dtype: FloatType, targets: tuple[float, float]) -> list[Outcome]:
    import duckdb

    path = corpus.store(dtype)
    store = actstore.open(path)
    connection = duckdb.connect()
    query = np.random.default_rng(99).standard_normal(corpus.width).astype(np.float32)
    values = {"q": query.tolist()}

    def ours(where: str) -> Means:
        return store.sql(
            "SELECT label, avg(cosine(activation, $q)) FROM activations "
            f"{where} GROUP BY label ORDER BY label",
            {"q": query},
        ).fetchall()

    def theirs(folder: str, kind: str) -> Means:
        files = path / f"activations/*/*/{folder}/*.parquet"
        type_ = "FLOAT[]" if kind == "list" else f"FLOAT[{corpus.width}]"
        return connection.execute(
            f"SELECT label, avg({kind}_cosine_similarity(activation::{type_}, $q::{type_})) "
            f"FROM read_parquet('{files}') GROUP BY label ORDER BY label",
            values,
        ).fetchall()

    outcomes = []
    for what, folder, where, share, at_least, layers in (
        (
            "one layer",
            f"layer_{corpus.layer:03d}",
            f"WHERE layer = {corpus.layer}",
            1,
            targets[0],
            1,
        ),
        ("all layers", "layer_*", "", 4, targets[1], corpus.layers),
    ):
        size = layers * corpus.examples * corpus.width * np.dtype(dtype).itemsize / 1e9
        candidates = {
            "actstore": partial(ours, where),
            "DuckDB, lists": partial(theirs, folder, "list"),
            "DuckDB, arrays": partial(theirs, folder, "array"),
        }
        _check_close({name: compute() for name, compute in candidates.items()})
        times = interleaved(candidates, rounds=max(3, corpus.rounds // share))
        moved = Moved(int(size * 1e9), times.median("actstore"), "memory")
        outcomes += [
            Outcome(
                point=4,
                what=f"SQL mean cosine per label, {what}, {dtype}: actstore / {peer}",
                value=times.ratio(peer, "actstore"),
                at_least=target,
                moved=moved if target else None,
                note=f"{size / times.median('actstore'):.1f} GB/s; {times.note('actstore', peer)}",
            )
            for peer, target in (("DuckDB, lists", at_least), ("DuckDB, arrays", None))
        ]
    store.close()
    connection.close()
    return outcomes


def _check_close(results: dict[str, Means]) -> None:
    # Sums of float32 in another order differ in the last bits.
    first, *others = results.values()
    for other in others:
        assert [row[0] for row in other] == [row[0] for row in first], results
        ours, theirs = ([row[1] for row in rows] for rows in (first, other))
        assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-7), results
