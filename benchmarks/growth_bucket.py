"""What work in a bucket asks of its server as the shards of a store become many: moto, counted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

import actstore
from actstore.remote.syncing import sync
from benchmarks.corpus import MODEL, Corpus
from benchmarks.growth import WIDTH, build
from benchmarks.measure import Outcome
from tests.remote.buckets import Proxy, ask, moto, variables

SIZES = (100, 1_000, 10_000, 100_000)
_POINT = 9
_METADATA = 1_000
"""Shards up to which SQL is asked, which reads the metadata of each by a request."""


def run(corpus: Corpus, shards: int | None = None) -> list[Outcome]:
    """Copy stores of more and more shards into a bucket, and count what reading and writing take.

    Args:
        corpus: where they lie meanwhile.
        shards: of the largest; 10,000 when missing.
    """
    most = 100 if corpus.quick else shards or 10_000
    outcomes: list[Outcome] = []
    with moto() as endpoint:
        proxy = Proxy(endpoint)
        for size in (size for size in SIZES if size <= most):
            folder = corpus.folder / f"growth-bucket-{size}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for what, cost in _costs(folder, size, endpoint, proxy).items():
                requests, up, down, seconds = cost
                moved = f"{up:,} bytes up, {down:,} down, {seconds:.2f} s"
                outcomes.append(
                    Outcome(
                        point=_POINT,
                        what=f"{what}, {size:,} shards in a bucket",
                        value=len(requests),
                        unit=" requests",
                        note=f"{len(requests):,} requests, {moved}",
                    )
                )
            shutil.rmtree(folder)
        proxy.close()
    return outcomes


Cost = tuple[list[str], int, int, float]
"""Requests, bytes sent, bytes received, seconds of this process's processor time."""


def _costs(folder: Path, size: int, endpoint: str, proxy: Proxy) -> dict[str, Cost]:
    ask(endpoint, "PUT", f"/growth-{size}")
    place = f"s3://growth-{size}/runs"
    found: dict[str, Cost] = {}

    def count(what: str, work: Callable[[], object]) -> None:
        proxy.fail(None)
        up, down, began = proxy.up, proxy.down, time.process_time()
        work()
        spent = time.process_time() - began
        found[what] = [*proxy.seen], proxy.up - up, proxy.down - down, spent

    with patch.dict(os.environ, {**variables(endpoint), "ACTSTORE_CACHE": str(folder / "cache")}):
        build(folder / "store", size)
        sync(folder / "store", place)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        count("open", lambda: actstore.open(place).commit)
        store = actstore.open(place)
        count("open again", lambda: actstore.open(place).commit)
        count("one layer, by its statistics", lambda: store.select(layer=size // 2).numpy())

        def append(name: str) -> None:
            vectors = {"blocks.0.hook_resid_post": np.ones((1, WIDTH), np.float16)}
            store.write(vectors, {"example_id": [name]}, model=MODEL)

        for name in ("first append", "append", "third append"):
            count(f"{name} of one row", partial(append, name))
        count("open by who was there before", lambda: actstore.open(place).commit)
        if size <= _METADATA:
            sql = "SELECT label, count(*) FROM activations GROUP BY label"
            count("first SQL", lambda: actstore.open(place).sql(sql).fetchall())
        store.close()
    return found
