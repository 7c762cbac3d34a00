"""Point 7: bytes on disk and how fast they are read: against raw vectors, and by stored type."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

import actstore
from actstore.storage.archive import write_archived
from actstore.storage.manifest import Run, now
from actstore.storage.mapping import open_shard
from actstore.storage.snapshot import open_snapshot
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import MODEL, Corpus, FloatType, matrix_of
from benchmarks.ingest import source
from benchmarks.measure import Outcome, interleaved


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
        ),
        *types(corpus, "float16"),
        *types(corpus, "float32"),
    ]


def types(corpus: Corpus, dtype: FloatType) -> list[Outcome]:
    """Count the bytes of one layer in each type and format, and time reading it as a matrix."""
    folder = corpus.fresh(f"types-{dtype}")
    folder.mkdir()
    values = corpus.values(corpus.layer, dtype)
    readers: dict[str, Callable[[], np.ndarray]] = {}
    sizes: dict[str, int] = {}
    for name in (dtype, *(("compact16",) if dtype == "float32" else ()), "int8"):
        root = folder / name
        run = Run(run_id="b", kind="benchmark", started_at=now())
        narrow = name if name in ("compact16", "int8") else None
        with StoreWriter(root, run=run, narrow=narrow) as writer:
            writer.add(corpus.batch(corpus.layer, dtype))
            writer.commit(operation="benchmark", message=name)
        snapshot = open_snapshot(root)
        sizes[name] = snapshot.shards[0].bytes
        readers[name] = _reading(root)
    shutil.copytree(folder / dtype, folder / "archive")
    sizes["archive"], readers["archive"] = _archived(folder / "archive", folder / "packed.parquet")
    sizes["zstd"], readers["zstd"] = _zstd(values)
    sizes["lance"], readers["lance"] = _lance(corpus, dtype, folder / "lance")
    for name, compact in (("vortex", False), ("vortex, compact", True)):
        sizes[name], readers[name] = _vortex(corpus, dtype, folder / f"{name}.vortex", compact)
    for name in (dtype, "archive", "zstd", "lance", "vortex", "vortex, compact"):
        assert np.array_equal(readers[name]().view(np.uint8), values.view(np.uint8)), name
    timings = interleaved(readers, rounds=min(corpus.rounds, 11))
    found = [
        Outcome(
            point=7,
            what=f"{name}: bytes / raw {dtype} bytes of a layer",
            value=sizes[name] / values.nbytes,
            note=f"{sizes[name]:,} bytes, read at "
            f"{values.nbytes / timings.median(name) / 1e9:.2f} GB/s of raw {dtype}",
        )
        for name in sizes
    ]
    shutil.rmtree(folder)
    return found


def _reading(root: Path) -> Callable[[], np.ndarray]:
    snapshot = open_snapshot(root)
    return lambda: snapshot.gather(np.arange(snapshot.rows))


def _archived(root: Path, target: Path) -> tuple[int, Callable[[], np.ndarray]]:
    entry = write_archived(root, open_snapshot(root).shards[0], target)
    target.replace(root / entry.path)
    rows = np.arange(entry.rows)

    def read() -> np.ndarray:
        reader = open_shard(root, entry, "never")
        try:
            return reader.take(rows)
        finally:
            reader.close()

    return entry.bytes, read


def _zstd(values: np.ndarray) -> tuple[int, Callable[[], np.ndarray]]:
    """The vectors' bytes alone, compressed as one block."""
    import pyarrow as pa

    codec = pa.Codec("zstd")
    packed = codec.compress(values.tobytes())

    def read() -> np.ndarray:
        data = codec.decompress(packed, values.nbytes)
        return np.frombuffer(data, values.dtype).reshape(values.shape)

    return packed.size, read


def _lance(corpus: Corpus, dtype: FloatType, path: Path) -> tuple[int, Callable[[], np.ndarray]]:
    import lance

    lance.write_dataset(corpus.table(corpus.layer, dtype), path)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    def read() -> np.ndarray:
        table = lance.dataset(path).to_table(columns=["activation"])
        return matrix_of(table["activation"], corpus.width)

    return size, read


def _vortex(
    corpus: Corpus, dtype: FloatType, path: Path, compact: bool
) -> tuple[int, Callable[[], np.ndarray]]:
    import vortex

    table = corpus.table(corpus.layer, dtype)
    options = vortex.io.VortexWriteOptions
    (options.compact() if compact else options.default()).write(table, str(path))

    def read() -> np.ndarray:
        found = vortex.open(str(path)).scan(["activation"]).read_all().to_arrow_table()
        return matrix_of(found["activation"], corpus.width)

    return path.stat().st_size, read
