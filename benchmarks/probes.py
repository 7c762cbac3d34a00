"""Probes over all layers: the store's against plain scikit-learn on .pt files, and lmprobe."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import actstore
from actstore.analysis.probes import probing
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.statistics.folds import Fold
from actstore.storage.manifest import Run, now
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome

_PEER_LAYERS = 1
"""Layers that a peer is timed on; its time for all of them follows from their number."""
_POINT = 5


def run(corpus: Corpus) -> list[Outcome]:
    """Measure AMBER's shape and document 002's, five folds, logistic."""
    small = corpus.quick
    shapes = (
        ("31 layers x 1,004 x 4,096", 5 if small else 31, 96 if small else 1004, 4096, 10.0),
        ("9 layers x 200 x 8,192", 3 if small else 9, 60 if small else 200, 8192, 2.0),
    )
    outcomes: list[Outcome] = []
    for name, layers, rows, width, target in shapes:
        folder = corpus.folder / f"probes-{layers}-{rows}-{256 if small else width}"
        positive = _make(folder, layers, rows, 256 if small else width)
        outcomes += _shape(name, folder, layers, positive, target)
    return outcomes


def _shape(
    name: str, folder: Path, layers: int, positive: np.ndarray, target: float
) -> list[Outcome]:
    with actstore.open(folder / "store") as store:
        probing.probe(
            store, settings=ProbeSettings(folds=2, permutations=1)
        )  # libraries are loaded
        seconds, busy, report = _timed(lambda: probing.probe(store, settings=ProbeSettings()))
        bare, bare_busy, _ = _timed(
            lambda: probing.probe(store, settings=ProbeSettings(permutations=0))
        )
    divisions = _divisions(positive)
    ours = [result.auroc.value for result in report.results[:_PEER_LAYERS]]
    plain, _, areas = _timed(
        lambda: [_scikit_learn(folder / f"{n}.pt", positive, divisions) for n in range(len(ours))]
    )
    plain *= layers / len(ours)
    found = [
        Outcome(
            point=_POINT,
            what=f"logistic probes, five folds, {name}: wall time",
            value=seconds,
            unit=" s",
            at_most=target,
            note=f"100 shuffled runs each included; {busy:.1f} s of processor time; "
            f"without them {bare:.1f} s, {bare_busy:.1f} s of processor time",
        ),
        Outcome(
            point=_POINT,
            what=f"AUROC apart from plain scikit-learn's, {name}",
            value=max(abs(one - other) for one, other in zip(ours, areas, strict=True)),
            unit="",
            at_most=0.005,
            note=f"{len(ours)} of {layers} layers, the same folds",
        ),
        Outcome(
            point=_POINT,
            what=f"scikit-learn on torch-loaded files / actstore, {name}",
            value=plain / seconds,
            note=f"{plain:.1f} s, from {len(ours)} of {layers} layers",
        ),
    ]
    if importlib.util.find_spec("lmprobe") is not None:
        other, _, _ = _timed(
            lambda: [_lmprobe(folder / f"{n}.pt", positive, divisions) for n in range(len(ours))]
        )
        other *= layers / len(ours)
        found.append(
            Outcome(
                point=_POINT,
                what=f"lmprobe on torch-loaded files / actstore, {name}",
                value=other / seconds,
                note=f"{other:.1f} s, from {len(ours)} of {layers} layers",
            )
        )
    return found


def _make(folder: Path, layers: int, rows: int, width: int) -> np.ndarray:
    """Write the same vectors as a store and as .pt files; return which rows are positive."""
    import torch

    positive = np.random.default_rng(1).random(rows) < 0.5
    if (folder / "store").exists():
        return positive
    folder.mkdir(parents=True, exist_ok=True)
    with StoreWriter(
        folder / "store", run=Run(run_id="b", kind="benchmark", started_at=now())
    ) as writer:
        for layer in range(layers):
            draw = np.random.default_rng([2, layer])
            # A residual stream: a few strong common directions, and a weak one for the label.
            common = draw.standard_normal((rows, 40)) * np.linspace(4, 0.2, 40)
            vectors = draw.standard_normal((rows, width)) + common @ draw.standard_normal(
                (40, width)
            )
            vectors += np.where(positive, 0.03, -0.03)[:, None] * draw.standard_normal(width)
            half = vectors.astype(np.float16)
            torch.save(torch.from_numpy(half), folder / f"{layer}.pt")
            writer.add(
                RowBatch(
                    vectors=half,
                    constants={
                        "model": "m",
                        "site": "resid_post",
                        "layer": layer,
                        "pooling": "last",
                    },
                    columns={
                        "example_id": [str(number) for number in range(rows)],
                        "question": [f"Question {number}?" for number in range(rows)],
                        "label": ["yes" if each else "no" for each in positive],
                    },
                )
            )
        writer.commit(operation="ingest", message="benchmark data")
    return positive


def _divisions(positive: np.ndarray) -> list[Fold]:
    """Return the folds that the store's probes use."""
    from actstore.analysis.statistics import folds

    return folds.grouped(positive, np.arange(len(positive)), 5, 0)


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    start, busy = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - start, time.process_time() - busy, result


def _load(path: Path) -> np.ndarray:
    import torch

    vectors: np.ndarray = torch.load(path, weights_only=True).float().numpy()
    return vectors


def _scikit_learn(path: Path, positive: np.ndarray, divisions: list[Fold]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors = _load(path)
    areas = []
    for fold in divisions:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[fold.train], positive[fold.train])
        scores = model.decision_function(vectors[fold.test])
        areas.append(roc_auc_score(positive[fold.test], scores))
    return float(np.mean(areas))


def _lmprobe(path: Path, positive: np.ndarray, divisions: list[Fold]) -> float:
    import lmprobe
    from sklearn.metrics import roc_auc_score

    vectors = _load(path)
    areas = []
    for fold in divisions:
        model = lmprobe.LinearProbe(classifier="logistic_regression", random_state=0)
        model.fit_from_activations(vectors[fold.train], positive[fold.train].astype(int))
        chances = model.predict_proba_from_activations(vectors[fold.test])
        areas.append(roc_auc_score(positive[fold.test], chances[:, 1]))
    return float(np.mean(areas))
