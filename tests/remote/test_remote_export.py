"""A store on the Hub is exported as the same store in a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, contents, export
from tests.hub.publishing import ADDRESS, publish
from tests.hub_server import Hub
from tests.layouts import faithfulness


def test_a_store_on_the_hub_is_exported_as_it_is(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    faithfulness.write_v1(tmp_path / "project")
    ingest(tmp_path / "project", tmp_path / "store", recipe="faithfulness")
    publish(hub, tmp_path / "store")
    export(tmp_path / "store", "faithfulness", tmp_path / "here")
    with actstore.open(ADDRESS) as far:
        far.export("faithfulness", tmp_path / "far")
        far.export("safetensors", tmp_path / "matrices", layers=6)
    assert contents(tmp_path / "here") == contents(tmp_path / "far")
    assert_same_files(tmp_path / "project", tmp_path / "far")
