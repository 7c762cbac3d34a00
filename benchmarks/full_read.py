"""Point 1: one layer as a torch matrix, against every format that holds just that layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import actstore
from benchmarks.corpus import Corpus, matrix_of
from benchmarks.measure import Moved, Outcome, check_same, drop_cache, interleaved


def run(corpus: Corpus) -> list[Outcome]:
    """Read one layer of the usual data and one of 134 MB, warm; and the first one cold."""
    return [*_warm(corpus), *_warm(corpus.large), *_cold(corpus)]


def _warm(corpus: Corpus) -> list[Outcome]:
    store = actstore.open(corpus.store())
    selection = store.select(layer=corpus.layer)
    reused = np.empty((corpus.examples, corpus.width), np.float16)
    candidates: dict[str, Callable[[], object]] = {
        "actstore": lambda: store.select(layer=corpus.layer).tensor(),
        "actstore out=": lambda: selection.numpy(out=reused),
        **peers(corpus),
    }
    if not selection.numpy(copy=None).flags.writeable:  # all of it lies in one row group
        candidates["actstore view"] = lambda: store.select(layer=corpus.layer).tensor(copy=False)
    check_same({name: np.asarray(read()) for name, read in candidates.items()})
    size = reused.nbytes / 1e6
    times = interleaved(candidates, rounds=corpus.rounds if size < 100 else corpus.rounds // 2)

    def against(peer: str, at_least: float | None = None, ours: str = "actstore") -> Outcome:
        return Outcome(
            point=1,
            what=f"one layer, {size:.0f} MB, as a torch matrix: {ours} / {peer}",
            value=times.ratio(peer, ours),
            at_least=at_least,
            note=times.note(ours, peer),
            moved=Moved(reused.nbytes, times.median(ours), "copy")
            if peer == "np.load" and ours == "actstore"
            else None,
        )

    outcomes = [
        against("np.load", 1.5),
        against("np.load", ours="actstore out="),
        against("pyarrow", 5),
        against("Lance", 5),
        against("datasets", 5),
        against("torch.load(mmap)"),
        against("safetensors"),
    ]
    if "actstore view" in candidates:
        outcomes.append(against("np.load", ours="actstore view"))
    store.close()
    return outcomes


def peers(corpus: Corpus) -> dict[str, Callable[[], object]]:
    """Return what reads one layer into memory of its own, by name."""
    import datasets
    import lance
    import pyarrow.parquet as pq
    import safetensors.torch

    # Opened once, as the store is.
    lance_data = lance.dataset(corpus.lance(one_layer=True))
    hugging_face = datasets.load_from_disk(str(corpus.hugging_face(one_layer=True)))
    torch_format = hugging_face.with_format("torch", ["activation"], dtype=torch.float16)

    def from_table(table: object) -> torch.Tensor:
        return torch.from_numpy(matrix_of(table["activation"], corpus.width))  # type: ignore[index]

    return {
        "np.load": lambda: torch.from_numpy(np.load(corpus.npy)),
        "torch.load(mmap)": lambda: torch.load(corpus.pt, mmap=True).clone(),
        "safetensors": lambda: safetensors.torch.load_file(corpus.safetensors)[
            "activation"
        ].clone(),
        "pyarrow": lambda: from_table(pq.read_table(corpus.parquet, columns=["activation"])),
        "Lance": lambda: from_table(lance_data.to_table(columns=["activation"])),
        "datasets": lambda: torch_format[:]["activation"],
    }


def _cold(corpus: Corpus) -> list[Outcome]:
    """Read with nothing in the page cache, opening included."""
    import pyarrow.parquet as pq

    def ours() -> object:
        with actstore.open(corpus.store()) as store:
            return store.select(layer=corpus.layer).tensor()

    size = corpus.examples * corpus.width * 2
    shards = next(corpus.store().glob(f"activations/*/*/layer_{corpus.layer:03d}"))
    times = interleaved(
        {
            "actstore": ours,
            "np.load": lambda: np.load(corpus.npy),
            "pyarrow": lambda: pq.read_table(corpus.parquet, columns=["activation"]),
        },
        rounds=3 if corpus.quick else 9,
        before=lambda: drop_cache([shards, corpus.npy, corpus.parquet]),
    )
    return [
        Outcome(
            point=1,
            what=f"one layer, cold, opening included: actstore / {peer}",
            value=times.ratio(peer, "actstore"),
            at_least=at_least,
            note=times.note("actstore", peer),
            moved=Moved(size, times.median("actstore"), "cold") if at_least else None,
        )
        for peer, at_least in (("np.load", 0.8), ("pyarrow", None))
    ]
