"""Stacks: one array of examples by layers, bit for bit what a naive join gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore import schema
from actstore.api.selection import Selection
from actstore.errors import MixedVectorsError, NotInStoreError, StackError, UsageError
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.querying import places


def naive(rows: Selection, column: str) -> tuple[list[tuple[Any, ...]], list[Any], np.ndarray]:
    """Return examples' keys in the order they come, the values, and the array: with a dict."""
    names = [name for name in schema.key_names() if name != column]
    table = rows.table([*names, column]).to_pylist()
    vectors = rows.numpy(mixed=True)
    cells = {}
    for row, vector in zip(table, vectors, strict=True):
        cells[tuple(row[name] for name in names), row[column]] = vector
    examples = list(dict.fromkeys(key for key, _ in cells))
    values = sorted({value for _, value in cells}, key=lambda value: (value is None, value or 0))
    array = np.stack([[cells[key, value] for value in values] for key in examples])
    return examples, values, array


def write(root: Path, random: np.random.Generator, layers: list[int | None], dtype: str) -> None:
    """Commit examples with variants, modes and token positions, in another order for each layer."""
    examples = [
        {"example_id": f"e{number}", "mode": mode, "variant": variant, "position": position}
        for number in range(4)
        for mode in ("tqa", None)
        for variant in ("q1", "q2")
        for position in (0, 1, 5)
    ]
    with StoreWriter(root, run=Run(run_id="run", kind="test", started_at="")) as writer:
        for layer in layers:
            order = random.permutation(len(examples))
            columns = {name: [examples[at][name] for at in order] for name in examples[0]}
            columns["label"] = [("no", "yes")[at % 2] for at in order]
            columns["token_id"] = [int(at) * 7 for at in order]
            constants = {"model": "m", "site": "resid_post", "layer": layer, "pooling": "none"}
            vectors = random.standard_normal((len(examples), 5)).astype(dtype)
            writer.add(RowBatch(vectors=vectors, constants=constants, columns=columns))
        writer.commit(operation="test", message="rows")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("layers", [[6], [12, 6, 18], [None, 2]])
def test_a_stack_is_what_a_naive_join_gives(
    tmp_path: Path, dtype: str, layers: list[int | None]
) -> None:
    random = np.random.default_rng(1)
    write(tmp_path, random, layers, dtype)
    with actstore.open(tmp_path) as store:
        shuffled = store.select().take(random.permutation(store.rows))
        for rows in (store.select(), shuffled, shuffled.by("label")["yes"]):
            found = rows.stack("layer")
            examples, values, array = naive(rows, "layer")
            assert found.array.dtype == dtype
            assert found.array.shape == (len(examples), len(layers), 5)
            assert found.array.tobytes() == array.tobytes()
            assert list(found.values) == values
            names = [name for name in schema.key_names() if name != "layer"]
            keys = [tuple(row[name] for name in names) for row in found.table.to_pylist()]
            assert keys == examples
            assert {"label", "token_id", "site", "pooling"} <= set(found.table.column_names)
            assert not {"layer", "norm", "row_id"} & set(found.table.column_names)


def test_tensors_share_memory_and_results_unpack(tmp_path: Path) -> None:
    import torch

    places.write(tmp_path, places.places(layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        found = store.select().stack("layer")
    array, layers, table = found
    assert layers == (3, 7)
    assert table["example_id"].to_pylist() == [f"e{number}" for number in range(6)]
    tensor = found.tensor()
    assert torch.equal(tensor, torch.from_numpy(array))
    assert tensor.data_ptr() == array.ctypes.data


def test_other_columns_of_the_key_stack_too(tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("max", "prompt"), ("mean", "prompt"))
    places.write(tmp_path / "pools", places.places(pools=pools))
    with actstore.open(tmp_path / "pools") as store:
        found = store.select().stack("pooling")
        assert found.values == ("last", "max", "mean")
        for number, pooling in enumerate(found.values):
            assert np.array_equal(found.array[:, number], store.select(pooling=pooling).numpy())
    for column, given in (
        ("site", {"site": ("attn_out", "mlp_out")}),
        ("model", {"model": ("a", "b")}),
        ("region", {"pools": (("mean", "prompt"), ("mean", "response"))}),
    ):
        places.write(tmp_path / column, places.places(**given))
        with actstore.open(tmp_path / column) as store:
            found = store.select().stack(column)
            for number, value in enumerate(found.values):
                expected = store.select(**{column: value}).numpy()
                assert np.array_equal(found.array[:, number], expected)
    write(tmp_path / "tokens", np.random.default_rng(0), [4], "float32")
    with actstore.open(tmp_path / "tokens") as store:
        for column in ("position", "mode", "variant"):
            rows = store.select()
            found = rows.stack(column)
            assert found.array.tobytes() == naive(rows, column)[2].tobytes()
            assert column not in found.table.column_names
            # The tokens of an example are others at each position, and so no column of it.
            assert ("token_id" in found.table.column_names) == (len(found.values) == 1)


def test_listed_columns_make_examples_of_their_own(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(site=("attn_out", "mlp_out"), layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError) as caught:
            store.select().stack("layer")
        assert set(caught.value.differing) == {"site"}
        found = store.select(site=["attn_out", "mlp_out"]).stack("layer")
        assert found.array.shape == (12, 2, 4)
        assert found.table["site"].to_pylist() == ["attn_out"] * 6 + ["mlp_out"] * 6
        mixed = store.select().stack("layer", mixed=True)
        assert np.array_equal(mixed.array, found.array)
        part = store.select().by("site")["mlp_out"].stack("layer")
        assert np.array_equal(part.array, found.array[6:])


def test_the_embeddings_are_the_stream_s_first_layer(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(0, 1)))
    places.write(tmp_path, places.places(layer=(-1,), site=("embeddings",)))
    with actstore.open(tmp_path) as store:
        found = store.select().stack("layer")
        assert found.values == (-1, 0, 1)
        for number, layer in enumerate(found.values):
            assert np.array_equal(found.array[:, number], store.select(layer=layer).numpy())
        assert "site" not in found.table.column_names
    places.write(tmp_path, places.places(layer=(0,), site=("mlp_out",)))
    with actstore.open(tmp_path) as store, pytest.raises(MixedVectorsError):
        store.select().stack("layer")


def test_missing_cells_are_named(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7, 9)))
    with actstore.open(tmp_path) as store:
        rows = store.select("NOT (layer = 7 AND example_id IN ('e1', 'e4'))")
        with pytest.raises(StackError) as caught:
            rows.stack("layer")
        assert (
            "2 examples of 6 lack a vector of some layer (example_id=e1: 7; example_id=e4: 7)"
            in str(caught.value)
        )
        most = store.select("layer = 3 OR example_id = 'e0'")
        with pytest.raises(StackError, match=r"5 examples .*e1: 7, 9; example_id=e2.*e3: 7, 9; …"):
            most.stack("layer")
        # What was listed is missed even where no row has it.
        with pytest.raises(StackError, match=r"6 examples of 6 lack .*e0: 7"):
            store.select(layer=[3, 7])[:6].stack("layer")
        assert store.select(layer=[3, 7]).by("layer")[3].stack("layer").values == (3,)


def test_several_rows_of_one_cell_are_named(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        twice = store.select().take([*range(12), 7])
        with pytest.raises(StackError, match=r"1 example of 6 has several.*example_id=e1: 7\)"):
            twice.stack("layer")


def test_nothing_is_a_stack_of_nothing(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        for rows, values in ((store.select("false"), 0), (store.select("false", layer=[3, 7]), 2)):
            found = rows.stack("layer")
            assert found.array.shape == (0, values, 4)
            assert found.table.num_rows == 0
            assert found.tensor().shape == (0, values, 4)


def test_what_cannot_be_stacked_is_refused(tmp_path: Path) -> None:
    places.write(tmp_path / "s", places.places(layer=(3, 7)))
    places.write(tmp_path / "w", places.places(site=("features", "resid_post")))
    with actstore.open(tmp_path / "s") as store:
        with pytest.raises(UsageError, match=r"along one of layer, site.*by\('label'\)"):
            store.select().stack("label")
        with pytest.raises(NotInStoreError, match="did you mean layer"):
            store.select().stack("layers")
        chosen = store.select().stack("layer", columns=["label", "example_id"])
        assert chosen.table.column_names == ["label", "example_id"]
        with pytest.raises(UsageError, match="norm has several values for one example"):
            store.select().stack("layer", columns=["label", "norm"])
    with actstore.open(tmp_path / "w") as store, pytest.raises(MixedVectorsError, match=r"4.*8"):
        store.select().stack("site")


def test_labels_that_differ_between_layers_are_no_label_of_an_example(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7)))
    from actstore.storage.labels import set_labels
    from actstore.storage.snapshot import open_snapshot

    set_labels(open_snapshot(tmp_path), np.array([2]), ["other"], message="")
    with actstore.open(tmp_path) as store:
        assert "label" not in store.select().stack("layer").table.column_names
