"""Point 7: bytes on disk, against the raw vectors and their compressed metadata."""

from __future__ import annotations

import io
import shutil

import actstore
from benchmarks.corpus import MODEL, Corpus
from benchmarks.ingest import source
from benchmarks.measure import Outcome


def run(corpus: Corpus) -> list[Outcome]:
    """Count every file of the ingested store but its derived cache."""
    import pyarrow.parquet as pq

    path = corpus.fresh("sized")
    actstore.ingest(source(corpus), store=path, model=MODEL)
    with actstore.open(path) as store:
        vectors = sum(len(store.select(layer=layer)) for layer in store.layers) * corpus.width * 2
        text = io.BytesIO()
        pq.write_table(store.select().table(), text, compression="zstd")
    stored = sum(
        file.stat().st_size
        for file in path.rglob("*")
        if file.is_file() and ".cache" not in file.parts
    )
    shutil.rmtree(path)
    compressed = len(text.getvalue())
    return [
        Outcome(
            point=7,
            what="bytes on disk / raw vectors and zstd-compressed metadata",
            value=stored / (vectors + compressed),
            at_most=1.02,
            note=f"{stored:,} / ({vectors:,} + {compressed:,}) bytes",
        )
    ]
