"""Files of questions in every format, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.capturing.prompts.records import open_records
from actstore.errors import ExampleError, PathError
from tests.hub_server import Hub, hub_env, run_python

ROWS = [{"id": "a", "question": "Größe?"}, {"id": "b", "question": 'He said "x,\ny"'}]


def write(folder: Path, name: str) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps({"version": 1, "rows": ROWS}), encoding="utf-8-sig")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = '"He said ""x,\ny"""'
        path.write_text(f"id{mark}question\r\na{mark}Größe?\r\nb{mark}{quoted}\r\n", "utf-8")
    return path


def read(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    return list(open_records(path).read())


@pytest.mark.parametrize(
    ("name", "first", "count"),
    [
        ("q.jsonl", "q.jsonl:1", 2),
        ("q.json", "q.json[0]", None),
        ("q.csv", "q.csv:2", None),
        ("q.tsv", "q.tsv:2", None),
        ("q.parquet", "q.parquet[0]", 2),
    ],
)
def test_every_format_gives_the_same_records(
    tmp_path: Path, name: str, first: str, count: int | None
) -> None:
    path = write(tmp_path, name)
    records = open_records(path)
    found = list(records.read())
    assert [dict(record) for _, record in found] == ROWS
    assert list(records.read()) == found
    assert found[0][0] == first
    assert (records.count, records.name, records.folder) == (count, "q", tmp_path)
    assert records.digest() == open_records(path).digest() != None  # noqa: E711


def test_objects_by_id(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text('{"x": {"question": "?"}, "y": {"id": "own", "question": "!"}}')
    assert [record["id"] for _, record in read(path)] == ["x", "own"]


def test_an_empty_cell_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("id,question,label\n1,x,\n\n2,y,z\n")
    assert [record["label"] for _, record in read(path)] == [None, "z"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.jsonl", b'{"id": 1}\n{"id": 2,}\n', r"q\.jsonl:2: not JSON: .* column"),
        ("q.jsonl", b'{"id": 1}\n\n[1]\n', r"q\.jsonl:3: expected an object"),
        ("q.jsonl", b'{"id": "\xff"}\n', r"q\.jsonl:1: not UTF-8"),
        ("q.json", b'[{"id": 1},\n {"id": ]', r"q\.json: not JSON: .* line 2, column"),
        ("q.json", b"[1]", r"q\.json\[0\]: expected an object"),
        ("q.json", b'"text"', "expected a list of objects"),
        ("q.json", b'{"a": [], "b": []}', "expected a list of objects"),
        ("q.json", b"[" * 100_000, "nested too deeply"),
        ("q.csv", b"id,question\n1,a\n2,b,c\n", r"q\.csv:3: 3 cells, but the header has 2"),
        ("q.csv", b"id,id\n1,2\n", r"q\.csv:1: column 'id' stands there twice"),
        ("q.csv", b'id,question\n1,"a\n', r"q\.csv:\d: not CSV"),
        ("q.csv", b"id,question\n1,\xff\n", "not UTF-8"),
        ("q.parquet", b"PAR1 is not enough PAR1", "not a readable Parquet file"),
        ("q.xlsx", b"", r"end in \.jsonl, .* not '\.xlsx'"),
    ],
)
def test_a_malformed_file_is_refused_by_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ExampleError, match=said):
        read(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PathError, match="is a folder"):
        open_records(tmp_path)
    for place in (tmp_path / "q.jsonl", "./nothing/here/at/all", "what is this"):
        with pytest.raises(ExampleError, match="no such file"):
            open_records(place)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Run Python that reads questions from a Hub of its own, and return what it prints.

    In a child process: `datasets` reads its environment once, on import.
    """
    folder = tmp_path_factory.mktemp("published")
    rows = [{"id": n, "text": f"What is {n}?"} for n in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    card = (
        b"---\nconfigs:\n- config_name: tqa\n  data_files:\n  - {split: test, path: tqa.jsonl}\n"
        b"- config_name: vqa\n  data_files:\n  - {split: test, path: tqa.jsonl}\n"
        b"  - {split: dev, path: dev.jsonl}\n---\n"
    )
    files = {"README.md": card, "tqa.jsonl": lines, "dev.jsonl": lines[: lines.index(b"\n") + 1]}
    with Hub(folder / "hub") as hub:
        hub.create("alice/questions", files)
        hub.create("alice/one", {"train.jsonl": lines})
        env = hub_env(hub, folder / "home")

        def run(code: str) -> str:
            prelude = (
                "from actstore.capturing.prompts.records import open_records\n"
                "from actstore.errors import ActstoreError\n"
                "def show(place):\n"
                "    try:\n"
                "        found = open_records(place)\n"
                "        where, record = next(found.read())\n"
                "        print(found.name, found.split, found.count, where, dict(record))\n"
                "    except ActstoreError as problem:\n"
                "        print(type(problem).__name__, problem)\n"
            )
            return run_python(prelude + code, env).stdout

        yield run


def test_data_sets_of_the_hub(published: Callable[[str], str]) -> None:
    found = published(
        "show('alice/one')\nshow('alice/one:train')\nshow('alice/questions:tqa:test')\n"
        "show('alice/questions:vqa:dev')\n"
    ).splitlines()
    first = "{'id': 0, 'text': 'What is 0?'}"
    assert found == [
        f"alice/one train 3 alice/one[0] {first}",
        f"alice/one train 3 alice/one:train[0] {first}",
        f"alice/questions test 3 alice/questions:tqa:test[0] {first}",
        f"alice/questions dev 1 alice/questions:vqa:dev[0] {first}",
    ]


def test_what_the_hub_does_not_have(published: Callable[[str], str]) -> None:
    missing, split, config = published(
        "show('alice/missing')\nshow('alice/one:dev')\nshow('alice/questions:test')\n"
    ).splitlines()
    assert missing.startswith("RepositoryNotFoundError alice/missing: no such file here and no")
    assert split.startswith("ExampleError alice/one: Unknown split")
    assert config.startswith("ExampleError alice/questions: Config name is missing")
