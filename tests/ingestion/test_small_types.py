"""Folders taken in with smaller types: what is stored is as near as the type says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import actstore
from actstore.ingestion.options import StorageType
from actstore.ingestion.report import IngestSummary
from actstore.storage.snapshot import open_snapshot

ROWS, WIDTH = 12, 24


def source(folder: Path, dtype: torch.dtype) -> np.ndarray:
    """Write one file per prompt; return its vectors as float32, ``[rows, width]``."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, WIDTH, generator=draw) * torch.logspace(-3, 3, ROWS)[:, None]
    values[3, 5] = 1e-6  # less than float16's smallest normal number
    values[-1, 0] = 1e5  # more than float16 holds
    for number, row in enumerate(values.to(dtype)):
        torch.save({"L3": row}, folder / f"prompt_{number:02d}.pt")
    found: np.ndarray = values.to(dtype).float().numpy()
    return found


def take_in(folder: Path, kind: StorageType) -> IngestSummary:
    return actstore.ingest(
        folder / "in",
        store=folder / "s",
        model="org/model",
        site="resid_post",
        storage_dtype=kind,
    )


def held(store: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return each example's vector as it is handed out, and the type that it is stored in."""
    snapshot = open_snapshot(store)
    try:
        vectors = snapshot.gather(np.arange(snapshot.rows)).astype(np.float32)
        places = np.searchsorted(snapshot.offsets, np.arange(snapshot.rows), "right") - 1
        types = [snapshot.shards[place].dtype for place in places.tolist()]
    finally:
        snapshot.close()
    with actstore.open(store) as opened:
        names = [row[0] for row in opened.sql(
            "SELECT example_id FROM activations ORDER BY row_id").fetchall()]  # fmt: skip
    return dict(zip(names, vectors, strict=True)), dict(zip(names, types, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_compact16_is_the_nearest_half_and_float32_beyond_it(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    values = source(tmp_path / "in", dtype)
    done = take_in(tmp_path, "compact16")
    vectors, types = held(tmp_path / "s")
    assert len(vectors) == ROWS
    for number, expected in enumerate(values):
        name = f"prompt_{number:02d}"
        last = number == ROWS - 1
        assert types[name] == ("float32" if last else "float16")
        with np.errstate(over="ignore"):
            half = expected.astype(np.float16).astype(np.float32)
        assert vectors[name].tobytes() == (expected if last else half).tobytes()
    assert any("compact16" in note or "float16" in note for note in done.notes)
    again = take_in(tmp_path, "compact16")
    assert (again.rows_written, again.rows_present) == (0, ROWS)


def test_int8_is_half_a_step_off_at_most(tmp_path: Path) -> None:
    values = source(tmp_path / "in", torch.float32)
    take_in(tmp_path, "int8")
    vectors, types = held(tmp_path / "s")
    assert set(types.values()) == {"int8"}
    for number, expected in enumerate(values):
        step = np.abs(expected).max() / 127
        found = vectors[f"prompt_{number:02d}"]
        assert np.abs(found - expected).max() <= step / 2 * (1 + 1e-5)
    with actstore.open(tmp_path / "s") as store:
        query = np.ones(WIDTH, np.float32)
        told = store.sql(
            "SELECT example_id, dot(activation, $q), norm FROM activations", {"q": query}
        ).fetchall()
    for name, product, norm in told:
        exact = vectors[name].astype(np.float64)
        assert product == pytest.approx(exact.sum(), rel=1e-5, abs=1e-5 * np.abs(exact).sum())
        assert norm == pytest.approx(np.linalg.norm(exact), rel=1e-6)
    again = take_in(tmp_path, "int8")
    assert (again.rows_written, again.rows_present) == (0, ROWS)
