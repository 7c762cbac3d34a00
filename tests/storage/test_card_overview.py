"""The generated text of a card: tables, labels, runs, and ways to load."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from actstore.storage import card_overview
from actstore.storage.manifest import Manifest, Run, ShardEntry, load
from tests.storage.stores import batch, write


def manifest_of(runs: tuple[Run, ...] = (), *layers: int | None) -> Manifest:
    shards = tuple(
        ShardEntry(
            path=f"activations/m/s/{number}/f16x4-t-00000.parquet",
            model="a|b",
            site="s",
            layer=layer,
            width=4,
            dtype="float16",
            rows=10,
            bytes=100,
            sha256=f"{number:064d}",
        )
        for number, layer in enumerate(layers)
    )
    return Manifest(
        number=7,
        parent=6,
        created_at="2026-01-01T00:00:00Z",
        operation="ingest",
        message="",
        shards=shards,
        runs=runs,
    )


def test_layers_and_rows_stand_in_one_line_per_site() -> None:
    text = "\n".join(card_overview.lines(manifest_of((), 0, 1, 2, 5, None), "org/name", None))
    assert "| a\\|b | s | 0-2, 5, unknown | 50 (10 a layer) | float16 x 4 |" in text
    assert "commit 7 of 2026-01-01T00:00:00Z" in text
    assert 'load_dataset("org/name", "metadata", split="train")' in text
    for way in ("pd.read_parquet", "pl.scan_parquet", "duckdb.sql", "actstore.open"):
        assert f'{way}("' in text


def test_labels_are_counted_per_task_and_rare_ones_summed() -> None:
    rows = [("t", "a")] * 3 + [("t", None)] * 2 + [(None, "b")]
    rows += [("t", f"rare {number}") for number in range(20)]
    tasks, labels = zip(*rows, strict=True)
    counts = card_overview.count_labels(pa.table({"task": tasks, "label": labels}))
    assert counts.total() == 26
    text = "\n".join(card_overview.lines(manifest_of((), 0), None, counts))
    assert "| task | a | no label |" in text
    assert "| 10 other labels |" in text or "other labels |" in text
    assert sum(line.startswith("| t |") for line in text.splitlines()) == 1


def test_settings_show_no_folder_of_the_machine_and_no_long_text() -> None:
    settings = {
        "sources": ["/home/somebody/cache", "C:\\data\\runs"],
        "recipe_toml": "a = 1\nb = 2",
        "sidecars": {"labels": "/home/somebody/labels.csv"},
        "strict": True,
        "note": "x" * 200,
        "nothing": None,
    }
    run = Run(run_id="r", kind="ingest", started_at="t", settings=settings, versions={"v": "1"})
    text = "\n".join(card_overview.lines(manifest_of((run,), 0), None, None))
    assert "| r | t | sources cache runs, labels labels.csv, strict, note xxx" in text
    assert "somebody" not in text
    assert "a = 1" not in text


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path / "a", batch(0, 3))
    write(tmp_path / "b", batch(0, 3))
    write(tmp_path / "c", batch(0, 3, seed=1))
    prints = [card_overview.fingerprint(load(tmp_path / name).shards) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
