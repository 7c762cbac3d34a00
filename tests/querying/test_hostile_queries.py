"""Query files of others read the store's metadata and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.errors import SqlError, UsageError
from tests.storage.stores import batch, write


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('SECRET')",
        "SELECT * FROM read_csv('SECRET')",
        "SELECT * FROM 'SECRET'",
        "SELECT content FROM read_blob('SECRET')",
        "SELECT * FROM glob('/*')",
        "ATTACH 'SECRET' AS other",
        "COPY (SELECT 1) TO 'OUT'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA database_list; SELECT 1",
        "SELECT getenv('HF_TOKEN')",
        "CREATE TABLE t AS SELECT 1",
        "SELECT 1; SELECT * FROM read_text('SECRET')",
        "WITH t AS (SELECT * FROM read_text('SECRET')) SELECT * FROM t",
        "SELECT (SELECT content FROM read_text('SECRET'))",
    ],
)
def test_a_query_file_reads_and_writes_no_files(
    sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    write(tmp_path / "s", batch(0, 3))
    (tmp_path / "secret.txt").write_text("secret\n")
    text = sql.replace("SECRET", str(tmp_path / "secret.txt")).replace("OUT", str(tmp_path / "out"))
    (tmp_path / "q.sql").write_text(f"-- A query of somebody else.\n{text}\n")
    with actstore.open(tmp_path / "s") as store, pytest.raises((SqlError, UsageError)):
        store.named(tmp_path / "q.sql").fetchall()
    assert not (tmp_path / "out").exists()
