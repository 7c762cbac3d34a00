"""Point 3: the rows of one layer with one label, as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

import actstore
from benchmarks.corpus import Corpus, matrix_of
from benchmarks.measure import Outcome, check_same, interleaved


def run(corpus: Corpus) -> list[Outcome]:
    """Filter and fetch, against engines that do both.

    DuckDB and Polars read the store's own Parquet files of that layer, Lance its own data
    set of all rows.
    """
    import duckdb
    import lance
    import polars as pl

    store = actstore.open(corpus.store())
    files = str(corpus.store() / f"activations/*/*/layer_{corpus.layer:03d}/*.parquet")
    connection = duckdb.connect()
    query = f"SELECT activation FROM read_parquet('{files}') WHERE label = 'correct'"
    lance_data = lance.dataset(corpus.lance(one_layer=False))
    condition = f"layer = {corpus.layer} AND label = 'correct'"

    def polars() -> np.ndarray:
        frame = pl.scan_parquet(files).filter(pl.col("label") == "correct")
        found = frame.select("activation").collect()
        return found.get_column("activation").to_numpy().astype(np.float16, copy=False)

    def duckdb_query() -> np.ndarray:
        # Not of a result, of which the rows are copied once more.
        found: Any = connection.sql(query).to_arrow_table()
        return matrix_of(found["activation"], corpus.width)

    def lance_filter() -> np.ndarray:
        found = lance_data.to_table(columns=["activation"], filter=condition)
        return matrix_of(found["activation"], corpus.width)

    candidates = {
        "actstore": lambda: store.select(layer=corpus.layer, label="correct").numpy(),
        "DuckDB": duckdb_query,
        "Lance": lance_filter,
        "Polars": polars,
    }
    # DuckDB knows no half floats; the narrowing is exact.
    check_same({name: np.asarray(read(), np.float16) for name, read in candidates.items()})
    times = interleaved(candidates, rounds=corpus.rounds)
    outcomes = [
        Outcome(
            point=3,
            what=f"rows by label and layer as a matrix: actstore / {peer}",
            value=times.ratio(peer, "actstore"),
            at_least=at_least,
            note=times.note("actstore", peer),
        )
        for peer, at_least in (("DuckDB", 10.0), ("Lance", 1.0), ("Polars", None))
    ]
    store.close()
    connection.close()
    return outcomes
