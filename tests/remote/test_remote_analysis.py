"""Statistics, comparisons and pictures of a store on the Hub are those of the local one."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.analysis import plots, report, statistics, viewing
from actstore.analysis.statistics.comparison import compare
from actstore.analysis.statistics.difference import diff
from tests.hub.publishing import ADDRESS
from tests.hub.pushing import push_to
from tests.hub_server import Hub
from tests.querying.stores import layered

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


def test_the_numbers_and_pictures_are_the_same(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    layered(tmp_path / "s", layers=2, rows=40, width=16)
    push_to(hub, tmp_path / "s")
    local, far = actstore.open(tmp_path / "s"), actstore.open(ADDRESS)
    assert diff(local.select(), far.select()).equal
    by = ("layer", "label")
    assert statistics.describe(far.select(), by) == statistics.describe(local.select(), by)
    sides = [(one.select(label="yes"), one.select(label="no")) for one in (local, far)]
    assert compare(*sides[0]) == compare(*sides[1])
    for draw in (plots.pca, plots.heatmap, plots.auroc):
        assert plots.render(draw(far.select()), ".svg") == plots.render(
            draw(local.select()), ".svg"
        )
    told = report.collect(far.select())
    assert told.name == ADDRESS
    assert told.labels == report.collect(local.select()).labels
    assert viewing.export(far.select(), tmp_path / "rows.parquet").rows == 80
