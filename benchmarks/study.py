"""A real workload: a study of SmolLM2 from prompts to probes, against what people do without us.

True and false statements on cities (``docs/study``): states of all 30 layers at the last token,
kept on disk with their labels, and a logistic probe on each. lmprobe and nnsight take part where
they are installed; the plain script is `output_hidden_states`, `torch.save` and scikit-learn.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import actstore
from actstore.analysis.probes import probing
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.statistics import folds
from actstore.models.loading import LoadedModel, load
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome, interleaved
from docs.study import facts, model

BATCH = 16
_FOLDS = 5


class Study:
    """The loaded model and its statements, and each way from them to probes."""

    def __init__(self, folder: Path, cities: int) -> None:
        """Load the model, which is converted if it is not there yet."""
        self.folder = folder
        self.loaded: LoadedModel = load(model.checkpoint(), dtype="float32", device="cpu")
        self.statements = facts.statements(cities)
        self.positive = np.array([each.label == "true" for each in self.statements])
        self.cities = np.unique([each.id for each in self.statements], return_inverse=True)[1]

    @property
    def layers(self) -> int:
        """How many blocks the model has."""
        return int(self.loaded.model.config.num_hidden_layers)

    def actstore(self) -> list[float]:
        """Capture into a store and probe it, groups by city, without shuffled runs."""
        target = self._fresh("store")
        actstore.capture(
            self.loaded.model,
            self.loaded.processor,
            [each._asdict() for each in self.statements],
            store=target,
            pool="prompt.last",
            dataset="cities",
            chat_template=False,
            batch_size=BATCH,
            model_name=model.NAME,
            self_check=False,
        )
        with actstore.open(target) as store:
            settings = ProbeSettings(folds=_FOLDS, permutations=0)
            report = probing.probe(store, label="label", positive="true", settings=settings)
        found = {result.place.layer: result.auroc.value for result in report.results}
        return [found[layer] for layer in range(self.layers)]

    def plain(self) -> list[float]:
        """Keep each prompt's states as a file of torch; read them again and fit scikit-learn."""
        target = self._fresh("plain")
        target.mkdir()
        at = 0
        for states in self._states():
            for each in states:
                torch.save(
                    {layer: vector.clone() for layer, vector in enumerate(each)},
                    target / f"{at}.pt",
                )
                at += 1
        read = [torch.load(target / f"{number}.pt", weights_only=True) for number in range(at)]
        return [
            self._fitted(np.stack([each[layer].numpy() for each in read]))
            for layer in range(self.layers)
        ]

    def nnsight(self) -> list[float]:
        """Trace the model, keep each layer as a file of safetensors, fit scikit-learn."""
        from nnsight import NNsight, save
        from safetensors.numpy import load_file, save_file

        target = self._fresh("nnsight")
        target.mkdir()
        wrapped = NNsight(self.loaded.model.base_model)
        kept: list[list[np.ndarray]] = [[] for _ in range(self.layers)]
        for inputs in self._inputs():
            last = inputs["attention_mask"].sum(1) - 1
            rows = torch.arange(len(last))
            with wrapped.trace(**inputs, use_cache=False):
                states = save([layer.output[rows, last] for layer in wrapped.layers])
            for layer, each in enumerate(states):
                kept[layer].append(each.numpy())
        for layer, blocks in enumerate(kept):
            save_file({"resid_post": np.concatenate(blocks)}, target / f"{layer}.safetensors")
        return [
            self._fitted(load_file(target / f"{layer}.safetensors")["resid_post"])
            for layer in range(self.layers)
        ]

    def lmprobe(self) -> list[float]:
        """Extract and probe with lmprobe."""
        import lmprobe
        from lmprobe.extract import extract
        from sklearn.metrics import roc_auc_score

        target = self._fresh("lmprobe")
        extract(
            str(model.checkpoint()),
            [each.question for each in self.statements],
            output_dir=str(target),
            batch_size=BATCH,
            remote=False,
            device="cpu",
            backend="local",
        )
        areas = []
        for layer in range(self.layers):
            vectors = lmprobe.load_activations(str(target), layer=layer)
            scores = np.zeros(len(vectors))
            for train, test in self._divisions():
                probe = lmprobe.LinearProbe(classifier="logistic_regression", random_state=0)
                probe.fit_from_activations(vectors[train], self.positive[train].astype(int))
                scores[test] = probe.predict_proba_from_activations(vectors[test])[:, 1]
            areas.append(float(roc_auc_score(self.positive, scores)))
        return areas

    def size(self, name: str) -> int:
        """Return the bytes that one way left on disk, without what can be derived again."""
        return sum(
            file.stat().st_size
            for file in (self.folder / name).rglob("*")
            if file.is_file() and ".cache" not in file.parts
        )

    def _fresh(self, name: str) -> Path:
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def _inputs(self) -> Iterator[dict[str, torch.Tensor]]:
        texts = [each.question for each in self.statements]
        for at in range(0, len(texts), BATCH):
            yield self.loaded.processor(
                texts[at : at + BATCH], return_tensors="pt", padding=True, padding_side="right"
            )

    def _states(self) -> Iterator[torch.Tensor]:
        """Yield ``[rows, layers, width]`` for each batch."""
        base = self.loaded.model.base_model
        for inputs in self._inputs():
            found = base(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            last = inputs["attention_mask"].sum(1) - 1
            rows = torch.arange(len(last))
            # The last entry has gone through the final norm; a study of layers has to know.
            yield torch.stack([each[rows, last] for each in found[1:]], dim=1)

    def _divisions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for fold in folds.grouped(self.positive, self.cities, _FOLDS, 0):
            yield fold.train, fold.test

    def _fitted(self, vectors: np.ndarray) -> float:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        areas = []
        for train, test in self._divisions():
            fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            fitted.fit(vectors[train], self.positive[train])
            scores = fitted.decision_function(vectors[test])
            areas.append(roc_auc_score(self.positive[test], scores))
        return float(np.mean(areas))


def run(corpus: Corpus) -> list[Outcome]:
    """Go from statements to probes each way; nothing where the model's package is missing."""
    if model.missing():
        return []
    folder = corpus.folder / "study"
    folder.mkdir(exist_ok=True)
    study = Study(folder, cities=8 if corpus.quick else facts.CITIES)
    ways: dict[str, Callable[[], list[float]]] = {
        "store": study.actstore,
        "plain": study.plain,
    }
    names = {"plain": "plain script", "nnsight": "nnsight and safetensors", "lmprobe": "lmprobe"}
    with torch.inference_mode():
        areas: dict[str, list[float]] = {name: way() for name, way in ways.items()}
        for name, way in (("nnsight", study.nnsight), ("lmprobe", study.lmprobe)):
            try:
                areas[name] = way()
            except ImportError:
                continue
            ways[name] = way
        times = interleaved(ways, rounds=1 if corpus.quick else 3, before=lambda: None)
    outcomes = []
    for name in ways:
        if name == "store":
            continue
        outcomes += [
            Outcome(
                point=16,
                what=f"a study of {len(study.statements)} statements: actstore / {names[name]}",
                value=times.ratio(name, "store"),
                at_least=1,
                note=f"{times.note('store', name)}; {study.size('store'):,} and "
                f"{study.size(name):,} bytes",
            ),
            Outcome(
                point=16,
                what=f"AUROC apart from those of {names[name]}, all layers but the last",
                value=_apart(areas["store"], areas[name]),
                unit="",
                at_most=0.02,
            ),
        ]
    return outcomes


def _apart(ours: list[float], theirs: list[float]) -> float:
    differences: Any = np.abs(np.array(ours[:-1]) - np.array(theirs[: len(ours) - 1]))
    return float(differences.max())
