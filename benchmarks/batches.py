"""Issue 5: a shuffled pass over all rows in batches of 4,096, as a training loop makes it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import actstore
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome, interleaved

_SIZE = 4096
_SHARDS = 8
Pass = Callable[[], Iterator[torch.Tensor]]


def run(corpus: Corpus) -> list[Outcome]:
    """Pass over the store of all rows, against reading it in order and against other loaders.

    Each pass makes a torch matrix of every batch and lets it go. actstore and ``datasets``
    draw one random order of all rows; WebDataset shuffles its shards, and rows within a
    buffer of 4,096. mosaicml-streaming is no candidate: its dependencies exclude ours.
    """
    size = 128 if corpus.quick else _SIZE
    store = actstore.open(corpus.store())
    candidates = {
        **_ours(store, size),
        "NumPy memmap, in order": _mapped(corpus, size),
        **_hugging_face(corpus, size),
        "WebDataset": _web_dataset(corpus, size),
    }
    expected = _rows(candidates["actstore, in order"]())
    for name, passes in candidates.items():
        assert _rows(passes()) == expected, f"{name} gives other rows"
    whole = {name: _whole(candidate) for name, candidate in candidates.items()}
    times = interleaved(whole, rounds=3 if corpus.quick else 9)
    ours = "actstore, shuffled"
    speed = corpus.rows / times.median(ours)

    def against(peer: str, at_least: float | None = None, candidate: str = ours) -> Outcome:
        return Outcome(
            point=0,
            what=f"all rows in batches of {size}: {candidate} / {peer}",
            value=times.ratio(peer, candidate),
            at_least=at_least,
            note=times.note(candidate, peer),
        )

    outcomes = [
        against("actstore, in order", 0.5),
        against("NumPy memmap, in order"),
        against("datasets, shuffled().iter", 3),
        against("datasets, DataLoader", 3),
        against("WebDataset", 3),
        against("datasets, DataLoader", candidate="actstore, DataLoader"),
        Outcome(
            point=0,
            what="the same, shuffled",
            value=speed,
            unit=" rows/s",
            note=f"{corpus.width} float16 values each",
        ),
    ]
    store.close()
    return outcomes


def _ours(store: actstore.Store, size: int) -> dict[str, Pass]:
    selection = store.select(layer=store.layers)
    names = ["row_id"]

    def shuffled() -> Iterator[torch.Tensor]:
        for batch in selection.batches(size, shuffle=True, seed=1, columns=names):
            yield batch.tensor()

    def in_order() -> Iterator[torch.Tensor]:
        for batch in selection.batches(size, columns=names):
            yield batch.tensor()

    dataset = selection.torch_dataset(size, shuffle=True, seed=1)

    def loader() -> Iterator[torch.Tensor]:
        for item in DataLoader(dataset, batch_size=None):
            yield item["activation"]

    return {
        "actstore, shuffled": shuffled,
        "actstore, in order": in_order,
        "actstore, DataLoader": loader,
    }


def _mapped(corpus: Corpus, size: int) -> Pass:
    mapped = np.load(corpus.all_npy, mmap_mode="r")

    def read() -> Iterator[torch.Tensor]:
        for start in range(0, len(mapped), size):
            yield torch.from_numpy(np.array(mapped[start : start + size]))

    return read


def _hugging_face(corpus: Corpus, size: int) -> dict[str, Pass]:
    import datasets

    plain: Any = datasets.load_from_disk(str(corpus.hugging_face(one_layer=False)))
    rows = plain.with_format("torch", ["activation"], dtype=torch.float16)

    def by_iter() -> Iterator[torch.Tensor]:
        for batch in rows.shuffle(seed=1, keep_in_memory=True).iter(size):
            yield batch["activation"]

    def by_loader() -> Iterator[torch.Tensor]:
        # Whole batches are fetched by their row numbers: far faster than row by row.
        sampler = BatchSampler(RandomSampler(rows), size, drop_last=False)
        for batch in DataLoader(rows, batch_size=None, sampler=sampler):
            yield batch["activation"]

    return {"datasets, shuffled().iter": by_iter, "datasets, DataLoader": by_loader}


def _web_dataset(corpus: Corpus, size: int) -> Pass:
    import webdataset as wds

    shards = _tars(corpus)

    def matrix(rows: list[bytes]) -> torch.Tensor:
        data = bytearray(b"".join(rows))
        return torch.frombuffer(data, dtype=torch.float16).reshape(len(rows), -1)

    def read() -> Iterator[torch.Tensor]:
        rows: Any = (
            wds.WebDataset([str(path) for path in shards], shardshuffle=_SHARDS, seed=1)
            .shuffle(size)
            .to_tuple("f16")
            .map_tuple(bytes)
            .batched(size, collation_fn=lambda found: matrix([row for (row,) in found]))
        )
        yield from rows

    return read


def _tars(corpus: Corpus) -> list[Path]:
    """Return tar files of all rows, one member a row: the vector's bytes, nothing to decode."""
    folder = corpus.folder / "webdataset"
    paths = [folder / f"{number:03d}.tar" for number in range(_SHARDS)]
    if not folder.exists():
        folder.mkdir()
        rows = np.load(corpus.all_npy, mmap_mode="r")
        bounds = np.linspace(0, len(rows), _SHARDS + 1).astype(int).tolist()
        for path, low, high in zip(paths, bounds[:-1], bounds[1:], strict=True):
            with tarfile.open(path, "w") as tar:
                for number in range(low, high):
                    data = rows[number].tobytes()
                    member = tarfile.TarInfo(f"{number:08d}.f16")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return paths


def _whole(passes: Pass) -> Callable[[], object]:
    return lambda: sum(len(batch) for batch in passes())


def _rows(batches: Iterable[torch.Tensor]) -> list[bytes]:
    """Return a hash of each row, sorted: equal for the same rows in any order and batches."""
    return sorted(
        hashlib.blake2b(row.tobytes(), digest_size=16).digest()
        for batch in batches
        for row in batch.numpy()
    )
