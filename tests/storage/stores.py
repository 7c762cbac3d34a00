"""Small stores whose content follows from the rows' keys, and ways to read all of one back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from actstore import schema
from actstore.storage import layout
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Manifest, Run
from actstore.storage.metadata_table import Fragment
from actstore.storage.rows import Narrow, RowBatch
from actstore.storage.shard import ShardWriter, Written
from actstore.storage.snapshot import Snapshot, open_snapshot
from actstore.storage.verification import verify
from actstore.storage.writer import StoreWriter

RUN = Run(run_id="run", kind="ingest", started_at="2026-01-01T00:00:00Z")

Content = dict[tuple[Any, ...], tuple[str, bytes, Any]]
"""Each row's key: its stored type, its vector's bytes and its label."""


def vectors(rows: int, width: int, dtype: str = "float16", seed: int = 0) -> np.ndarray:
    """Return finite vectors of all magnitudes, minus zero and subnormal numbers among them."""
    bits = np.random.default_rng([seed, rows, width])
    if dtype == "float16":
        found = bits.integers(0, 1 << 16, (rows, width), np.uint16).view(np.float16)
    else:
        found = bits.integers(0, 1 << 32, (rows, width), np.uint32).view(np.float32)
    return np.where(np.isfinite(found), found, found.dtype.type(-0.0))


def document(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest's content, to be changed by hand: without its seal."""
    found = json.loads(manifest.encode())
    del found["sha256"]
    return dict(found)


def without_seals(root: Path) -> None:
    """Make all manifests such as were written before they, and metadata, had hashes there."""
    for number in manifests.numbers(root):
        old = dataclasses.replace(manifests.load(root, number), sealed=False)
        layout.manifest_path(root, number).write_bytes(old.encode())


def sealed(document: dict[str, Any]) -> bytes:
    """Return content that was changed by somebody who knows how manifests are sealed."""
    text = json.dumps(document).encode()[:-1]
    digest = hashlib.sha256(text).hexdigest().encode()
    return text + b',\n"sha256": "%s"\n}\n' % digest


def batch(
    first: int,
    count: int,
    *,
    layer: int | None = 3,
    width: int = 8,
    dtype: str = "float16",
    seed: int = 0,
    **constants: Any,
) -> RowBatch:
    """Return examples ``first`` to ``first + count``; their vectors follow from their numbers."""
    numbers = range(first, first + count)
    rows = [vectors(1, width, dtype, 1000 * seed + number)[0] for number in numbers]
    return RowBatch(
        vectors=np.array(rows, dtype).reshape(count, width),
        constants={
            "model": "org/model",
            "site": "resid_post",
            "pooling": "last",
            "layer": layer,
            "question": "What is it?",
            **constants,
        },
        columns={"example_id": [f"e{number}" for number in numbers]},
    )


def write(
    root: Path,
    *batches: RowBatch,
    run: Run = RUN,
    narrow: Narrow | None = None,
    small: bool = False,
) -> int | None:
    """Store batches as one commit and return its number."""
    with StoreWriter(root, run=run, narrow=narrow, small=small) as writer:
        for one in batches:
            writer.add(one)
        return writer.commit(operation="ingest", message=f"{len(batches)} batches")


def content(source: Path | Snapshot, at: int | None = None) -> Content:
    """Return every row of a commit, having checked that it is whole and no key comes twice."""
    snapshot = source if isinstance(source, Snapshot) else open_snapshot(source, at)
    table = pq.read_table(snapshot.metadata_file())
    assert len(table) == snapshot.rows
    keys = list(zip(*(table[name].to_pylist() for name in schema.key_names()), strict=True))
    labels = table["label"].to_pylist()
    found: Content = {}
    for number, entry in enumerate(snapshot.shards):
        rows = np.arange(snapshot.offsets[number], snapshot.offsets[number + 1])
        matrix = snapshot.gather(rows)
        assert matrix.dtype == ("float32" if entry.dtype == "int8" else entry.dtype)
        for row, vector in zip(rows.tolist(), matrix, strict=True):
            assert keys[row] not in found
            found[keys[row]] = entry.dtype, vector.tobytes(), labels[row]
    if snapshot is not source:
        snapshot.close()
    return found


def expected(*batches: RowBatch) -> Content:
    """Return what :func:`content` gives for a store of these batches."""
    found: Content = {}
    for one in batches:
        for row, vector in enumerate(one.vectors):
            cells = {**one.constants, **{name: one.columns[name][row] for name in one.columns}}
            key = tuple(cells.get(name) for name in schema.key_names())
            found[key] = str(vector.dtype), vector.tobytes(), cells.get("label")
    return found


def assert_sound(root: Path) -> None:
    """Check every byte of the latest commit."""
    snapshot = open_snapshot(root)
    assert verify(snapshot) == []
    snapshot.close()


def card_files(root: Path) -> dict[str, list[str]]:
    """Return the files of each config of a store's card, found as ``load_dataset`` finds them."""
    import yaml  # type: ignore[import-untyped]

    card = (root / "README.md").read_text(encoding="utf-8")
    # In C where that is built: crash tests read a card at each of hundreds of moments.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    front = yaml.load(card.split("---\n")[1], loader)
    found: dict[str, list[str]] = {}
    for config in front["configs"]:
        assert config["config_name"] not in found
        patterns = config["data_files"][0]["path"]
        files = [path for pattern in patterns for path in root.glob(pattern)]
        names = [path.relative_to(root).as_posix() for path in files]
        assert len(set(names)) == len(names)
        assert names, f"{config['config_name']} matches nothing"
        found[config["config_name"]] = sorted(names)
    return found


def card_commit(root: Path) -> int:
    """Return the commit that the card is about."""
    card = (root / "README.md").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"commit (\d+) of", card)
    assert found
    return int(found[1])


def live_files(root: Path, at: int | None = None) -> list[str]:
    """Return the shards of a commit."""
    return sorted(entry.path for entry in open_snapshot(root, at).shards)


def write_shard(path: Path, matrix: np.ndarray, pieces: Sequence[int] = ()) -> Written:
    """Write one shard file of the given vectors, appended in pieces of the given sizes."""
    rows, width = matrix.shape
    dtype: schema.VectorType = "float16" if matrix.dtype == np.float16 else "float32"
    writer = ShardWriter(path, width=width, dtype=dtype)
    first = 0
    for size in [*pieces, rows - sum(pieces)]:
        writer.append(matrix[first : first + size], fragment(first, size))
        writer.settle()
        first += size
    return writer.finish()


def fragment(first: int, count: int) -> Fragment:
    """Return metadata for rows ``first`` to ``first + count``."""
    constants = {
        "model": "org/model",
        "site": "resid_post",
        "pooling": "last",
        "layer": 3,
        "run_id": "run",
        "question": "Què és això?" * 9,
    }
    columns: dict[str, list[str | None]] = {
        "example_id": [f"e{number}" for number in range(first, first + count)],
        "label": [("a", None, "b")[number % 3] for number in range(first, first + count)],
    }
    return Fragment(constants, columns, range(count))
