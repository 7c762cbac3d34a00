"""Point 12: bytes that travel when a store on the Hub is read or pulled in part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np

import actstore
from actstore.hub.pull import pull
from actstore.hub.push import push
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome
from tests.hub_server import Hub
from tests.hub_server.clients import hub_settings

TO = "alice/bytes"


def run(corpus: Corpus) -> list[Outcome]:
    """Push 31 layers of 2,000 rows (508 MB) to a Hub on loopback; count what it sends."""
    folder = corpus.folder / "hub_bytes"
    folder.mkdir(exist_ok=True)
    large = corpus if corpus.quick else replace(corpus, folder=folder, examples=2000)
    root = large.store()
    with Hub(folder / "hub") as hub:
        settings = hub_settings(hub, folder / "home")
        cache = {"ACTSTORE_CACHE": str(folder / "cache")}
        # Other benchmarks may have imported the client before: it reads this one only once.
        plain = patch("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        with patch.dict(os.environ, {**settings, **cache}), plain:
            push(root, TO)
            outcomes = _read(hub, large)
    shutil.rmtree(folder)
    return outcomes


def _read(hub: Hub, corpus: Corpus) -> list[Outcome]:
    address = f"hf://datasets/{TO}"
    layer, examples = corpus.layer, corpus.examples
    layer_bytes = examples * corpus.width * 2

    def moved(work: Callable[[], object]) -> tuple[int, int]:
        hub.reset()
        work()
        return hub.log.bytes_sent(origin="objects"), len(hub.log.entries())

    with actstore.open(address) as store:
        total = store.info().bytes
        chosen = np.random.default_rng(0).permutation(examples)[: max(1, examples // 100)]
        one = moved(lambda: store.select(layer=layer).take(np.sort(chosen)).numpy())
        labels = moved(lambda: store.select("label = 'correct'", layer=layer + 1).numpy())
    whole = moved(lambda: actstore.open(address).select(layer=0).numpy())
    again = moved(lambda: actstore.open(address).select(layer=0).numpy())
    folder = corpus.folder / "pulled"
    part = moved(lambda: pull(TO, folder, layers=[layer]))
    rest = moved(lambda: pull(TO, folder))
    unchanged = moved(lambda: pull(TO, folder))
    shutil.rmtree(folder)
    steps = {
        "labels of one layer and their vectors": labels,
        "one whole layer": whole,
        "the same again": again,
        "pull of one layer": part,
        "pull of the others": rest,
        "pull when nothing is new": unchanged,
    }
    return [
        Outcome(
            point=12,
            what="1 % of a layer's rows, at random: bytes moved / bytes of the layer",
            value=100 * one[0] / layer_bytes,
            unit=" %",
            at_most=2,
            note=f"{one[0]:,} bytes in {one[1]} requests, of {total:,} in the repository",
        ),
        *(
            Outcome(point=12, what=what, value=size / 1e6, unit=" MB", note=f"{count} requests")
            for what, (size, count) in steps.items()
        ),
    ]
