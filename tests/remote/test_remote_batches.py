"""Training batches from afar: blocks in random order, each fetched once and by one rank only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

import actstore
from actstore.api.selection import Selection
from actstore.api.store import Store
from actstore.errors import HubError
from actstore.remote.cache import RangeCache
from tests.hub.publishing import moved, publish, remote
from tests.hub.pushing import push_to
from tests.hub_server import Hub, faults
from tests.querying.stores import layered

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")
ROWS, WIDTH, LAYERS = 1000, 512, [0, 1, 2]
BYTES = 3 * ROWS * WIDTH * 2


@pytest.fixture
def root(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    layered(tmp_path / "s", layers=3, rows=ROWS, width=WIDTH)
    publish(hub, tmp_path / "s")
    # So that there are several windows: 256 rows, eight blocks of 32.
    monkeypatch.setattr("actstore.training.batches.BLOCK_BYTES", 32 * WIDTH * 2)
    monkeypatch.setattr("actstore.training.batches.WINDOW_BYTES", 256 * WIDTH * 2)
    return tmp_path / "s"


def _far(hub: Hub, tmp_path: Path, cache: str = "cache") -> Selection:
    return Store(remote(hub, cache=RangeCache(tmp_path / cache))).select(layer=LAYERS)


def _batches(selection: Selection, **more: Any) -> list[tuple[list[int], np.ndarray]]:
    made = selection.batches(100, **{"shuffle": True, "seed": 4, "columns": ["row_id"], **more})
    return [(batch.table["row_id"].to_pylist(), batch.vectors) for batch in made]


def test_every_row_comes_once_and_every_byte_moves_once(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    with actstore.open(root) as store:
        expected = _batches(store.select(layer=LAYERS), shuffle="blocks")
        everything = store.select(layer=LAYERS).numpy()
    hub.reset()
    found = _batches(_far(hub, tmp_path))
    assert [rows for rows, _ in found] == [rows for rows, _ in expected]
    assert all(np.array_equal(vectors, everything[rows]) for rows, vectors in found)
    assert sorted(row for rows, _ in found for row in rows) == list(range(3 * ROWS))
    assert [rows for rows, _ in found] != sorted(rows for rows, _ in found)
    assert BYTES <= moved(hub) < 1.05 * BYTES


def test_a_rank_fetches_little_but_its_own_share(hub: Hub, root: Path, tmp_path: Path) -> None:
    rows: list[int] = []
    for rank in range(2):
        hub.reset()
        selection = _far(hub, tmp_path, f"cache {rank}")
        for part, _ in _batches(selection, rank=rank, world_size=2):
            rows += part
        # The window in the middle, of 12 in all, belongs to both.
        assert moved(hub) < (0.5 + 0.1) * BYTES
    assert sorted(rows) == list(range(3 * ROWS))


def test_a_pass_goes_on_in_the_middle_of_a_window(hub: Hub, root: Path, tmp_path: Path) -> None:
    whole = _batches(_far(hub, tmp_path))
    begun = _far(hub, tmp_path).batches(100, shuffle=True, seed=4)
    for _ in range(7):
        next(begun)
    hub.reset()
    rest = _batches(_far(hub, tmp_path, "another cache"), state=begun.state())
    assert [rows for rows, _ in rest] == [rows for rows, _ in whole[7:]]
    assert all(
        np.array_equal(ours, theirs) for (_, ours), (_, theirs) in zip(rest, whole[7:], strict=True)
    )
    assert moved(hub) < 0.9 * BYTES  # two of twelve windows were given out before


def test_after_a_broken_connection_the_same_batch_is_next(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    whole = _batches(_far(hub, tmp_path))
    begun = _far(hub, tmp_path, "another cache").batches(
        100, shuffle=True, seed=4, columns=["row_id"]
    )
    found = [next(begun).table["row_id"].to_pylist() for _ in range(3)]
    hub.faults.add(faults.status(500), times=None)
    with pytest.raises(HubError):
        found.extend(batch.table["row_id"].to_pylist() for batch in begun)
    hub.faults.clear()
    found += [batch.table["row_id"].to_pylist() for batch in begun]
    assert found == [rows for rows, _ in whole]


def test_workers_of_a_loader_open_the_repository_themselves(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    layered(tmp_path / "t", layers=2, rows=60, width=16)
    push_to(hub, tmp_path / "t")
    selection = Store(remote(hub)).select(layer=[0, 1])
    dataset = selection.torch_dataset(16, shuffle=True, block=4)
    rows = [item["row_id"].tolist() for item in DataLoader(dataset, batch_size=None, num_workers=2)]
    expected = selection.batches(16, shuffle=True, block=4, columns=["row_id"])
    assert rows == [batch.table["row_id"].to_pylist() for batch in expected]


def test_transcoders_train_from_afar(hub: Hub, tmp_path: Path) -> None:
    from tests.layouts import clt

    clt.write_multi_target(tmp_path / "clt", layers=4, batches=4, tokens=9, targets=2)
    actstore.ingest(tmp_path / "clt", store=tmp_path / "t", model="org/model")
    publish(hub, tmp_path / "t")
    with actstore.open(tmp_path / "t") as store:
        expected = list(store.clt_batches(16, shuffle="blocks", block=2, n_targets=2))
    found = list(Store(remote(hub)).clt_batches(16, shuffle=True, block=2, n_targets=2))
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.rows, theirs.rows)
        assert np.array_equal(ours.x, theirs.x)
        assert all(map(np.array_equal, ours.targets, theirs.targets))
