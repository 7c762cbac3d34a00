"""No token, user name, host or absolute path stands in what actstore writes, or says in errors."""

from __future__ import annotations

import gzip
import io
import socket
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from tests.commands.conftest import Command

TOKEN = "hf_ThisTokenMustNotBeWrittenAnywhere"
USER = "zacharias-recognisable"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of somebody with a name of their own, and a token."""
    folder = tmp_path / "home" / USER
    (folder / "acts").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        np.savez(
            folder / f"acts/e{number:02d}.npz", v=rng.standard_normal((2, 8)).astype(np.float32)
        )
    rows = "".join(f"e{number:02d},{'ab'[number % 2]}\n" for number in range(24))
    (folder / "labels.csv").write_text("example_id,label\n" + rows)
    (folder / "secret").mkdir()
    (folder / "acts/away").symlink_to(folder / "secret")
    for name, value in {
        "HF_TOKEN": TOKEN,
        "HOME": str(folder),
        "USER": USER,
        "LOGNAME": USER,
        "ACTSTORE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return folder


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and those that are packed in it."""
    data = path.read_bytes()
    yield path.name.encode()
    yield data
    if data.startswith(b"PAR1"):
        with pq.ParquetFile(path) as file:
            yield str(file.metadata.metadata).encode()
            table = file.read()
            kept = [name for name in table.column_names if name != "activation"]
            yield str(table.select(kept).to_pydict()).encode()
    elif data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode() + archive.read(name)
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    elif data.startswith(b"\x89PNG"):
        at = 8
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            kind, chunk = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            if kind == b"zTXt":
                yield zlib.decompress(chunk[chunk.index(b"\0") + 2 :])
            at += 12 + size
    elif data.startswith(b"ARROW1"):
        with pa.ipc.open_file(path) as reader:
            yield str(reader.read_all().to_pydict()).encode()


def private(home: Path) -> list[bytes]:
    """What must stand nowhere."""
    words = [TOKEN, USER, str(home), str(home.parents[1])]
    host = socket.gethostname()
    return [word.encode() for word in words] + ([host.encode()] if len(host) > 5 else [])


def test_nothing_private_is_written(actstore: Command, home: Path) -> None:
    store = home / "runs.store"
    commands = [
        ("ingest", home / "acts", "--store", store, "--model", "m", "--site", "resid_post",
         "--layer", "3", "--labels", home / "labels.csv", "--on", "example_id", "--yes"),
        ("label", store, home / "labels.csv", "--on", "example_id"),
        ("compact", store),
        ("probe", store, "--label", "label", "--out", home / "probes"),
        ("report", store, "-o", home / "report.html"),
        ("plot", store, "--kind", "norms", "-o", home / "norms.png"),
        ("plot", store, "--kind", "norms", "-o", home / "norms.svg"),
        ("export", store, home / "npz", "--to", "npz"),
        ("export", store, home / "tables", "--to", "parquet"),
        ("select", store, "-o", home / "rows.parquet"),
    ]  # fmt: skip
    for words in commands:
        finished = actstore(*words)
        assert finished.code == 0, finished.err
    outputs = ("runs.store", "probes", "report.html", "norms.png", "norms.svg", "npz", "tables")
    files = [
        path
        for name in (*outputs, "rows.parquet")
        for path in ([home / name] if (home / name).is_file() else (home / name).rglob("*"))
        if path.is_file()
    ]
    assert len(files) > 12
    for path in files:
        for content in contents(path):
            for word in private(home):
                assert word not in content, (path.relative_to(home), word)


def test_errors_name_paths_as_they_were_given_and_no_token(actstore: Command, home: Path) -> None:
    (home / "acts/bad.npz").write_bytes(b"PK\x03\x04 broken")
    for words in (
        ("ingest", "acts", "--store", "s", "--model", "m", "--recipe", "nothing.toml"),
        ("ingest", "nowhere", "--store", "s", "--model", "m"),
        ("ingest", "acts", "--store", "s", "--model", "m", "--labels", "none.csv", "--on", "layer"),
        ("ingest", "acts", "--store", "s", "--recipe", "numpy"),
        ("info", "nowhere"),
        ("info", "acts"),
        ("export", "nowhere", "out", "--to", "npz"),
        ("query", "nowhere", "SELECT 1"),
    ):
        finished = actstore(*words)
        assert finished.code != 0
        for word in private(home):
            assert word.decode() not in finished.err + finished.out, words
