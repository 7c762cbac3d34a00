"""Point 5, first half: ingest of the AMBER layout, against reading its files and a raw write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

import actstore
from benchmarks.corpus import MODEL, Corpus
from benchmarks.measure import Outcome, check_same, interleaved
from benchmarks.write import write_raw
from tests.layouts import amber


def run(corpus: Corpus) -> list[Outcome]:
    """Ingest one file per example, with answers and classes beside them."""
    project = source(corpus)
    files = sorted((project / "activations").glob("sample_*.pt"))
    store, raw = corpus.folder / "ingested", corpus.folder / "ingested-raw"

    def clear() -> None:
        """Remove what was written last, which takes as long as a good part of writing it."""
        corpus.fresh(store.name)
        corpus.fresh(raw.name)
        os.sync()

    def ours() -> None:
        actstore.ingest(project, store=store, model=MODEL)

    def floor() -> None:
        blocks = [
            vector.numpy()
            for file in files
            for vector in torch.load(file, weights_only=True)["activations"].values()
        ]
        write_raw(raw, blocks)

    clear()
    ours()
    floor()
    with actstore.open(store) as opened:
        assert opened.rows == corpus.rows, f"{opened.rows} rows of {corpus.rows}"
        for layer in (0, corpus.layers - 1):
            expected = [torch.load(file)["activations"][layer].numpy() for file in files]
            check_same({"files": np.stack(expected), "store": opened.select(layer=layer).numpy()})
    times = interleaved(
        {"actstore.ingest": ours, "torch.load and raw write": floor},
        rounds=3 if corpus.quick else 5,
        before=clear,
    )
    clear()
    return [
        Outcome(
            point=5,
            what="AMBER ingest: time of actstore.ingest / of torch.load and a raw write",
            value=times.ratio("actstore.ingest", "torch.load and raw write"),
            at_most=1.5,
            note=times.note("actstore.ingest", "torch.load and raw write"),
        )
    ]


def source(corpus: Corpus) -> Path:
    """Return the project folder with the layout's files."""
    project = corpus.folder / "amber"
    if not project.exists():
        amber.write_samples(
            project / "activations",
            samples=corpus.examples,
            layers=corpus.layers,
            width=corpus.width,
        )
        numbers = range(1, corpus.examples + 1)
        amber.write_responses(project, corpus.examples)
        amber.write_classification(project, list(numbers[:65]), list(numbers[65:260]))
    return project
