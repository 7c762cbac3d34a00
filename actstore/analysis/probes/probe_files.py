"""Probes on disk: safetensors that know what they were made of, a report, scores by question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actstore.analysis.examples import lineages, previous_report, question_scores
from actstore.analysis.examples.place_rows import ActivationPlace
from actstore.analysis.probes.p_values import Best
from actstore.analysis.probes.results import Probe, ProbeReport, ProbeResult, TestedPlace
from actstore.analysis.solvers.linear import METHODS, Perceptron
from actstore.analysis.solvers.standardise import Standard
from actstore.errors import MismatchError, UsageError
from actstore.storage import unfinished

FOLDER = "probes"
REPORT = "report.json"
_FORMAT = "actstore-probe-1"
_SINGLE = np.dtype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProbe:
    """A probe as it was read back, with its lineage."""

    probe: Probe
    lineage: Mapping[str, Any]
    made_of: np.ndarray | None
    """Keys of the rows it was trained on; None where the file does not say."""
    path: Path

    @property
    def of_numbers(self) -> bool:
        """Whether its scores are numbers that it predicts, not sides that it takes."""
        return self.lineage.get("task") == "number"


def save(report: ProbeReport, out: Path) -> list[Path]:
    """Write probes, ``report.json`` and the scores by question into a folder.

    Where layers come once each, ``probes/layer_6.safetensors`` and
    ``probe_stats_layer6.csv``; else in a folder for each site and pooling. Probes and
    scores that an earlier run into the same folder reported are removed.

    Returns:
        What was written, the report first.
    """
    folders = question_scores.folders([result.place for result in report.results])
    previous_report.remove(out, REPORT, ("probe", "probes", "scores"))
    written: list[Path] = []
    entries = []
    for result in report.results:
        folder = Path(folders[result.place])
        probe = Path(FOLDER) / folder / f"{result.place.file_word}.safetensors"
        stats = folder / question_scores.file_name(result.place)
        for path in (probe, stats):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            written.append(out / path)
        write_probe(
            out / probe,
            result.probe,
            trained_rows=result.trained_rows,
            figures={"auroc": result.auroc.value},
            lineage=_lineage(report, result),
            made_of=result.made_of,
        )
        by_question = question_scores.by_question(
            result.table, result.scores, report.classes.column
        )
        question_scores.write(out / stats, by_question)
        entries.append(
            {**summary(result, report), "probe": probe.as_posix(), "scores": stats.as_posix()}
        )
    return [write_report(out, entries), *written]


def write_report(out: Path, entries: list[dict[str, Any]]) -> Path:
    """Write ``report.json``; return where it is."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    unfinished.write_text(out / REPORT, text + "\n")
    return out / REPORT


def summary(result: ProbeResult, report: ProbeReport) -> dict[str, Any]:
    """Return what ``report.json`` says of one probe."""
    permuted = result.permuted
    return {
        **result.place.named,
        "method": result.method,
        "width": result.width,
        "positive": list(report.classes.positive),
        "negative": list(report.classes.negative),
        "rows": result.rows,
        "positives": result.positives,
        "grouped_by": result.grouped_by,
        "groups": result.groups,
        "trained_rows": result.trained_rows,
        "folds": result.folds,
        "auroc": result.auroc.value,
        "auroc_interval": [result.auroc.low, result.auroc.high],
        "auroc_pooled": result.auroc_pooled,
        "accuracy": result.accuracy.value,
        "accuracy_interval": [result.accuracy.low, result.accuracy.high],
        "balanced_accuracy": result.balanced_accuracy,
        "baselines": {
            "majority_accuracy": result.majority,
            "permutation": None if permuted is None else permuted._asdict(),
            "words": words_told(result),
        },
        "p_family": None if permuted is None else permuted.p_family,
        "effect": effect_told(result),
        "best": best_told(result, report.best),
        "band": result.band,
        "verdict": result.verdict,
        "interval_method": "DeLong by group, folds correlated, 95 %",
        "lineage": _lineage(report, result),
        "notes": report.notes,
    }


def words_told(result: TestedPlace) -> dict[str, Any] | None:
    """Return what is said of the words baseline; None where no row has a question."""
    words = result.words
    if words is None:
        return None
    return {
        "auroc": words.auroc.value,
        "auroc_interval": [words.auroc.low, words.auroc.high],
        "p_family": words.p_family,
        "text": "question",
    }


def effect_told(result: TestedPlace) -> dict[str, Any]:
    """Return what is said of the AUROC above the strongest baseline."""
    return {
        "over": result.effect.baseline,
        "auroc": result.effect.value,
        "auroc_interval": [result.effect.low, result.effect.high],
    }


def best_told(result: TestedPlace, best: Best | None) -> dict[str, Any] | None:
    """Return what choosing this place as the best is worth; None of all others."""
    if best is None or best.place != result.place:
        return None
    nested = best.nested
    return {
        "cells": best.places,
        "optimistic": best.optimistic,
        "nested_auroc": None if nested is None else nested.value,
        "nested_auroc_interval": None if nested is None else [nested.low, nested.high],
        "chosen": [place.named for place in best.chosen],
        "reason": best.reason,
    }


def load(folder: Path) -> list[SavedProbe]:
    """Return the probes of a folder that ``save`` wrote, ordered by place.

    Args:
        folder: that folder, its ``probes`` folder, or one ``.safetensors`` file.

    Raises:
        UsageError: there are none, or one is no probe.
    """
    if folder.is_file():
        paths = [folder]
    else:
        inside = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        paths = sorted(inside.rglob("*.safetensors"))
    if not paths:
        raise UsageError(
            f"{folder}: no probes here; `actstore probe STORE --out {folder}` would write them"
        )
    found = [_read_probe(path) for path in paths]
    told = {str(each.lineage.get("positive")) for each in found}
    if len(told) > 1 and len({each.probe.place for each in found}) < len(found):
        folders = dict.fromkeys(each.path.parent for each in found)
        raise UsageError(
            f"{folder}: probes of several classes lie here, each against the rest; name the folder "
            f"of one: {', '.join(map(str, folders))}"
        )
    return sorted(found, key=lambda each: _order(each.probe.place))


def check_width(probe: Probe, width: int, name: str) -> None:
    """Refuse vectors of another width than the probe's.

    Raises:
        MismatchError: names both.
    """
    if probe.width != width:
        raise MismatchError(
            f"the probe for {probe.place.text} is for vectors of {probe.width} values, those of "
            f"{name} have {width}"
        )


def write_probe(
    path: Path,
    probe: Probe,
    *,
    trained_rows: int,
    figures: Mapping[str, float],
    lineage: Mapping[str, Any],
    made_of: np.ndarray | None,
    precision: np.dtype[np.floating[Any]] = _SINGLE,
) -> None:
    """Write a probe that :func:`load` reads.

    Args:
        path: the file.
        probe: what is written.
        trained_rows: how many rows it was trained on.
        figures: AUROC, or R² and rho, of rows that it was not trained on.
        lineage: where it comes from, the classes included.
        made_of: keys of the rows that it was trained on.
        precision: of the intercept.
    """
    from safetensors.numpy import save_file

    tensors = {"mean": probe.standard.mean, "scale": probe.standard.scale}
    if isinstance(probe.model, Perceptron):
        tensors["hidden.weight"] = np.ascontiguousarray(probe.model.hidden.T)
        tensors["hidden.bias"] = probe.model.bias
        tensors["weight"] = probe.model.out
    else:
        tensors["weight"] = np.ascontiguousarray(probe.model)
    tensors["bias"] = np.array([probe.intercept], precision)
    if made_of is not None:
        tensors[lineages.TENSOR] = made_of
    about = {
        "format": _FORMAT,
        **probe.place.named,
        "method": probe.method,
        "width": probe.width,
        "trained_rows": trained_rows,
        **figures,
        "lineage": lineage,
    }
    # One entry: the order of several in the file would differ from run to run.
    with unfinished.replacing(path) as draft:
        save_file(tensors, draft, metadata={"actstore": json.dumps(about, ensure_ascii=False)})


def _read_probe(path: Path) -> SavedProbe:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {}).get("actstore", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if about.get("format") != _FORMAT or about["method"] not in METHODS:
            raise UsageError(f"{path} is no probe that `actstore probe` wrote")
        place = ActivationPlace.of(about)
        intercept = float(tensors["bias"][0])
        model: np.ndarray | Perceptron = tensors["weight"]
        if about["method"] == "mlp":
            hidden = np.ascontiguousarray(tensors["hidden.weight"].T)
            model = Perceptron(hidden, tensors["hidden.bias"], tensors["weight"], intercept)
        probe = Probe(
            place=place,
            method=about["method"],
            standard=Standard(tensors["mean"], tensors["scale"]),
            model=model,
            intercept=intercept,
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} cannot be read as a probe: {error}") from error
    made_of = tensors.get(lineages.TENSOR)
    return SavedProbe(probe=probe, lineage=about["lineage"], made_of=made_of, path=path)


def _order(place: ActivationPlace) -> tuple[Any, ...]:
    return place.site, place.pooling, place.region or "", place.layer is None, place.layer or 0


def _lineage(report: ProbeReport, result: ProbeResult) -> dict[str, Any]:
    """Return where a probe comes from, its rows and their vectors included."""
    own = {"rows_hash": result.rows_hash, "vectors_hash": result.vectors_hash}
    return {**report.lineage, **own}
