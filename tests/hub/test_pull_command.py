"""`actstore pull`, and commands that read a store on the Hub, as people and scripts run them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import actstore
from actstore import cli
from tests.hub.publishing import ADDRESS
from tests.hub.pushing import ID, push_to
from tests.hub_server import Hub, hub_env
from tests.hub_server.clients import CHECKOUT
from tests.layouts import amber
from tests.storage.stores import batch, content, write


@pytest.fixture
def here(hub: Hub, lfs: None, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub that this process talks to, as a user would have it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return hub


@pytest.fixture
def store(here: Hub, tmp_path: Path) -> Path:
    root = tmp_path / "origin.store"
    write(root, *(batch(0, 6, layer=layer, label=f"l{layer}") for layer in (0, 1)))
    write(root, batch(0, 2, layer=None, site="mlp_out"))
    push_to(here, root)
    return root


def run(*words: object) -> int:
    return cli.run([str(word) for word in words])


def test_what_it_prints(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", ID, tmp_path / "p") == 0
    out = capsys.readouterr().out
    assert "fetched     3 shards" in out
    assert "14 rows in 3 shards" in out
    assert run("pull", ID, tmp_path / "p") == 0
    assert "commit      1, as before" in capsys.readouterr().out
    assert content(tmp_path / "p") == content(store)
    words = ("--layers", "1,unknown", "--json")
    assert run("pull", ID, tmp_path / "q", *words) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["rows"], done["fetched"], done["repository"]) == (8, 2, ID)
    assert run("pull", ADDRESS, tmp_path / "r", "--where", "label = 'l1'", "--at", 2) == 0


def test_what_cannot_work(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pull", ID, tmp_path / "p", "--layers", "one") == 2
    assert run("pull", "alice/none", tmp_path / "p") == 1
    assert run("pull", ID, tmp_path / "p", "--layers", "7") == 1
    assert run("pull", "acts", tmp_path / "p") == 2
    err = capsys.readouterr().err
    assert "'one' is no layer" in err
    assert "layer 7 is not in the store, which has 0 to 1, null" in err
    assert all(line.startswith(("error:", "Usage")) for line in err.splitlines() if line)
    assert not (tmp_path / "p").exists()


def test_a_data_set_that_is_no_store_is_ingested(
    here: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    table = pa.table(
        {
            "activation": pa.FixedSizeListArray.from_arrays(values.ravel(), 8),
            "answer": list("abcde"),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    here.create("bob/plain", {"data/train.parquet": (tmp_path / "x.parquet").read_bytes()})
    words = ("--model", "gpt2", "--map", "label=answer")
    assert run("pull", "bob/plain", tmp_path / "p", *words) == 0
    assert "stored  5 rows from 1 file" in capsys.readouterr().out
    found = actstore.open(tmp_path / "p").select()
    assert found.numpy().tobytes() == values.tobytes()
    assert found.table()["label"].to_pylist() == list("abcde")
    assert run("pull", "bob/plain", tmp_path / "q", "--layers", 3) == 1
    assert "holds no store" in capsys.readouterr().err


def test_what_only_ingest_can_be_told_is_told_to_it(
    here: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = {layer: np.full((3, 8), layer, np.float32) for layer in (1, 2)}
    here.create("bob/raw", {"hiddens.pkl": pickle.dumps(vectors)})
    store = tmp_path / "p"
    assert run("pull", "bob/raw", store, "--model", "gpt2") == 2
    command = f"actstore ingest hf://datasets/bob/raw --store {store}"
    assert f"these are options of `{command}`" in capsys.readouterr().err
    words = ("--model", "gpt2", "--layer-from", "key1", "--example-from", "axis0")
    assert run(*command.split()[1:], *words) == 0
    assert actstore.open(store).select(layer=2).numpy().tolist() == vectors[2].tolist()


def test_reading_commands_take_an_address(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT layer, count(*) AS n FROM activations GROUP BY 1 ORDER BY 1"
    assert run("query", store, sql, "--format", "csv") == 0
    expected = capsys.readouterr().out
    assert run("query", ADDRESS, sql, "--format", "csv") == 0
    said = capsys.readouterr()
    assert said.out == expected
    assert said.err.startswith("moved ")
    assert run("info", ADDRESS, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 14
    assert run("info", f"{ADDRESS}@main") == 0
    assert run("select", ADDRESS, "--layer", 1, "-o", tmp_path / "x.npz") == 0
    with np.load(tmp_path / "x.npz") as saved:
        assert np.array_equal(saved["activation"], actstore.open(store).select(layer=1).numpy())
    capsys.readouterr()
    words = ("--example", "e1", "--layer", 0, "-k", 2, "--format", "csv")
    assert run("nearest", store, *words) == 0
    expected = capsys.readouterr().out
    assert run("nearest", ADDRESS, *words) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("command", ["label", "compact", "verify", "log", "push"])
def test_other_commands_say_that_they_need_a_store_here(
    here: Hub, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["alice/x"] if command == "push" else []
    assert run(command, ADDRESS, *more) == 2
    assert "actstore pull ORG/NAME FOLDER" in capsys.readouterr().err


def test_a_remote_query_loads_what_a_local_one_does(hub: Hub, store: Path, home: Path) -> None:
    """Neither torch nor datasets is needed for it."""
    code = (
        "import sys\nfrom actstore import cli\n"
        f"assert cli.run(['query', '{ADDRESS}', 'SELECT count(*) FROM activations']) == 0\n"
        "assert not {'torch', 'datasets', 'transformers'} & set(sys.modules)\n"
    )
    env = hub_env(hub, home, extra={"ACTSTORE_CACHE": str(home / "cache")})
    subprocess.run([sys.executable, "-c", code], env=env, cwd=CHECKOUT, check=True)


def test_no_secret_is_shown_or_written(hub: Hub, store: Path, tmp_path: Path, home: Path) -> None:
    cache = tmp_path / "cache"
    env = hub_env(hub, home, token="hf_read", extra={"ACTSTORE_CACHE": str(cache)})
    shown = []
    for words in (
        ["pull", ID, str(tmp_path / "p")],
        ["pull", ID, str(tmp_path / "p"), "--where", "layer = 0"],
        ["info", ADDRESS],
        ["select", ADDRESS, "--layer", "0", "-o", str(tmp_path / "x.npz")],
        ["pull", "alice/none", str(tmp_path / "q")],
    ):
        command = [sys.executable, "-m", "actstore", *words]
        env["HF_DEBUG"] = "1"
        done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, check=False)
        shown.append(done.stdout + done.stderr)
    assert b"moved " in shown[2]
    ours = [tmp_path / name for name in ("p", "cache", "home")]
    written = [path for folder in ours for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 5
    for data in (*shown, *(path.read_bytes() for path in written)):
        assert b"hf_read" not in data
        assert b"X-Amz-Signature" not in data


def test_what_was_pushed_by_xet_is_pulled_and_read(tmp_path: Path) -> None:
    """Whole files and byte ranges come over plain HTTP, whatever the uploader used."""
    pytest.importorskip("hf_xet")
    root = tmp_path / "origin.store"
    write(root, *(batch(0, 40, layer=layer, width=64, label="x") for layer in (0, 1)))
    with Hub(tmp_path / "hub", xet="http") as hub:
        extra = {"ACTSTORE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(CHECKOUT)}
        env = hub_env(hub, tmp_path / "home", xet=True, extra=extra)

        def child(*words: str) -> None:
            command = [sys.executable, "-m", "actstore", *words]
            subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True)

        child("push", str(root), ID)
        assert hub.log.entries(method="PUT") == []
        child("select", ADDRESS, "--layer", "1", "-o", "x.npz")
        child("pull", ID, "p")
        assert hub.crashes == []
    assert content(tmp_path / "p") == content(root)
    with np.load(tmp_path / "x.npz") as saved:
        assert np.array_equal(saved["activation"], actstore.open(root).select(layer=1).numpy())


def test_the_amber_store_opened_from_afar_and_pulled_by_layer(here: Hub, tmp_path: Path) -> None:
    """31 layers: what is asked of some moves nothing of the others."""
    amber.write_samples(tmp_path / "source", samples=24, layers=31, width=256)
    root = tmp_path / "amber.store"
    actstore.ingest(tmp_path / "source", root, model=amber.MODEL)
    push_to(here, root)
    local, far = actstore.open(root), actstore.open(ADDRESS)
    for layer in (0, 12, 30):
        assert np.array_equal(far.select(layer=layer).numpy(), local.select(layer=layer).numpy())
    found = far.traffic
    assert found is not None
    assert found.received == 3 * 24 * 256 * 2
    assert far.select().table().drop(["run_id"]).equals(local.select().table().drop(["run_id"]))
    assert run("pull", ID, tmp_path / "p", "--layers", "12,18") == 0
    part = actstore.open(tmp_path / "p")
    assert part.layers == [12, 18]
    assert np.array_equal(part.select(layer=18).numpy(), local.select(layer=18).numpy())
    assert run("pull", ID, tmp_path / "p") == 0
    assert content(tmp_path / "p") == content(root)
