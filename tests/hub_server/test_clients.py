"""The unmodified `hf` command, datasets, Polars and DuckDB work against the loopback Hub."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hub_server import Hub, faults, hub_env, run_hf, run_python
from tests.hub_server.clients import CHECKOUT
from tests.hub_server.short import ID, LARGE

CARD = b"""---
configs:
- config_name: all
  default: true
  data_files: [{split: train, path: "data/*.parquet"}]
- config_name: metadata
  columns: [id]
  data_files: [{split: train, path: "data/*.parquet"}]
---
# Vectors
"""


def shard(start: int, rows: int = 50) -> bytes:
    """Rows with an id and a vector of four halves."""
    ids = list(range(start, start + rows))
    vectors = pa.array([[i / 8] * 4 for i in ids], pa.list_(pa.float16(), 4))
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "activation": vectors}), sink)
    return sink.getvalue()


def test_load_dataset_in_all_forms(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
    files = {"README.md": CARD, "data/0.parquet": shard(0), "data/1.parquet": shard(50)}
    hub.create("org/vectors", files, private=True)
    hub.repository("org/vectors").create_ref("refs/tags/v1", hub.head("org/vectors").oid)
    hub.commit("org/vectors", {"data/2.parquet": shard(100)})
    code = """
        from datasets import Features, List, Value, load_dataset
        from datasets.exceptions import DatasetNotFoundError
        try:
            load_dataset("org/vectors", token=False)
        except DatasetNotFoundError:
            pass
        else:
            raise AssertionError("a stranger loads a private data set")
        whole = load_dataset("org/vectors", split="train")
        assert whole.features == Features(
            id=Value("int64"), activation=List(Value("float16"), length=4))
        assert whole["id"][:] == list(range(150))
        assert load_dataset("org/vectors", "metadata", split="train").column_names == ["id"]
        assert load_dataset("org/vectors", split="train", revision="v1").num_rows == 100
        stream = load_dataset("org/vectors", split="train", streaming=True)
        assert [row["id"] for row in stream] == list(range(150))
        assert tuple(next(stream.with_format("torch").iter(8))["activation"].shape) == (8, 4)

        import duckdb, polars
        from huggingface_hub import HfFileSystem
        fs = HfFileSystem()
        with fs.open("datasets/org/vectors/data/1.parquet") as file:
            assert polars.read_parquet(file).height == 50
        duckdb.register_filesystem(fs)
        path = "hf://datasets/org/vectors/data/*.parquet"
        assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(150,)]
    """
    run_python(dedent(code), env, cwd=tmp_path)
    assert not any(entry.authorized for entry in hub.log.entries(origin="objects"))
    assert any(entry.range for entry in hub.log.entries(origin="objects"))


def test_datasets_over_a_faulty_store(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
    """Streaming survives what a plain load does not."""
    hub.create("alice/streamed", {f"data/{n}.parquet": shard(n * 1000, 1000) for n in range(3)})
    hub.create("alice/loaded", {"data/0.parquet": shard(1, 3000)})
    happening = [
        faults.status(503),
        faults.drop("body", at=100),
        faults.drop("body", kind="rst", at=100),
        faults.status(503),
    ]
    files = [*hub.files("alice/streamed").values(), *hub.files("alice/loaded").values()]
    rules = [
        hub.faults.add(fault, path=file.sha256)
        for fault, file in zip(happening, files, strict=True)
    ]
    code = """
        from datasets import load_dataset
        from huggingface_hub.errors import HfHubHTTPError
        stream = load_dataset("alice/streamed", split="train", streaming=True)
        assert [row["id"] for row in stream] == list(range(3000))
        try:
            load_dataset("alice/loaded", split="train")
        except HfHubHTTPError as error:
            print(error.response.status_code)
        assert load_dataset("alice/loaded", split="train").num_rows == 3000
    """
    assert run_python(dedent(code), env, cwd=tmp_path).stdout == "503\n"
    assert [len(rule.fired) for rule in rules] == [1, 1, 1, 1]


def test_push_to_hub(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
    """datasets' own push, which shards, writes the card and deletes what it replaces."""
    code = """
        from datasets import Dataset, load_dataset
        Dataset.from_dict({"a": list(range(10))}).push_to_hub("alice/pushed", num_shards=2)
        Dataset.from_dict({"a": [1, 2, 3]}).push_to_hub("alice/pushed")
        assert load_dataset("alice/pushed", split="train")["a"][:] == [1, 2, 3]
    """
    run_python(dedent(code), env, cwd=tmp_path)
    assert list(hub.files("alice/pushed")) == ["README.md", "data/train-00000-of-00001.parquet"]


def test_hf_command(hub: Hub, env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "d").mkdir(parents=True)
    (folder / "d/1.npy").write_bytes(LARGE)
    (folder / "README.md").write_text("# X\n")
    dataset = ("--repo-type", "dataset")
    assert "alice" in run_hf(["auth", "whoami"], env).stdout
    run_hf(["upload", ID, str(folder), ".", *dataset, "--private", "--commit-message", "up"], env)
    assert hub.repository(ID).private
    assert hub.head(ID).title == "up"
    run_hf(["repos", "tag", "create", ID, "v1", *dataset], env)
    (folder / "d/1.npy").unlink()
    run_hf(["upload", ID, str(folder), ".", *dataset, "--delete", "*.npy"], env)
    assert list(hub.files(ID)) == ["README.md"]
    local = tmp_path / "local"
    run_hf(["download", ID, *dataset, "--revision", "v1", "--local-dir", str(local)], env)
    assert (local / "d/1.npy").read_bytes() == LARGE
    other = hub_env(hub, tmp_path / "other", token="hf_other")
    done = run_hf(["download", ID, *dataset], other, check=False)
    assert done.returncode != 0
    assert "hf_other" not in done.stdout + done.stderr


def test_by_hand(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.hub_server", "--root", str(tmp_path / "hub")]
    process = subprocess.Popen(
        [*command, "--token", "hf_mine", "--user", "carol"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    exports: dict[str, str] = {}
    with process:
        try:
            for line in process.stdout:
                if line.startswith("#"):
                    break
                name, _, value = line.removeprefix("export ").strip().partition("=")
                exports[name] = value
            request = urllib.request.Request(
                f"{exports['HF_ENDPOINT']}/api/whoami-v2",
                headers={"Authorization": f"Bearer {exports['HF_TOKEN']}"},
            )
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(request) as answer:
                assert json.load(answer)["name"] == "carol"
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
