"""The approximate index: as good as it says, used only when asked, and never when it is stale."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.api.store import open as open_store
from actstore.errors import MissingExtraError, MixedVectorsError, UsageError
from actstore.querying import approximate
from actstore.storage import derived, layout
from tests.querying import stores

pytest.importorskip("usearch")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    stores.layered(tmp_path / "s", layers=2, rows=300, width=16)
    return tmp_path / "s"


def the_index(root: Path) -> Path:
    (found,) = (root / layout.CACHE).glob("index-*.usearch")
    return found


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_it_finds_what_the_exact_search_finds(root: Path, metric: Any) -> None:
    with open_store(root) as store:
        built = store.index(layer=1, metric=metric)
        assert (built.rows, built.tried) == (300, 100)
        assert built.recall > 0.9
        assert built.path == the_index(root)
        assert built.bytes == built.path.stat().st_size
        queries = np.random.default_rng(0).standard_normal((5, 16))
        asked: dict[str, Any] = {"metric": metric, "layer": 1}
        exact = store.nearest(queries, 10, **asked)
        found = store.nearest(queries, 10, index=True, **asked)
        both = set(zip(*(exact[name].to_pylist() for name in ("query", "row_id")), strict=True))
        mine = set(zip(*(found[name].to_pylist() for name in ("query", "row_id")), strict=True))
        assert len(both & mine) > 45
        assert set(found["layer"].to_pylist()) == {1}
        itself = store.nearest("e7", 3, index=True, **asked)
        assert "e7" not in itself["example_id"].to_pylist()
        assert itself.equals(store.nearest("e7", 3, **asked))


@pytest.mark.parametrize("kept", [0, 7])
def test_an_index_that_cannot_be_opened_is_named(root: Path, kept: int) -> None:
    """Sealed and of this user, so that nothing is left to say so but the library."""
    with open_store(root) as store:
        store.index(layer=1)
        path = the_index(root)
        path.write_bytes(path.read_bytes()[:kept] + bytes(300))
        approximate._finish(path, {})
        derived.seal(path)
        approximate._remember(path)
        with pytest.raises(UsageError, match=rf"{path} cannot be read: .*; build it with"):
            store.nearest(np.ones(16), 3, index=True, layer=1)


def test_rows_without_a_cosine_are_not_in_it(tmp_path: Path) -> None:
    matrix = stores.vectors(50, 8, "float32", 0)
    matrix[3] = 0
    matrix[4, 1] = np.nan
    stores.add(tmp_path / "s", matrix)
    with open_store(tmp_path / "s") as store:
        assert store.index().rows == 48
        found = store.nearest(matrix[5], 50, index=True)
        assert found.equals(store.nearest(matrix[5], 50))


def test_it_is_refused_once_rows_came_to_the_layer(root: Path) -> None:
    with open_store(root) as store:
        with pytest.raises(UsageError, match="there is no cosine index of these rows: build"):
            store.nearest("e7", 3, layer=1, index=True)
        store.index(layer=1)
    stores.add(root, stores.vectors(5, 16, "float16", 9), layer=0, dataset=["other"] * 5)
    with open_store(root) as store:  # the other layer's rows do not matter
        found = store.nearest("e7", 3, layer=1, index=True)
        assert found.equals(store.nearest("e7", 3, layer=1))
    stores.add(root, stores.vectors(5, 16, "float16", 9), layer=1, dataset=["other"] * 5)
    with open_store(root) as store:
        query = np.ones(16)
        with pytest.raises(UsageError, match=r"before rows were added: build it with `actstore"):
            store.nearest(query, 3, layer=1, index=True)
        assert store.nearest(query, 3, layer=1).num_rows == 3
        assert store.index(layer=1).rows == 305
        assert store.nearest(query, 3, layer=1, index=True).num_rows == 3


def test_a_file_that_was_not_built_here_is_not_opened(root: Path) -> None:
    with open_store(root) as store:
        path = store.index(layer=1).path
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)  # the same bytes, with whatever checksum belongs to them
        with pytest.raises(UsageError, match="is not opened: build it"):
            store.nearest("e7", 3, layer=1, index=True)
        path.write_bytes(b"\xff" * 5000)
        with pytest.raises(UsageError, match="is not opened: build it"):
            store.nearest("e7", 3, layer=1, index=True)
        store.index(layer=1)
        assert store.nearest("e7", 3, layer=1, index=True).num_rows == 3


def test_conditions_and_several_places_are_refused(root: Path) -> None:
    with open_store(root) as store:
        with pytest.raises(UsageError, match="choose by model, site and layer alone"):
            store.index(layer=1, label="yes")
        store.index(layer=1)
        with pytest.raises(UsageError, match="choose by model, site and layer alone"):
            store.nearest(np.ones(16), 3, layer=1, label="yes", index=True)
        with pytest.raises(MixedVectorsError) as caught:
            store.index()
        assert "mixed" not in str(caught.value)  # there is no such option
        with pytest.raises(UsageError, match="metric 'other' is unknown"):
            store.index(layer=1, metric="other")  # type: ignore[arg-type]


def test_pruning_takes_it_away(root: Path) -> None:
    with open_store(root) as store:
        store.index(layer=1)
        store.drop("example_id = 'e7'", prune=True)
    assert not list((root / layout.CACHE).glob("*.usearch*"))


def test_without_usearch_it_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "usearch", None)
    with (
        open_store(root) as store,
        pytest.raises(MissingExtraError, match=r"pip install 'actstore\[index\]'"),
    ):
        store.index(layer=1)
