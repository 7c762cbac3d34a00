"""CLT batches: inputs and targets of the same tokens, each matrix read once, resumed exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import actstore
from actstore.errors import (
    MismatchError,
    MixedVectorsError,
    NotInStoreError,
    TooFewRowsError,
    UsageError,
)
from actstore.storage.snapshot import Snapshot
from actstore.training.clt import CltBatch, CltBatches
from actstore.training.joining import JoinedSite
from tests.layouts import clt
from tests.querying import stores

LAYERS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("module")
    clt.write_multi_target(found / "clt", layers=LAYERS, batches=5, tokens=7, targets=3)
    actstore.ingest(found / "clt", store=found / "s", model="org/model")
    return found


@pytest.fixture
def store(folder: Path) -> Iterator[actstore.Store]:
    with actstore.open(folder / "s") as found:
        yield found


def _vectors(store: actstore.Store) -> dict[tuple[Any, ...], np.ndarray]:
    rows = store.select()
    table = rows.table(["site", "layer", "example_id", "position"])
    keys = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return dict(zip(keys, rows.numpy(mixed=True), strict=True))


def _check(store: actstore.Store, batch: CltBatch, vectors: Mapping[Any, np.ndarray]) -> None:
    tokens = store.rows_at(batch.rows).table(["site", "layer", "example_id", "position"])
    for number, token in enumerate(tokens.to_pylist()):
        assert (token["site"], token["layer"]) == ("mlp_in", batch.layer)
        key = (token["example_id"], token["position"])
        assert np.array_equal(batch.x[number], vectors["mlp_in", batch.layer, *key])
        for layer, target in zip(batch.target_layers, batch.targets, strict=True):
            assert np.array_equal(target[number], vectors["mlp_out", layer, *key])


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
def test_inputs_and_targets_are_of_the_same_tokens(
    store: actstore.Store, shuffle: bool | Literal["blocks"]
) -> None:
    vectors = _vectors(store)
    batches = store.clt_batches(8, n_targets=3, shuffle=shuffle)
    assert len(batches) == 25  # 37 tokens in 5 batches, 5 layers with a target
    seen: Counter[tuple[int, int]] = Counter()
    for number, batch in enumerate(batches):
        assert batch.layer == number % 5
        assert batch.target_layers == tuple(range(batch.layer + 1, min(batch.layer + 4, LAYERS)))
        _check(store, batch, vectors)
        seen.update((batch.layer, row) for row in batch.rows.tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == 5 * 37
    assert batches.joined.explain() == "37 tokens are in all 10 parts"


def test_they_are_the_files_that_were_ingested(folder: Path, store: actstore.Store) -> None:
    import torch

    rows = 0
    for batch in store.clt_batches(1000, n_targets=3):
        files = [folder / f"clt/L{batch.layer}/batch_{number}_x.pt" for number in range(5)]
        x = torch.cat([torch.load(file)["x"][0] for file in files]).float()
        assert np.array_equal(batch.x, x.numpy())
        for number, target in enumerate(batch.targets):
            outputs = [torch.load(str(file).replace("_x", "_y"))["targets"] for file in files]
            assert np.array_equal(target, torch.cat([o[number][0] for o in outputs]).float())
        rows += len(batch.rows)
    assert rows == 5 * 37


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_a_resumed_pass_equals_an_unbroken_one(
    store: actstore.Store, shuffle: bool | Literal["blocks"]
) -> None:
    def make(**more: Any) -> CltBatches:
        return store.clt_batches(10, n_targets=2, shuffle=shuffle, seed=2, epochs=2, **more)

    whole = [(batch.layer, batch.rows.tolist()) for batch in make()]
    assert len(whole) == 2 * 4 * 5
    for taken in (0, 1, 4, 5, 6, 19, 20, 23, 40):
        batches = make()
        for _ in range(taken):
            next(batches)
        again = make(state=json.loads(json.dumps(batches.state())))
        assert len(again) == len(whole) - taken
        assert [(batch.layer, batch.rows.tolist()) for batch in again] == whole[taken:]


def test_between_two_layers_of_a_batch_its_size_stays(store: actstore.Store) -> None:
    """Layers that are done had the tokens of a batch of the old size, the others would not."""

    def make(size: int, **more: Any) -> CltBatches:
        return store.clt_batches(size, n_targets=2, shuffle=True, **more)

    batches = make(10)
    seen: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        seen.update((batch.layer, row) for row in batch.rows.tolist())
        state = batches.state()
        if state["layers_done"]:
            for other in ({"size": 5}, {"size": 20}, {"size": 10, "world_size": 2}):
                with pytest.raises(MismatchError, match="between two layers"):
                    make(**other, state=state)
        elif state["position"] == 20:
            break
    for batch in make(4, state=state):
        seen.update((batch.layer, row) for row in batch.rows.tolist())
    assert set(seen.values()) == {1}
    assert len(seen) == 5 * 37


def test_each_matrix_is_read_once_for_all_its_targets(
    store: actstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    gather = Snapshot.gather

    def counting(self: Snapshot, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        read.append(len(rows))
        return gather(self, rows, out)

    monkeypatch.setattr(Snapshot, "gather", counting)
    assert len(list(store.clt_batches(100, n_targets=16, shuffle=True))) == 5
    assert read == [37] * 10  # five inputs, five outputs


def test_one_layer_and_its_targets(store: actstore.Store) -> None:
    batches = store.clt_batches(layers=2)
    assert batches.targets == {2: (3, 4, 5)}
    (batch,) = batches
    assert (batch.layer, batch.x.shape, len(batch.targets)) == (2, (37, 16), 3)
    assert [found.layer for found in store.clt_batches(layers=[3, 1])] == [1, 3]
    for wrong in ({"layers": "0"}, {"n_targets": 1.5}, {"layers": [0.5]}):
        with pytest.raises(UsageError, match="whole number"):
            store.clt_batches(**wrong)
    two: Any = np.int64(2)
    batches = store.clt_batches(50 * two, layers=np.arange(2), n_targets=two)
    next(batches)
    assert json.loads(json.dumps(batches.state()))["layers"] == [[0, 2], [1, 3]]


def test_ranks_share_the_tokens(store: actstore.Store) -> None:
    rows = [
        batch.rows.tolist()
        for rank in range(3)
        for batch in store.clt_batches(4, layers=0, shuffle=True, rank=rank, world_size=3)
    ]
    every = store.select(site="mlp_in", layer=0).rows.tolist()
    assert sorted(row for part in rows for row in part) == every


def test_each_site_and_layer_is_normalised_by_itself(store: actstore.Store) -> None:
    batches = store.clt_batches(n_targets=2, normalise="mean-norm")
    assert set(batches.normalisations) == {
        *(JoinedSite("mlp_in", layer) for layer in range(5)),
        *(JoinedSite("mlp_out", layer) for layer in range(1, 6)),
    }
    for batch in batches:
        for matrix in (batch.x, *batch.targets):
            assert np.linalg.norm(matrix, axis=1).mean() == pytest.approx(4, rel=1e-5)


def _tokens(names: list[str], layer: int, site: str, root: Path, width: int = 4) -> None:
    matrix = stores.vectors(len(names), width, "float16", layer + 100 * (site == "mlp_out"))
    stores.add(root, matrix, layer=layer, site=site, example_id=names)


def test_tokens_in_any_order_and_missing_ones(tmp_path: Path) -> None:
    _tokens(["a", "b", "c", "d"], 0, "mlp_in", tmp_path / "t")
    _tokens(["d", "x", "b", "a", "c"], 1, "mlp_out", tmp_path / "t")
    _tokens(["c", "a", "d"], 2, "mlp_out", tmp_path / "t")
    with actstore.open(tmp_path / "t") as store:
        batches = store.clt_batches()
        (batch,) = batches
        ids = store.rows_at(batch.rows).table(["example_id"])["example_id"].to_pylist()
        assert ids == ["a", "c", "d"]
        for layer, target in zip(batch.target_layers, batch.targets, strict=True):
            found = {
                name: vector
                for name, vector in zip(
                    store.select(site="mlp_out", layer=layer).table()["example_id"].to_pylist(),
                    store.select(site="mlp_out", layer=layer).numpy(),
                    strict=True,
                )
            }
            assert np.array_equal(target, np.array([found[name] for name in ids]))
        assert batches.joined.unused == {JoinedSite("mlp_in", 0): 1, JoinedSite("mlp_out", 1): 2}
        explained = batches.joined.explain()
        assert "3 tokens are in all 3 parts" in explained
        assert "2 rows of mlp_out of layer 1, 1 rows of mlp_in of layer 0" in explained


def test_positions_and_nulls_are_told_apart(tmp_path: Path) -> None:
    for site, layer in (("mlp_in", 0), ("mlp_out", 1)):
        matrix = stores.vectors(3, 4, "float16", layer)
        order = [0, 1, None] if layer else [None, 0, 1]
        stores.add(
            tmp_path / "t", matrix, site=site, layer=layer, example_id=["e"] * 3, position=order
        )
    with actstore.open(tmp_path / "t") as store:
        (batch,) = store.clt_batches()
        assert np.array_equal(batch.x, stores.vectors(3, 4, "float16", 0))
        assert np.array_equal(batch.targets[0], stores.vectors(3, 4, "float16", 1)[[2, 0, 1]])


def test_what_cannot_be_joined(tmp_path: Path, store: actstore.Store) -> None:
    with pytest.raises(NotInStoreError, match="layer 5 has no target"):
        store.clt_batches(layers=5)
    with pytest.raises(NotInStoreError, match=r"no mlp_in of layer 9: there is 0, 1"):
        store.clt_batches(layers=9)
    with pytest.raises(UsageError, match="n_targets=0"):
        store.clt_batches(n_targets=0)
    with pytest.raises(NotInStoreError, match=r"no mlp_out of layer 3 among"):
        store.clt_batches(where="NOT (site = 'mlp_out' AND layer = 3)")
    with pytest.raises(NotInStoreError, match=r"no mlp_in has an mlp_out of a later layer"):
        store.clt_batches(layer=0)
    _tokens(["a"], 0, "mlp_in", tmp_path / "t")
    with actstore.open(tmp_path / "t") as other, pytest.raises(NotInStoreError, match="mlp_out"):
        other.clt_batches()
    _tokens(["b"], 1, "mlp_out", tmp_path / "t")
    with actstore.open(tmp_path / "t") as other, pytest.raises(TooFewRowsError, match="no token"):
        other.clt_batches()
    _tokens(["a"], 2, "mlp_out", tmp_path / "t", width=6)
    with actstore.open(tmp_path / "t") as other, pytest.raises(TooFewRowsError, match="no token"):
        other.clt_batches()


def test_models_and_widths_are_not_mixed(tmp_path: Path) -> None:
    for model in ("a/one", "b/two"):
        for site, layer in (("mlp_in", 0), ("mlp_out", 1)):
            stores.add(
                tmp_path / "t",
                stores.vectors(3, 4, "float16", 0),
                site=site,
                layer=layer,
                model=model,
            )
    with actstore.open(tmp_path / "t") as store:
        with pytest.raises(UsageError, match="a/one, b/two"):
            store.clt_batches()
        assert len(list(store.clt_batches(model="b/two"))) == 1
    stores.add(
        tmp_path / "t", stores.vectors(3, 6, "float16", 0), site="mlp_out", layer=2, model="b/two"
    )
    with actstore.open(tmp_path / "t") as store, pytest.raises(MixedVectorsError, match="widths"):
        store.clt_batches(model="b/two")


def test_a_state_of_other_targets_is_refused(store: actstore.Store) -> None:
    state = store.clt_batches(n_targets=3, shuffle=True).state()
    with pytest.raises(MismatchError, match="other layers or targets"):
        store.clt_batches(n_targets=4, shuffle=True, state=state)
    with pytest.raises(MismatchError, match="other rows"):
        store.clt_batches(n_targets=3, layers=[0, 1], shuffle=True, state=state)
    plain = store.select().batches(4, shuffle=True, mixed=True).state()
    with pytest.raises(MismatchError, match="other rows"):
        store.clt_batches(shuffle=True, state=plain)
