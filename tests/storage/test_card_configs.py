"""Configs of `load_dataset`: every row in its place, patterns that match live shards only."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore import schema
from actstore.storage import card
from actstore.storage import manifest as manifests
from actstore.storage.card_configs import as_yaml, configs
from actstore.storage.compaction import compact, prune
from actstore.storage.dropping import drop_rows
from actstore.storage.labels import set_labels
from actstore.storage.manifest import EMPTY, Manifest
from actstore.storage.snapshot import open_snapshot
from tests.storage.stores import batch, card_files, live_files, write
from tests.storage.test_manifest import entry
from tests.storage.undoing import rows_of


def commit(*shards: manifests.ShardEntry) -> Manifest:
    return EMPTY.next(operation="", message="", shards=shards)


def names(manifest: Manifest) -> list[str]:
    return [config.name for config in configs(manifest)]


def test_models_first_then_metadata_then_layers() -> None:
    manifest = commit(
        entry("b", model="org/late"),
        entry("a", model="z"),
        entry("a", model="z", layer=None, site="x"),
        entry("c", model="z", layer=-1),
    )
    assert names(manifest) == [
        "z",
        "org--late",
        "metadata",
        "org--late.s.layer_003",
        "z.s.layer_embed",
        "z.s.layer_003",
        "z.x.layer_unknown",
    ]
    first, *others = yaml.safe_load("\n".join(as_yaml(configs(manifest), [])))["configs"]
    assert first["default"] is True
    assert not any("default" in other for other in others)
    assert others[1]["columns"] == list(schema.metadata_names())


def test_a_model_called_default_is_no_second_default() -> None:
    """`datasets` refuses a folder with a config of that name and another that is the default."""
    assert names(commit(entry("a", model="default"), entry("b", model="m")))[:2] == ["default", "m"]
    later = commit(entry("a", model="m"), entry("b", model="default"))
    assert names(later)[:2] == ["m", "default_2"]


def test_types_and_widths_are_never_in_one_config() -> None:
    """`datasets` takes the first file's type and casts the others down without a word."""
    manifest = commit(
        entry("b", dtype="float32"),
        entry("a"),
        entry("c", site="other", width=5),
        entry("d", layer=4, dtype="float32"),
    )
    for config in configs(manifest):
        if config.columns is None:
            assert len({(shard.dtype, shard.width) for shard in config.entries}) == 1
    assert names(manifest) == [
        "m",
        "m.f32x8",
        "m.f16x5",
        "metadata",
        "m.other.layer_003",
        "m.s.layer_003",
        "m.s.layer_003.f32x8",
        "m.s.layer_004",
    ]


@pytest.mark.parametrize(
    "models", [("metadata",), ("m", "m.s.layer_003"), ("a/b", "a--b"), ("m", "m.f32x8")]
)
def test_names_differ_and_every_shard_is_in_a_model_and_in_a_layer(models: tuple[str, ...]) -> None:
    shards = [
        entry(f"{at}{dtype}", model=model, dtype=dtype, path=f"activations/{at}/x-{at}{dtype}-0.p")
        for at, model in enumerate(models)
        for dtype in ("float16", "float32")
    ]
    found = configs(commit(*shards))
    assert len({config.name for config in found}) == len(found)
    for whole in (True, False):
        chosen = [c for c in found if c.whole_model == whole and c.columns is None]
        paths = [shard.path for config in chosen for shard in config.entries]
        assert sorted(paths) == sorted(shard.path for shard in shards)


def test_a_shard_of_a_foreign_name_is_no_obstacle() -> None:
    manifest = commit(entry(path="activations/plain.parquet"), entry("a"))
    assert '    - "activations/plain.parquet"' in as_yaml(configs(manifest), [])


@settings(deadline=None, max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["m", "a/b", "a--b", "metadata"]),
            st.sampled_from([None, -1, 0, 1, 12]),
            st.sampled_from(["resid_post", "mlp_out"]),
            st.sampled_from(["float16", "float32"]),
            st.sampled_from(["same commit", "next commit", "compact", "prune"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_patterns_match_each_live_shard_once_whatever_lies_around(
    steps: list[tuple[str, int | None, str, str, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        root = Path(folder) / "s"
        waiting = []
        for serial, (model, layer, site, dtype, action) in enumerate(steps):
            waiting.append(
                batch(10 * serial, 2, model=model, layer=layer, site=site, dtype=dtype, width=4)
            )
            if action != "same commit" or serial == len(steps) - 1:
                write(root, *waiting)
                waiting.clear()
            if action in ("compact", "prune"):
                compact(root)
            if action == "prune":
                prune(root)
            if not waiting:
                assert_matches(root)


def assert_matches(root: Path) -> None:
    found = card_files(root)
    wanted = {c.name: c for c in configs(manifests.latest(root))}
    assert found.keys() == wanted.keys()
    for name, config in wanted.items():
        assert found[name] == sorted(shard.path for shard in config.entries)
    assert found["metadata"] == live_files(root)


def test_a_commit_over_many_layers_needs_one_pattern(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, *(batch(0, 1, layer=layer) for layer in range(40)))
    text = card.read(root)
    assert text.count("/**/") == 2  # the model and the metadata
    assert len(card_files(root)["org--model"]) == 40
    assert len(text) < 20_000


def test_compaction_renames_no_config(tmp_path: Path) -> None:
    """What `load_dataset` gives without a name, least of all."""
    root = tmp_path / "s"
    write(root, batch(0, 3, model="z"))
    write(root, batch(3, 2, model="z", dtype="float32"), batch(0, 2, model="a"))
    write(root, batch(5, 3, model="z", layer=0, dtype="float32"))
    write(root, batch(8, 3, model="z"))
    write(root, batch(11, 3, model="z"))

    def rows() -> dict[str, int]:
        found = configs(manifests.latest(root))
        return {config.name: sum(shard.rows for shard in config.entries) for config in found}

    before = rows()
    assert list(before)[:3] == ["z", "z.f32x8", "a"]
    assert compact(root).commit == 6
    assert list(rows().items()) == list(before.items())
    write(root, batch(5, 3, model="a", dtype="float32"))
    prune(root)
    compact(root)
    assert before.items() <= rows().items() | {("metadata", before["metadata"])}
    assert [shard.since for shard in manifests.latest(root).shards] == [2, 7, 3, 1, 2, 4]


def test_rows_written_anew_rename_no_config(tmp_path: Path) -> None:
    """Two models and two widths of one commit: the first of each keeps its name."""
    write(
        tmp_path,
        *(batch(0, 4, layer=layer, model="z/first", site="b") for layer in range(2)),
        batch(0, 4, layer=0, model="z/first", site="a", width=5),
        batch(0, 4, layer=0, model="a/second"),
    )

    def names() -> dict[str, set[tuple[str, int, int | None]]]:
        found = configs(manifests.load(tmp_path))
        kinds = {c.name: {(e.model, e.width, e.layer) for e in c.entries} for c in found}
        assert next(iter(kinds)) == "z--first"  # what `load_dataset` reads where none is named
        return kinds

    before = names()
    assert before["z--first"] == {("z/first", 8, 0), ("z/first", 8, 1)}
    drop_rows(open_snapshot(tmp_path), rows_of(tmp_path, model="z/first", example_id="e1"))
    assert names() == before
    drop_rows(open_snapshot(tmp_path), rows_of(tmp_path, example_id="e2"))
    assert names() == before
    rows = rows_of(tmp_path, model="z/first", layer=0, example_id="e3")
    set_labels(open_snapshot(tmp_path), rows, ["new"] * len(rows), message="")
    compact(tmp_path)
    assert names() == before


def test_load_dataset_reads_each_config(tmp_path: Path) -> None:
    """With what a store collects in time: several commits, dead shards, types, models."""
    import datasets

    root = tmp_path / "s"
    batches = [
        batch(0, 3, layer=0),
        batch(3, 2, layer=0),
        batch(0, 3, layer=None),
        batch(5, 2, layer=0, dtype="float32"),
        batch(0, 4, layer=0, model="metadata", width=5),
    ]
    for one in batches:
        write(root, one)
    compact(root)
    write(root, batch(7, 1, layer=0))
    sizes = {
        "org--model": 9,
        "org--model.f32x8": 2,
        "metadata_2": 4,
        "metadata": 15,
        "org--model.resid_post.layer_000": 6,
        "org--model.resid_post.layer_000.f32x8": 2,
        "org--model.resid_post.layer_unknown": 3,
        "metadata.resid_post.layer_000": 4,
    }
    assert set(datasets.get_dataset_config_names(str(root))) == sizes.keys()
    for name, rows in sizes.items():
        data = datasets.load_dataset(
            str(root), name, split="train", cache_dir=str(tmp_path / "cache")
        )
        assert len(data) == rows
        assert ("activation" in data.column_names) == (name != "metadata")
    data = datasets.load_dataset(str(root), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 9
    assert data.features["activation"] == datasets.List(datasets.Value("float16"), length=8)
    found = dict(zip(data["example_id"], data["activation"], strict=True))
    assert found["e7"] == batch(7, 1).vectors[0].tolist()
    assert len(live_files(root)) == len(open_snapshot(root).shards) == 5
