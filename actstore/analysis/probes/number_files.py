"""Probes of numbers on disk: safetensors, a report, predictions by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actstore.analysis.examples import previous_report, question_scores
from actstore.analysis.probes import probe_files
from actstore.analysis.probes.number_results import NumberBest, NumberReport, NumberResult
from actstore.analysis.statistics.metrics import IntervalEstimate

COLUMNS = (
    *("question_id", "question", "number"),
    *("mean_predicted", "max_predicted", "min_predicted", "std_predicted"),
)


def save(report: NumberReport, out: Path) -> list[Path]:
    """Write probes, ``report.json`` and predictions by question into a folder.

    Files lie where those of two classes do: ``probes/layer_6.safetensors`` and
    ``probe_stats_layer6.csv``. What an earlier run into the same folder reported is removed.

    Returns:
        What was written, the report first.
    """
    folders = question_scores.folders([result.place for result in report.results])
    previous_report.remove(out, probe_files.REPORT, ("probe", "probes", "scores"))
    written: list[Path] = []
    entries = []
    for result in report.results:
        folder = Path(folders[result.place])
        probe = Path(probe_files.FOLDER) / folder / f"{result.place.file_word}.safetensors"
        stats = folder / question_scores.file_name(result.place)
        for path in (probe, stats):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            written.append(out / path)
        probe_files.write_probe(
            out / probe,
            result.probe,
            trained_rows=result.trained_rows,
            figures={"r2": result.r2.value, "spearman": result.spearman.value},
            lineage=_lineage(report, result),
            made_of=result.made_of,
            # A number may be large for how much it varies.
            precision=np.dtype(np.float64),
        )
        by_question = question_scores.by_question(result.table, result.predicted, report.column)
        question_scores.write(out / stats, by_question, COLUMNS)
        entries.append(
            {**summary(result, report), "probe": probe.as_posix(), "scores": stats.as_posix()}
        )
    return [probe_files.write_report(out, entries), *written]


def summary(result: NumberResult, report: NumberReport) -> dict[str, Any]:
    """Return what ``report.json`` says of one probe."""
    permuted, words = result.permuted, result.words
    return {
        **result.place.named,
        "task": "number",
        "method": "ridge",
        "width": result.width,
        "rows": result.rows,
        "grouped_by": result.grouped_by,
        "groups": result.groups,
        "trained_rows": result.trained_rows,
        "folds": result.folds,
        **_figure("r2", result.r2),
        **_figure("spearman", result.spearman),
        "spearman_pooled": result.spearman_pooled,
        "error": result.error,
        "deviation": result.deviation,
        "strength": result.strength,
        "strengths": list(result.strengths),
        "baselines": {
            "permutation": None if permuted is None else permuted._asdict(),
            "words": None
            if words is None
            else {
                **_figure("r2", words.r2),
                **_figure("spearman", words.spearman),
                "p_family": words.p_family,
                "text": "question",
            },
        },
        "p_family": None if permuted is None else permuted.p_family,
        "effect": {
            "over": result.effect.baseline,
            "r2": result.effect.value,
            "r2_interval": [result.effect.low, result.effect.high],
        },
        "best": _best(result, report.best),
        "verdict": result.verdict,
        "interval_method": "errors and ranks by group, folds correlated, Student's t, 95 %",
        "lineage": _lineage(report, result),
        "notes": report.notes,
    }


def _figure(name: str, estimate: IntervalEstimate | None) -> dict[str, Any]:
    if estimate is None:
        return {name: None, f"{name}_interval": None}
    return {name: estimate.value, f"{name}_interval": [estimate.low, estimate.high]}


def _best(result: NumberResult, best: NumberBest | None) -> dict[str, Any] | None:
    """Return what choosing this place as the best is worth; None of all others."""
    if best is None or best.place != result.place:
        return None
    return {
        "cells": best.places,
        "optimistic": best.optimistic,
        **_figure("nested_r2", best.nested),
        **_figure("nested_spearman", best.nested_spearman),
        "chosen": [place.named for place in best.chosen],
        "reason": best.reason,
    }


def _lineage(report: NumberReport, result: NumberResult) -> dict[str, Any]:
    own = {"rows_hash": result.rows_hash, "vectors_hash": result.vectors_hash}
    return {**report.lineage, **own}
