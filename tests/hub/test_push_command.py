"""`actstore push` as people and scripts run it, with Xet and without."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from actstore import cli
from actstore.storage import manifest as manifests
from actstore.storage.manifest import Run
from actstore.storage.rows import RowBatch
from actstore.storage.writer import StoreWriter
from tests.hub.pushing import ID, commits, relabel, remote_content
from tests.hub_server import Hub, hub_env
from tests.hub_server.clients import CHECKOUT, run
from tests.storage.stores import content


@pytest.fixture
def store(small: Path) -> Path:
    return small


@pytest.fixture
def here(hub: Hub, lfs: None, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub that this process pushes to, as a user would have it."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return hub


def push(*words: object) -> int:
    return cli.run(["push", *map(str, words)])


def test_what_it_prints(here: Hub, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(store, ID, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "would send  2 shards" in out
    assert "(new)" in out
    assert push(store, ID, "--license", "mit", "--message", "Title") == 0
    out = capsys.readouterr().out
    assert "sent        2 shards" in out
    assert f'load_dataset("{ID}")' in out
    assert here.head(ID).title == "Title"
    assert push(store, ID) == 0
    assert "nothing to push" in capsys.readouterr().out
    relabel(store, [0], "bad")
    assert push(store, ID, "--json", "--revision", "b") == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["revision"], done["folded"], done["sent"]) == ("b", 1, 1)
    assert done["commit"] == here.head(ID, "b").oid


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["acts"], 2, "write ORG/NAME"),
        ([ID, "--config", "nope"], 2, "no config is called 'nope'"),
        ([ID, "--create-pr", "--revision", "b"], 2, "leave out --revision"),
        (["bob/acts"], 1, "does not allow it"),
    ],
)
def test_what_it_refuses(
    here: Hub,
    store: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    assert push(store, *words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert text in printed.err
    assert printed.err.count("\n") == 1


def test_no_store_no_request(here: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(tmp_path / "nothing", ID) == 1
    assert "there is no store" in capsys.readouterr().err
    assert here.log.entries() == []


def test_the_command_itself_loads_no_more_than_it_needs(store: Path) -> None:
    code = "import sys; from actstore.commands import push; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"huggingface_hub", "httpx2", "datasets", "torch", "pyarrow", "duckdb"}


def child(hub: Hub, store: Path, folder: Path, *words: str, xet: bool = False) -> str:
    """Push in a process of its own and return what it printed."""
    extra = {"ACTSTORE_CACHE": str(folder / "ranges"), "PYTHONPATH": str(CHECKOUT)}
    env = hub_env(hub, folder / "home", xet=xet, extra=extra)
    command = [sys.executable, "-m", "actstore", "push", str(store), ID, *words]
    done = run(command, env, cwd=folder)
    assert "Traceback" not in done.stderr
    assert "hf_write" not in done.stdout + done.stderr
    return done.stdout


def large(store: Path, layers: int, rows: int, width: int) -> None:
    bits = np.random.default_rng(0)
    texts = random.Random(0)
    run = Run(run_id="run", kind="ingest", started_at="2026-01-01T00:00:00Z")
    with StoreWriter(store, run=run) as writer:
        for layer in range(layers):
            vectors = bits.standard_normal((rows, width)).astype(np.float16)
            columns = {
                "example_id": [f"e{number}" for number in range(rows)],
                "question": [f"Is it {texts.random()}?" for _ in range(rows)],
                "label": ["faithful" if number % 3 else "unfaithful" for number in range(rows)],
            }
            constants = {"model": "m", "site": "resid_post", "pooling": "last", "layer": layer}
            writer.add(RowBatch(vectors=vectors, constants=constants, columns=columns))
        writer.commit(operation="ingest", message="large")


def test_with_xet_only_changed_bytes_travel(tmp_path: Path) -> None:
    pytest.importorskip("hf_xet")
    store = tmp_path / "runs.store"
    large(store, layers=3, rows=700, width=1024)
    with Hub(tmp_path / "hub", xet="http") as hub:
        child(hub, store, tmp_path, xet=True)
        assert hub.log.entries(method="PUT") == []
        size = sum(entry.bytes for entry in manifests.load(store).shards)
        assert hub.services.xet is not None
        stored = hub.services.xet.stored_bytes
        assert stored > size * 0.9
        assert remote_content(hub, tmp_path / "copy") == content(store)

        relabel(store, list(range(0, 2100, 7)), "graded")
        hub.reset()
        child(hub, store, tmp_path, xet=True)
        assert commits(hub) == 2
        new = hub.services.xet.stored_bytes - stored
        print(f"relabelled 300 of 2,100 rows: {new:,} of {size:,} bytes are new")
        assert 0 < new < size * 0.06
        assert hub.log.bytes_received(origin="cas") < size * 0.07
        assert remote_content(hub, tmp_path / "again") == content(store)
        assert child(hub, store, tmp_path, xet=True).startswith("nothing to push")
        assert hub.crashes == []
