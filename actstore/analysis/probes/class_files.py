"""Probes of several classes on disk: a file for each class, a report, scores by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from actstore.analysis.examples import previous_report, question_scores
from actstore.analysis.probes import probe_files
from actstore.analysis.probes.results import ClassesReport, ClassesResult


def save(report: ClassesReport, out: Path) -> list[Path]:
    """Write probes, ``report.json`` and the scores by question into a folder.

    Each class has a folder of its own: ``probes/maths/layer_6.safetensors`` is the probe of
    ``maths`` against the rest, which ``actstore score`` takes like any other. The scores of all
    classes are in ``probe_stats_layer6.csv``. Probes and scores that an earlier run into the
    same folder reported are removed.

    Returns:
        What was written, the report first.
    """
    folders = question_scores.folders([result.place for result in report.results])
    by_class = class_folders(report.names)
    previous_report.remove(out, probe_files.REPORT, ("probe", "probes", "scores"))
    written: list[Path] = []
    entries = []
    for result in report.results:
        folder = Path(folders[result.place])
        file = f"{result.place.file_word}.safetensors"
        probes = {}
        for figures in result.classes:
            path = Path(probe_files.FOLDER) / by_class[figures.name] / folder / file
            probes[figures.name] = path.as_posix()
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            rest = [name for name in report.names if name != figures.name]
            probe_files.write_probe(
                out / path,
                figures.probe,
                trained_rows=result.trained_rows,
                figures={"auroc": figures.auroc.value},
                lineage={
                    **_lineage(report, result),
                    "positive": [figures.name],
                    "negative": rest,
                },
                made_of=result.made_of,
            )
            written.append(out / path)
        stats = folder / question_scores.file_name(result.place)
        (out / stats).parent.mkdir(parents=True, exist_ok=True)
        question_scores.write(
            out / stats,
            by_question(result, report),
            (*question_scores.COLUMNS[:3], "named", *(f"score_{name}" for name in report.names)),
        )
        written.append(out / stats)
        entries.append({**summary(result, report), "probes": probes, "scores": stats.as_posix()})
    return [probe_files.write_report(out, entries), *written]


def by_question(result: ClassesResult, report: ClassesReport) -> list[tuple[object, ...]]:
    """Return for each example its id, question, class, the class named, and each mean score."""
    tables = [
        question_scores.by_question(result.table, scores, report.column)
        for scores in result.scores.T
    ]
    found: list[tuple[object, ...]] = []
    for each in zip(*tables, strict=True):
        scores = [entry[3] for entry in each]
        named = report.names[int(np.argmax(scores))]
        found.append((*each[0][:3], named, *scores))
    return found


def summary(result: ClassesResult, report: ClassesReport) -> dict[str, Any]:
    """Return what ``report.json`` says of one place."""
    permuted = None
    if result.permuted is not None:
        permuted = result.permuted._asdict()
        del permuted["accuracy_mean"]
    return {
        **result.place.named,
        "task": "classes",
        "method": result.method,
        "width": result.width,
        "rows": result.rows,
        "grouped_by": result.grouped_by,
        "groups": result.groups,
        "trained_rows": result.trained_rows,
        "folds": result.folds,
        "macro_auroc": result.auroc.value,
        "macro_auroc_interval": [result.auroc.low, result.auroc.high],
        "classes": [
            {
                "name": each.name,
                "rows": each.rows,
                "auroc": each.auroc.value,
                "auroc_interval": [each.auroc.low, each.auroc.high],
                "p_family": each.p_family,
            }
            for each in result.classes
        ],
        "confusion": result.confusion.tolist(),
        "accuracy": result.accuracy.value,
        "accuracy_interval": [result.accuracy.low, result.accuracy.high],
        "balanced_accuracy": result.balanced_accuracy,
        "baselines": {
            "majority_accuracy": result.majority,
            "permutation": permuted,
            "words": probe_files.words_told(result),
        },
        "p_family": None if result.permuted is None else result.permuted.p_family,
        "effect": probe_files.effect_told(result),
        "best": probe_files.best_told(result, report.best),
        "verdict": result.verdict,
        "interval_method": "DeLong by group, mean of the classes, folds correlated, 95 %",
        "lineage": _lineage(report, result),
        "notes": report.notes,
    }


def class_folders(names: tuple[str, ...]) -> dict[str, str]:
    """Return a folder for each class, different also where upper case counts for nothing."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        folder = plain = question_scores.plain(name)[:100]
        number = 1
        while folder.lower() in taken:
            number += 1
            folder = f"{plain}_{number}"
        taken.add(folder.lower())
        found[name] = folder
    return found


def _lineage(report: ClassesReport, result: ClassesResult) -> dict[str, Any]:
    own = {"rows_hash": result.rows_hash, "vectors_hash": result.vectors_hash}
    return {**report.lineage, **own}
