"""Token rows found in a store: by model, site and layer, of runs that kept every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.capturing.token_rows import REGIONS, ROLES, kept_regions, partitions
from actstore.storage.manifest import Run
from actstore.storage.snapshot import open_snapshot
from tests.capturing import token_stores as stores


def test_rows_come_by_layer_example_and_position(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    snapshot = open_snapshot(tmp_path / "s")
    found = list(partitions(snapshot))
    assert [(each.model, each.site, each.layer) for each in found] == [
        (stores.MODEL, "resid_post", 0),
        (stores.MODEL, "resid_post", 4),
    ]
    tokens = found[0]
    assert [example["example_id"] for example in tokens.examples] == ["e0", "e1", "e2"]
    assert tokens.position.tolist() == [*range(9), *range(6), *range(7)]
    assert tokens.group.tolist() == [0] * 9 + [1] * 6 + [2] * 7
    assert [ROLES[code] for code in tokens.role[:6]] == list(stores.PROMPT_ROLES)
    assert [REGIONS[code] for code in tokens.region[5:7]] == ["prompt", "response"]
    assert tokens.token_id[:3].tolist() == [100, 101, 102]
    assert [each.through for each in found] == [22, 44]
    np.testing.assert_array_equal(snapshot.gather(tokens.row[:9]), stores.states(0, 0, 9))


def test_only_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    stores.write(tmp_path / "s")
    snapshot = open_snapshot(tmp_path / "s")
    mask = np.zeros(snapshot.rows, bool)
    mask[25:30] = True
    (tokens,) = partitions(snapshot, mask)
    assert (tokens.layer, sorted(tokens.row.tolist())) == (4, [25, 26, 27, 28, 29])


@pytest.mark.parametrize(
    ("kind", "pool", "expected"),
    [
        ("capture", ["prompt.tokens", "response.-1"], {"prompt"}),
        ("record", ["all.tokens"], {"all"}),
        ("capture", ["prompt.last"], set()),
        ("capture", None, None),
        ("ingest", "mean", None),
    ],
)
def test_what_a_run_kept_whole(kind: str, pool: object, expected: set[str] | None) -> None:
    settings = {} if pool is None else {"pool": pool}
    run = Run(run_id="r", kind=kind, started_at="2026-01-01T00:00:00Z", settings=settings)
    assert kept_regions(run) == expected
