"""A pushed store in the hands of `datasets`, pandas, Polars and DuckDB, without actstore.

Each runs in a child process, since `datasets` reads its environment once, on import.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.storage import compaction
from tests.hub.pushing import ID, push_to, relabel, remote_manifest
from tests.hub_server import Hub, hub_env, run_python
from tests.storage.stores import batch, write

MODEL = "llava-hf/llava-1.5-7b-hf"
LAYERS, ROWS, WIDTH = 4, 30, 16


class Pushed:
    """A repository of four layers of one model and a wider float32 site of another."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub = hub
        self.home = home
        self.first = hub.head(ID).oid

    def run(self, code: str) -> str:
        """What Python code prints that has seen nothing but the Hub."""
        prelude = f"""
            import numpy as np
            from datasets import load_dataset
            ID, WIDTH, ROWS, LAYERS = {ID!r}, {WIDTH}, {ROWS}, {LAYERS}
        """
        # Left at once: threads of Polars, DuckDB and Arrow that are still reading would abort
        # the interpreter's own way out now and then.
        leave = "\nimport os, sys; sys.stdout.flush(); os._exit(0)\n"
        env = hub_env(self.hub, self.home)
        return run_python(dedent(prelude) + dedent(code) + leave, env).stdout


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch, Hub(folder / "hub") as hub:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setenv("ACTSTORE_CACHE", str(folder / "ranges"))
        store = folder / "runs.store"
        common: dict[str, Any] = {
            "model": MODEL,
            "width": WIDTH,
            "task": "amber",
            "label": "faithful",
        }
        write(store, *[batch(0, ROWS - 10, layer=layer, **common) for layer in range(LAYERS)])
        wide: dict[str, Any] = {
            "model": "other",
            "site": "mlp_out",
            "width": 24,
            "dtype": "float32",
        }
        write(store, batch(0, 7, layer=2, **wide))
        push_to(hub, store)
        write(store, *[batch(ROWS - 10, 10, layer=layer, **common) for layer in range(LAYERS)])
        relabel(store, [7, 8, 9], "unfaithful")
        push_to(hub, store)
        done = Pushed(hub, folder / "home")
        done.first = hub.repository(ID).commit_at(hub.head(ID).oid).parent or ""
        yield done


def test_map_style_and_every_config(pushed: Pushed) -> None:
    manifest = remote_manifest(pushed.hub)
    out = pushed.run("""
        whole = load_dataset(ID, split="train")
        assert len(whole) == LAYERS * ROWS, len(whole)
        kind = whole.features["activation"]
        assert (kind.length, kind.feature.dtype) == (WIDTH, "float16"), kind
        assert set(whole["layer"]) == set(range(LAYERS))
        layer = load_dataset(ID, "llava-hf--llava-1.5-7b-hf.resid_post.layer_002", split="train")
        assert set(layer["layer"]) == {2} and len(layer) == ROWS
        other = load_dataset(ID, "other", split="train")
        assert other.features["activation"].length == 24 and len(other) == 7
        metadata = load_dataset(ID, "metadata", split="train")
        assert "activation" not in metadata.column_names
        assert len(metadata) == LAYERS * ROWS + 7
        labels = metadata["label"]
        print(labels.count("unfaithful"), labels.count("faithful"), labels.count(None))
        rows = whole.with_format("numpy", dtype=np.float16)
        print(rows[:]["activation"].tobytes().hex())
    """)
    counts, data = out.split("\n")[:2]
    assert counts == "3 117 7"
    vectors = np.frombuffer(bytes.fromhex(data), np.float16).reshape(-1, WIDTH)
    path = {entry.path for entry in manifest.shards}
    assert len(path) == len(manifest.shards)
    expected = [batch(n, 1, width=WIDTH).vectors for n in range(ROWS)]
    for layer in range(LAYERS):
        assert {row.tobytes() for row in vectors} == {one.tobytes() for one in expected}, layer


def test_streaming_torch_filter_map_and_columns(pushed: Pushed) -> None:
    pushed.run("""
        import torch
        stream = load_dataset(ID, split="train", streaming=True)
        assert len(list(stream)) == LAYERS * ROWS
        first = next(iter(stream.with_format("torch")))
        assert first["activation"].shape == (WIDTH,) and 0 <= first["layer"] < LAYERS
        assert len(list(stream.filter(lambda row: row["label"] == "unfaithful"))) == 3
        narrow = load_dataset(ID, split="train", streaming=True, columns=["label", "layer"])
        assert next(iter(narrow)).keys() == {"label", "layer"}

        whole = load_dataset(ID, split="train")
        rows = whole.with_format("torch")
        assert set(rows[0]) == set(whole.column_names)
        for row in rows:
            assert row["activation"].dtype == torch.float32
        part = rows[:8]["activation"]
        assert part.shape == (8, WIDTH)
        batches = torch.utils.data.DataLoader(
            whole.with_format("torch", columns=["activation", "layer"]), batch_size=16
        )
        assert sum(len(part["activation"]) for part in batches) == LAYERS * ROWS
        bad = whole.filter(lambda row: row["label"] == "unfaithful")
        assert len(bad) == 3
        norms = whole.map(lambda row: {"n2": float(np.linalg.norm(row["activation"]))})
        assert np.allclose(norms["n2"], whole["norm"], rtol=1e-2, equal_nan=True)
        two = load_dataset(ID, split="train", columns=["activation", "label"])
        assert sorted(two.column_names) == ["activation", "label"]
    """)


def test_an_earlier_revision(pushed: Pushed) -> None:
    pushed.run(f"""
        old = load_dataset(ID, split="train", revision={pushed.first!r})
        assert len(old) == LAYERS * (ROWS - 10)
        assert set(old["label"]) == {{"faithful"}}
        new = load_dataset(ID, "metadata", split="train", revision="main", streaming=True)
        assert len(list(new)) == LAYERS * ROWS + 7
    """)


def test_pandas_polars_and_duckdb_on_the_files(pushed: Pushed) -> None:
    manifest = remote_manifest(pushed.hub)
    layer = [entry for entry in manifest.shards if entry.layer == 1]
    urls = [f"{pushed.hub.url}/datasets/{ID}/resolve/main/{entry.path}" for entry in layer]
    pushed.run(f"""
        import duckdb, io, pandas, polars, pyarrow.parquet as pq, urllib.request
        from huggingface_hub import HfFileSystem
        urls, rows = {urls!r}, {sum(entry.rows for entry in layer)}
        assert sum(len(pandas.read_parquet(url)) for url in urls) == rows
        frame = polars.concat([polars.scan_parquet(url) for url in urls])
        assert frame.select(polars.len()).collect().item() == rows
        assert frame.collect_schema()["activation"] == polars.Array(polars.Float16, WIDTH)
        pattern = f"datasets/{{ID}}/activations/**/f16x{{WIDTH}}-*.parquet"
        database = duckdb.connect()
        database.register_filesystem(HfFileSystem())
        found = database.sql(f\"\"\"
            SELECT count(*), sum(array_cosine_similarity(activation::FLOAT[16],
                                                         activation::FLOAT[16]))
            FROM read_parquet('hf://{{pattern}}') WHERE layer = 1 AND norm > 0
        \"\"\").fetchall()
        assert found[0][0] == rows, found
        table = pq.read_table(f"datasets/{{ID}}/{{urls[0].split('/main/')[1]}}",
                              filesystem=HfFileSystem(), columns=["label", "layer"])
        assert set(table["layer"].to_pylist()) == {{1}}
    """)


def test_the_limits_of_the_viewer(pushed: Pushed) -> None:
    """Row groups it can scan, folders it can list, one split, names it takes."""
    out = pushed.run("""
        from datasets import get_dataset_config_names, get_dataset_split_names
        names = get_dataset_config_names(ID)
        assert names[0] == "llava-hf--llava-1.5-7b-hf", names
        assert len(names) == len(set(names)) == 2 + 1 + LAYERS + 1, names
        assert get_dataset_split_names(ID, "metadata") == ["train"]
        print(*names)
    """)
    assert "metadata" in out
    folders: dict[str, int] = {}
    for path in pushed.hub.files(ID):
        folder = path.rpartition("/")[0]
        folders[folder] = folders.get(folder, 0) + 1
    assert max(folders.values()) < 10_000


def test_compacted_and_archived_and_pushed_again(tmp_path: Path) -> None:
    """No dead shard is seen, and compressed vectors are the same vectors."""
    with pytest.MonkeyPatch.context() as patch, Hub(tmp_path / "hub") as hub:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        store = tmp_path / "runs.store"
        for first in range(0, 20, 5):
            write(store, batch(first, 5, width=WIDTH, model=MODEL))
            push_to(hub, store)
        compaction.compact(store)
        push_to(hub, store)
        push_to(hub, store, archive=True, revision="small")
        run = Pushed(hub, tmp_path / "home").run
        run("""
            for streaming in (False, True):
                plain = load_dataset(ID, split="train", streaming=streaming)
                small = load_dataset(ID, split="train", streaming=streaming, revision="small")
                plain, small = list(plain), list(small)
                assert len(plain) == 20 and plain == small
        """)


def test_own_columns_are_typed_and_follow_the_store(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    store = tmp_path / "own.store"
    first: dict[str, Any] = {"width": WIDTH, "label": "a"}
    write(store, batch(0, 4, extra='{"city": "Rome", "level": 3, "meta": {"hard": true}}', **first))
    write(store, batch(4, 2, extra='{"city": "Oslo", "score": 0.5, "tags": [1, 2]}', **first))
    write(store, batch(6, 1, **first))
    push_to(hub, store)
    head = hub.head(ID).oid
    assert push_to(hub, store).commit is None
    assert hub.head(ID).oid == head
    write(store, batch(7, 3, extra='{"city": "Lima", "level": 4}', **first))
    push_to(hub, store)
    done = Pushed(hub, tmp_path / "home")
    out = done.run("""
        own = load_dataset(ID, "own-columns", split="train")
        types = {name: kind.dtype for name, kind in own.features.items()}
        assert types["extra.city"] == "string" and types["extra.level"] == "int64", types
        assert types["extra.meta.hard"] == "bool" and types["extra.score"] == "float64", types
        assert "activation" not in types and types["layer"] == "int32"
        cities = own.with_format("pandas")[:].set_index("example_id")["extra.city"]
        print(len(own), own["extra.level"].count(3), cities["e8"], own[5]["extra.tags"])
        assert load_dataset(ID, split="train").features["extra"].dtype == "string"
    """)
    assert out == "10 4 Lima [1, 2]\n"
    with actstore.open(store) as opened:
        opened.drop("extra IS NOT NULL")
    push_to(hub, store)
    assert "own-columns.parquet" not in hub.files(ID)
    assert b"own-columns" not in hub.read(ID, "README.md")
