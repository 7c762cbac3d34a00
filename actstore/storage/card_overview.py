"""The generated part of a card's text: what the store holds, how it was made, how to load it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from actstore.storage import layout
from actstore.storage.card_configs import OWN, layer_name
from actstore.storage.manifest import Manifest, Run, ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa

LabelCounts = Counter[tuple[str | None, str | None]]
"""Rows per (task, label)."""
_MOST_LABELS = 12
_MOST_TASKS = 40
_MOST_RUNS = 20
_LONGEST = 60


def count_labels(table: pa.Table) -> LabelCounts:
    """Return how many rows of a table have each task and label."""
    groups = (
        table.select(["task", "label"]).group_by(["task", "label"]).aggregate([([], "count_all")])
    )
    cells = (groups[name].to_pylist() for name in ("task", "label", "count_all"))
    return Counter({(task, label): rows for task, label, rows in zip(*cells, strict=True)})


def fingerprint(shards: Sequence[ShardEntry]) -> str:
    """Return one hash for the content of all shards, in row order: equal stores, equal hashes."""
    return hashlib.sha256("\n".join(shard.sha256 for shard in shards).encode()).hexdigest()


def lines(
    manifest: Manifest,
    name: str | None,
    labels: LabelCounts | None,
    *,
    own_columns: bool = False,
) -> list[str]:
    """Return the generated text, line by line.

    Args:
        manifest: the commit that the card is about.
        name: ``org/name`` of the repository; None for the card of a folder.
        labels: rows per task and label, if they were counted.
        own_columns: whether a table of own columns lies beside the shards.
    """
    found = _holdings(manifest)
    if labels:
        found += ["", *_labels(labels)]
    if manifest.runs:
        found += ["", *_runs(manifest.runs)]
    found += ["", *_loading(manifest, name, own_columns), ""]
    return [
        *found,
        "Each vector stands in `activation`, beside its question, oracle answer, prediction,",
        "label, task, layer, site and pooling.",
        "",
        f"Fingerprint of all shards: `{fingerprint(manifest.shards)}`. Written by actstore.",
    ]


def _holdings(manifest: Manifest) -> list[str]:
    rows: dict[tuple[str, str], Counter[int | None]] = {}
    types: dict[tuple[str, str], set[str]] = {}
    for entry in manifest.shards:
        rows.setdefault((entry.model, entry.site), Counter())[entry.layer] += entry.rows
        types.setdefault((entry.model, entry.site), set()).add(f"{entry.dtype} x {entry.width}")
    found = [
        f"{manifest.rows:,} activation vectors in {len(manifest.shards)} shards, "
        f"commit {manifest.number} of {manifest.created_at}.",
        "",
        "| model | site | layers | rows | vectors |",
        "|---|---|---|---|---|",
    ]
    for (model, site), layers in rows.items():
        cells = (model, site, _spans(layers), _rows(layers), ", ".join(sorted(types[model, site])))
        found.append(_row(cells))
    return found


def _rows(layers: Counter[int | None]) -> str:
    each = set(layers.values())
    if len(layers) > 1 and len(each) == 1:
        return f"{layers.total():,} ({each.pop():,} a layer)"
    return f"{layers.total():,}"


def _labels(counts: LabelCounts) -> list[str]:
    """Return a table of tasks by labels, the most frequent first."""
    by_label: Counter[str | None] = Counter()
    by_task: Counter[str | None] = Counter()
    for (task, label), rows in counts.items():
        by_label[label] += rows
        by_task[task] += rows
    if set(by_label) == {None}:
        return ["No row has a label yet."]
    shown = [label for label, _ in by_label.most_common(_MOST_LABELS)]
    rest = set(by_label) - set(shown)
    header = ["task", *("no label" if label is None else label for label in shown)]
    header += [f"{len(rest)} other labels"] if rest else []
    found = [_row(header), "|---" * len(header) + "|"]
    for task, _ in by_task.most_common(_MOST_TASKS):
        cells = [f"{counts[task, label]:,}" for label in shown]
        cells += [f"{sum(counts[task, label] for label in rest):,}"] if rest else []
        found.append(_row(["" if task is None else task, *cells]))
    if len(by_task) > _MOST_TASKS:
        found += ["", f"and {len(by_task) - _MOST_TASKS} more tasks."]
    return found


def _runs(runs: Sequence[Run]) -> list[str]:
    found = ["| run | started | settings | versions |", "|---|---|---|---|"]
    for run in runs[-_MOST_RUNS:]:
        settings = ", ".join(filter(None, (_setting(*item) for item in run.settings.items())))
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        found.append(_row((run.run_id, run.started_at, settings, versions)))
    if len(runs) > _MOST_RUNS:
        found += ["", f"and {len(runs) - _MOST_RUNS} earlier runs."]
    return found


def _setting(name: str, value: Any) -> str | None:
    """Return a setting as short text; folders of the machine it ran on say nothing to others."""
    if isinstance(value, dict):
        inner = (_setting(key, item) for key, item in value.items())
        return ", ".join(filter(None, inner)) or None
    if isinstance(value, list | tuple):
        texts = [_short(item) for item in value]
        return f"{name} {' '.join(filter(None, texts))}" if any(texts) else None
    if value is True:
        return name
    text = _short(value)
    return f"{name} {text}" if text else None


def _short(value: Any) -> str | None:
    if value in (None, False, "") or "\n" in str(value):
        return None
    text = str(value)
    if text.startswith(("/", "~", ".")) or re.match(r"[A-Za-z]:\\", text):
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _loading(manifest: Manifest, name: str | None, own_columns: bool) -> list[str]:
    """Return five ways to load, with names that exist."""
    if not manifest.shards:
        return []
    first = manifest.shards[0]
    whole = name or "FOLDER"
    base = f"hf://datasets/{name}" if name else "FOLDER"
    # A folder keeps the shards of earlier commits, a repository only the live ones.
    tag = layout.vector_tag(first.width, first.dtype)
    own = [f'load_dataset("{whole}", "{OWN}", split="train")  # with own columns, typed']
    many = f"{base}/activations/**/{tag}-*.parquet" if name else f"{base}/{first.path}"
    return [
        "```python",
        "from datasets import load_dataset",
        "",
        f'load_dataset("{whole}", split="train")  # all rows of the first model',
        f'load_dataset("{whole}", "{layer_name(first)}", split="train")  # one layer',
        f'load_dataset("{whole}", "metadata", split="train")  # without vectors',
        *(own if own_columns else []),
        "",
        "import pandas as pd",
        f'pd.read_parquet("{base}/{first.path}")',
        "",
        "import polars as pl",
        f'pl.scan_parquet("{many}").select("example_id", "label").collect()',
        "",
        "import duckdb",
        f"duckdb.sql(\"SELECT label, count(*) FROM '{many}' GROUP BY label\")",
        "",
        "import actstore",
        f'actstore.open("{base}").select(site="{first.site}").tensor()',
        "```",
    ]


def _row(cells: Iterable[str]) -> str:
    # A bar or a line break inside a cell would tear the table apart.
    clean = (re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in cells)
    return "| " + " | ".join(clean) + " |"


def _spans(layers: Iterable[int | None]) -> str:
    """Return layer numbers as text, runs of three and more joined: ``0-30``."""
    numbers = sorted(layer for layer in layers if layer is not None)
    parts: list[str] = []
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            run = numbers[start:at]
            joined = [f"{run[0]}-{run[-1]}"] if len(run) > 2 else [str(number) for number in run]
            parts += joined
            start = at
    if None in set(layers):
        parts.append("unknown")
    return ", ".join(parts)
