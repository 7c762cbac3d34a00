"""A matrix is never a mixture: what is refused, what was asked for, and what the error says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.analysis import statistics
from actstore.api.selection import Selection
from actstore.api.store import Store
from actstore.errors import MixedVectorsError, UsageError
from actstore.querying import metadata as querying_metadata
from actstore.querying import mixture
from actstore.storage import manifest as manifests
from actstore.storage.snapshot import Snapshot, open_snapshot
from tests.querying import places

Use = Callable[..., Any]


def matrix(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.numpy(**mixed)


def view(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.numpy(copy=None, **mixed)


def filled(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.numpy(out=np.empty(rows.shape, np.float32), **mixed)


def tensor(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.tensor(**mixed)


def widened(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.tensor("float32", **mixed)


def batches(rows: Selection, folder: Path, **mixed: Any) -> None:
    assert sum(len(batch.vectors) for batch in rows.batches(4, shuffle=True, **mixed)) == len(rows)


def dataset(rows: Selection, folder: Path, **mixed: Any) -> None:
    found = rows.torch_dataset(4, **mixed)
    assert sum(len(item["row_id"]) for item in found) == len(rows)


def normalisation(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.normalisation("norm", **mixed)


def npz(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.save(folder / "x.npz", **mixed)


def torch_file(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.save(folder / "x.pt", **mixed)


def safetensors(rows: Selection, folder: Path, **mixed: Any) -> None:
    rows.save(folder / "x.safetensors", **mixed)


def one_group(rows: Selection, folder: Path, **mixed: Any) -> None:
    statistics.describe(rows, by=["label"], **mixed)


USES: list[Use] = [
    *(matrix, view, filled, tensor, widened, batches, dataset, normalisation),
    *(npz, torch_file, safetensors, one_group),
]
SEVERAL: dict[str, Any] = {
    "model": {"model": ("m", "n")},
    "site": {"site": ("mlp_out", "resid_post")},
    "pooling": {"pools": (("last", "prompt"), ("mean", "prompt"))},
    "region": {"pools": (("mean", None), ("mean", "prompt"))},
    "layer": {"layer": (3, 7)},
}


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("column", SEVERAL)
def test_rows_of_several_places_are_refused_everywhere(
    tmp_path: Path, column: str, use: Use
) -> None:
    found = places.places(**SEVERAL[column])
    places.write(tmp_path / "s", found)
    values = tuple(place[column] for place in found)
    with actstore.open(tmp_path / "s") as store:
        for rows in (store.select(), store.select("true"), store.rows_at(range(12))):
            with pytest.raises(MixedVectorsError, match=rf"differ in {column} \(") as caught:
                use(rows, tmp_path)
            assert set(caught.value.differing) == {column}
            assert set(caught.value.differing[column]) == set(values)
            use(rows, tmp_path, mixed=True)
        assert list(tmp_path.glob("x.*")) == [] or use in (npz, torch_file, safetensors)
        for value in values:
            use(store.select(**{column: value}), tmp_path)
            use(store.select(**{column: [value]}), tmp_path)
        use(store.select(**{column: list(values)}), tmp_path)
        use(store.select()[:1], tmp_path)


def test_what_was_measured_180_rows_for_60_examples(tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("mean", "prompt"), ("mean", "response"))
    places.write(tmp_path, places.places(pools=pools, layer=(12,)), examples=60)
    with actstore.open(tmp_path) as store:
        rows = store.select(layer=12)
        assert len(rows) == 180
        with pytest.raises(MixedVectorsError, match=r"^180 rows .*pooling \(last, mean\) and reg"):
            rows.numpy()
        assert store.select(layer=12, pooling="last").numpy().shape == (60, 4)
        with pytest.raises(MixedVectorsError) as caught:
            store.select(layer=12, pooling="mean").numpy()
        assert caught.value.differing == {"region": ("prompt", "response")}
        assert store.select(layer=12, pooling="mean", region="prompt").numpy().shape == (60, 4)


def test_the_error_says_what_differs_and_how_to_narrow(tmp_path: Path) -> None:
    found = places.places(
        site=("mlp_out", "resid_post"), pools=(("mean", None), ("mean", "prompt")), layer=range(9)
    )
    places.write(tmp_path, found, examples=2)
    with actstore.open(tmp_path) as store, pytest.raises(MixedVectorsError) as caught:
        store.select().numpy()
    assert str(caught.value) == (
        "72 rows of several places would make one matrix: they differ in site (mlp_out, "
        "resid_post) and region (prompt, null) and layer (0, 1, 2, 3, 4, 5, … 9 in all). Choose "
        'one: select(site="mlp_out", region="prompt", layer=0), or --sites mlp_out --region prompt '
        "--layers 0 on the command line; or list the values that belong together, as in "
        "site=[\"mlp_out\", \"resid_post\"]; .by('site') or .stack('site') keep them apart; "
        "mixed=True (--mixed) takes them as they are"
    )
    assert caught.value.differing["region"] == ("prompt", None)


def test_the_advice_names_a_place_that_the_rows_have(tmp_path: Path) -> None:
    found = [
        *places.places(site=("attn_out",), pools=(("mean", None),), layer=(5,)),
        *places.places(site=("embeddings",), pools=(("last", None),), layer=(-1,)),
        *places.places(site=("resid_post",), pools=(("last", "prompt"),), layer=(3,)),
    ]
    places.write(tmp_path, found)
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError) as caught:
            store.select().numpy()
        advice = 'select(site="resid_post", pooling="last", region="prompt", layer=3), or --site'
        assert advice in str(caught.value)
        with pytest.raises(MixedVectorsError) as caught:
            store.select(site=["attn_out", "resid_post"])[:7].numpy()
        assert "--pool last --region prompt --layers 3 on" in str(caught.value)


def test_other_widths_are_told_and_mixed_is_not_offered(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(site=("features", "resid_post")))
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError, match="widths 4, 8, so no matrix holds") as caught:
            store.select().numpy()
        assert "mixed=True" not in str(caught.value)
        for rows in (store.select(site=["features", "resid_post"]), store.select()):
            with pytest.raises(MixedVectorsError, match="different widths: 4"):
                rows.numpy(mixed=True)
        statistics.describe(store.select(), (), mixed=True)


def test_only_listed_columns_may_differ(tmp_path: Path) -> None:
    found = places.places(site=("mlp_out", "resid_post"), layer=(3, 7))
    places.write(tmp_path, found)
    with actstore.open(tmp_path) as store:
        for listed in (["mlp_out", "resid_post"], ("mlp_out", "resid_post"), {"mlp_out"} | {
            "resid_post"
        }):  # fmt: skip
            with pytest.raises(MixedVectorsError) as caught:
                store.select(site=listed).numpy()
            assert set(caught.value.differing) == {"layer"}
        both = store.select(site=["mlp_out", "resid_post"], layer=[3, 7])
        assert both.numpy().shape == (24, 4)
        assert store.select(site=iter(["mlp_out", "resid_post"]), layer=3).numpy().shape == (12, 4)
        assert store.select(site="mlp_out", layer=np.array([3, 7])).numpy().shape == (12, 4)
        # A condition in SQL says which rows, not that they belong together.
        with pytest.raises(MixedVectorsError):
            store.select("layer IN (3, 7)", site="mlp_out").numpy()
        assert store.select("layer = 3", site="mlp_out").numpy().shape == (6, 4)
        with pytest.raises(MixedVectorsError) as caught:
            store.select(layer=[3]).numpy()
        assert set(caught.value.differing) == {"site"}


def test_what_was_listed_stays_so_in_every_part(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7), site=("mlp_out", "resid_post")))
    with actstore.open(tmp_path) as store:
        rows = store.select(layer=[3, 7], site="mlp_out")
        mask = np.arange(12) % 2 == 0
        for part in (rows[2:10], rows[::-1], rows[[0, 11]], rows[mask], rows.at(rows.rows[3:9])):
            assert len(part.numpy()) == len(part)
            assert len(part[::2].numpy()) == len(part[::2])
        for part in rows.by("label").values():
            assert part.numpy().shape == (6, 4)
        # Rows that the listing did not mean are no less a mixture.
        with pytest.raises(MixedVectorsError):
            rows.at(np.arange(24)).numpy()


def test_names_of_other_libraries_list_their_layers_too(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7), site=("mlp_out", "resid_post")))
    with actstore.open(tmp_path) as store:
        rows = store.select(site=["blocks.3.hook_resid_post", "model.layers.7"])
        assert rows.numpy().shape == (12, 4)
        assert rows.listed == {"site": ("resid_post",), "layer": (3, 7)}
        with pytest.raises(MixedVectorsError) as caught:
            store.select(site=["blocks.3.hook_resid_post", "mlp_out"]).numpy()
        assert set(caught.value.differing) == {"layer"}


def test_embeddings_beside_other_layers(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(0, 1)))
    places.write(tmp_path, places.places(layer=(-1,), site=("embeddings",)))
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError) as caught:
            store.select().numpy()
        assert caught.value.differing == {
            "site": ("embeddings", "resid_post"),
            "layer": (-1, 0, 1),
        }
        with pytest.raises(MixedVectorsError) as caught:
            store.select(layer=[-1, 0]).numpy()
        assert set(caught.value.differing) == {"site"}
        rows = store.select(layer=[-1, 0], site=["embeddings", "resid_post"])
        assert rows.numpy().shape == (12, 4)


def test_empty_selections_and_single_rows_mix_nothing(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        nothing = store.select("false")
        assert nothing.numpy().shape == (0, 4)
        assert nothing.tensor().shape == (0, 4)
        assert list(nothing.batches(3)) == []
        assert store.select()[[7]].numpy().shape == (1, 4)
        assert store.select()[[7, 7]].numpy().shape == (2, 4)


def test_a_parquet_file_is_a_table_and_takes_any_rows(tmp_path: Path) -> None:
    places.write(tmp_path / "s", places.places(layer=(3, 7), site=("mlp_out", "resid_post")))
    with actstore.open(tmp_path / "s") as store:
        rows = store.select()
        rows.save(tmp_path / "x.parquet")
        with pytest.raises(MixedVectorsError):
            rows.save(tmp_path / "x.npz")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "x.parquet"]
        assert rows.table().num_rows == len(rows)
        assert f"{len(rows)} rows x 4" in repr(rows)
        assert "<table>" in rows._repr_html_()


def test_neighbours_are_looked_for_in_one_place(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(site=("features", "resid_post")))
    places.write(tmp_path, places.places(layer=(7,)))
    with actstore.open(tmp_path) as store:
        with pytest.raises(MixedVectorsError, match=r"layer \(3, 7\)") as caught:
            store.nearest(np.ones(4), 3)
        assert "stack" not in str(caught.value)
        assert set(caught.value.differing) == {"layer"}
        assert len(store.nearest(np.ones(4), 20, mixed=True)) == 12
        assert len(store.nearest(np.ones(4), 20, layer=[3, 7])) == 12
        assert len(store.nearest(np.ones(4), 20, "layer = 7")) == 6
        # The rows of another width take no part, and so mix nothing.
        assert len(store.nearest(np.ones(8), 20)) == 6
        (row,) = store.select(example_id="e1", layer=7).rows.tolist()
        with pytest.raises(MixedVectorsError):
            store.nearest(row, 3)
        assert len(store.nearest(row, 20, layer=3)) == 6


def test_groups_of_statistics_are_never_a_mixture(tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("mean", "prompt"), ("mean", "response"))
    places.write(tmp_path, places.places(pools=pools, layer=(3, 7)))
    with actstore.open(tmp_path) as store:
        found = statistics.describe(store.select())
        assert [(one.group["pooling"], one.group["region"], one.group["layer"], one.rows) for one
                in found] == [(*pool, layer, 6) for pool in pools for layer in (3, 7)]  # fmt: skip
        for one in found:
            values = store.select(**one.group).numpy()
            assert one.mean == pytest.approx(values.mean(), abs=1e-6)
        with pytest.raises(MixedVectorsError, match=r"\(--by layer,pooling,region\)") as caught:
            statistics.describe(store.select(), by=["layer"])
        assert set(caught.value.differing) == {"pooling", "region"}
        listed = store.select(pooling=["last", "mean"], region=["prompt", "response"])
        assert [one.rows for one in statistics.describe(listed, by=["layer"])] == [18, 18]
        mixed = statistics.describe(store.select(), by=["layer"], mixed=True)
        assert [one.rows for one in mixed] == [18, 18]
        # What the rows are grouped by may settle the place by itself.
        one_each = store.select("(layer = 3) = (label = 'yes')", pooling="last")
        assert [one.rows for one in statistics.describe(one_each, by=["label"])] == [3, 3]


def test_many_stores_at_random_agree_with_looking_at_every_row(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    columns = ("model", "site", "pooling", "region", "layer")
    for number in range(12):
        everything = places.places(
            model=("m", "n")[: random.integers(1, 3)],
            site=("attn_out", "resid_post")[: random.integers(1, 3)],
            pools=(("last", "prompt"), ("mean", "prompt"), ("mean", None))[: random.integers(1, 4)],
            layer=(None, 0, 5)[: random.integers(1, 4)],
        )
        kept = [place for place in everything if random.random() < 0.7] or everything
        root = tmp_path / f"s{number}"
        for part in np.array_split(np.arange(len(kept)), 2):
            if len(part):
                places.write(root, [kept[at] for at in part], examples=3)
        with actstore.open(root) as store:
            for _ in range(25):
                rows = random.integers(0, store.rows, random.integers(0, 6))
                selection = store.rows_at(rows)
                table = selection.table(list(columns))
                expected = {
                    name: set(table[name].to_pylist())
                    for name in columns
                    if len(set(table[name].to_pylist())) > 1
                }
                found = mixture.differing(selection)
                assert {name: set(values) for name, values in found.items()} == expected
            everywhere = mixture.differing(store.select())
            table = store.select().table(list(columns))
            for name in columns:
                several = set(table[name].to_pylist())
                assert set(everywhere.get(name, several)) == several
                assert (name in everywhere) == (len(several) > 1)


def test_asking_costs_no_reading_where_the_manifest_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.write(tmp_path, places.places(layer=(3, 7)))
    for entry in open_snapshot(tmp_path).shards:
        assert entry.pools == (("last", "prompt"),)

    def read(self: Snapshot) -> Path:
        raise AssertionError("metadata was asked for")

    monkeypatch.setattr(Snapshot, "metadata_file", read)
    with actstore.open(tmp_path) as store:
        assert store.select(layer=3).numpy().shape == (6, 4)
        with pytest.raises(MixedVectorsError):
            store.select().numpy()
        looked = []
        look = mixture.differing

        def counted(selection: Selection, columns: Sequence[str]) -> dict[str, Any]:
            looked.append(selection)
            return look(selection, columns)

        monkeypatch.setattr(mixture, "differing", counted)
        assert len(list(store.select(layer=3).batches(1, columns=["row_id"]))) == 6
        assert len(looked) == 1


def test_manifests_that_do_not_tell_are_made_up_for(tmp_path: Path) -> None:
    places.write(tmp_path, places.places(pools=(("last", "prompt"), ("mean", "prompt"))))
    before = open_snapshot(tmp_path)
    silent = dataclasses.replace(
        before.manifest,
        shards=tuple(dataclasses.replace(entry, pools=None) for entry in before.shards),
        sealed=False,
    )
    text = silent.encode().decode().replace(', "pools": null', "")
    assert "pools" not in text
    assert manifests.decode(text.encode(), "x") == silent
    with Store(Snapshot(before.files, silent)) as store:
        with pytest.raises(MixedVectorsError, match=r"pooling \(last, mean\)"):
            store.select(layer=3).numpy()
        assert store.select(pooling="last").numpy().shape == (6, 4)
        assert [part.pooling for part in store.info().partitions] == ["last", "mean"]


def test_large_stores_are_read_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.write(tmp_path, places.places(pools=(("last", "prompt"), ("mean", None))))
    monkeypatch.setattr(querying_metadata, "_CODED_ROWS", 0)
    monkeypatch.setattr(querying_metadata, "_AT_ONCE", 5)
    with actstore.open(tmp_path) as store:
        assert mixture.differing(store.select()[1:]) == {
            "pooling": ("last", "mean"),
            "region": ("prompt", None),
        }
        assert mixture.differing(store.select(pooling="mean")) == {}


def test_by_gives_a_selection_for_each_value(tmp_path: Path) -> None:
    found = places.places(site=("mlp_out", "resid_post"), layer=(7, 3, None))
    places.write(tmp_path, found)
    with actstore.open(tmp_path) as store:
        rows = store.select(site="mlp_out")[::-1]
        parts = rows.by("layer")
        assert list(parts) == [3, 7, None]
        for layer, part in parts.items():
            assert np.array_equal(
                part.numpy(), store.select(site="mlp_out", layer=layer).numpy()[::-1]
            )
        both = store.select().by("label", "layer")
        assert list(both) == list(itertools.product(["no", "yes"], [3, 7, None]))
        assert [len(part) for part in both.values()] == [6] * 6
        assert set(both["no", 7].table(["label"])["label"].to_pylist()) == {"no"}
        assert list(store.select().by("row_id"))[:3] == [0, 1, 2]
        assert list(store.select("false").by("layer")) == []
        with pytest.raises(actstore.ActstoreError, match="did you mean layer"):
            rows.by("layers")
        for wrong in ((), (["layer", "site"],)):
            with pytest.raises(UsageError, match=r"by\('layer', 'site'\)"):
                rows.by(*wrong)
