"""Sidecar tables: formats, where they are found, how rows are looked up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.errors import PathError, SidecarError, UsageError
from actstore.ingestion import recipes
from actstore.ingestion.discovery import assign
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.sidecar_table import SidecarTable, read_records
from actstore.ingestion.sidecars import Sidecars
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.walking import walk


def recipe(paths: list[str], more: str = "", path: str = "{task}/{key}.npz") -> Recipe:
    return recipes.parse(
        f"""
name = "r"
container = "numpy"
reader = "elsewhere"
[[files]]
path = "{path}"
[[sidecars]]
name = "t"
paths = {json.dumps(paths)}
{more}
"""
    )


def source_file(root: Path, name: str, layout: Recipe) -> SourceFile:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")
    (file,), _ = assign(layout, [e for e in walk([root]) if e.relative == name])
    return file


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def spec(**options: Any) -> Any:
    more = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    return recipe(["x"], more).sidecars[0]


def test_csv_values_stay_text(tmp_path: Path) -> None:
    text = '\ufeffid,n,note\r\n01,1.0,"two\nlines"\r\nx,,\r\n'
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert read_records(path) == [
        {"id": "01", "n": "1.0", "note": "two\nlines"},
        {"id": "x", "n": "", "note": ""},
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_csv_of_other_programs(tmp_path: Path, mark: str, encoding: str) -> None:
    other = ";" if mark == "," else ","
    text = f'id{mark} note\n\n1{mark}"a{mark}b"\n2{mark}0{other}5 é\n'
    bom = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.csv").write_bytes(f"{bom}{text}".encode(encoding))
    assert read_records(tmp_path / "a.csv") == [
        {"id": "1", "note": f"a{mark}b"},
        {"id": "2", "note": f"0{other}5 é"},
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'id,q\n1,"a\nb"\n2,yes, or no\n', "line 4 has 3 values for 2 columns"),
        (b"id,q\n1,two\nlines\n", "line 3 has 1 value for 2 columns"),
        (b"id;q\n1;a;b\n", "texts that hold ';'"),
        (b'id,q\n1,"open\n2,b\n', "unexpected end of data"),
        (b"id,label,label\n1,a,b\n", "two columns are called 'label'"),
        (b"id,q\n1,caf\xe9\n", "line 2 holds bytes that are no UTF-8"),
        ("id,q\n1,a\n".encode("utf-16-le"), "NUL characters, as UTF-16"),
    ],
)
def test_csv_whose_columns_would_be_shifted(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(SidecarError, match=reason):
        read_records(tmp_path / "a.csv")


def test_jsonl_lines_end_at_newlines_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"id": 1, "t": "a\u2028b"}\n\n{"id": 2}')
    assert read_records(path) == [{"id": 1, "t": "a\u2028b"}, {"id": 2}]


@pytest.mark.parametrize(
    ("document", "options", "expected"),
    [
        ([{"id": 1}], {}, [{"id": 1}]),
        ({"pairs": [{"id": 1}], "version": 2}, {}, [{"id": 1}]),
        ({"pairs": [{"id": 1}], "old": [1]}, {"records": "pairs"}, [{"id": 1}]),
        (
            {"GOOD": [{"id": 1}], "BAD": [{"id": 2}, 3]},
            {"records": "*", "class_column": "c"},
            [{"c": "GOOD", "id": 1}, {"c": "BAD", "id": 2}, {"c": "BAD", "id": 3}],
        ),
    ],
)
def test_json_shapes(
    tmp_path: Path, document: Any, options: dict[str, Any], expected: list[Any]
) -> None:
    path = write(tmp_path / "a.json", json.dumps(document))
    assert read_records(path, spec(**options)) == expected


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "ok": [True, None]}), tmp_path / "a.parquet")
    assert read_records(tmp_path / "a.parquet") == [{"id": 1, "ok": True}, {"id": 2, "ok": None}]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.txt", "x", "format of .txt is not known"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "id,n\n", "holds no rows"),
        ("a.jsonl", '{"id": 1}\n{"id"', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object, got a list"),
        ("a.json", "{", "cannot be read as json"),
        ("a.json", '{"a": [1], "b": [2]}', "it has the lists a, b"),
        ("a.json", "[1]", "entry 0: expected an object"),
        ("a.json", "[" * 100_000, "cannot be read as json"),
        ("a.parquet", "PAR1", "cannot be read as parquet"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, text: str, reason: str) -> None:
    with pytest.raises(SidecarError) as caught:
        read_records(write(tmp_path / name, text))
    assert reason in str(caught.value)
    assert name in str(caught.value)


def test_rows_are_looked_up_by_text() -> None:
    table = SidecarTable(Path("t"), [{"id": 1, "m": "a"}, {"id": "02", "m": "b"}, {"id": 3.0}])
    assert table.find({"id": "1"}) == {"id": 1, "m": "a"}
    assert table.find({"id": 3}) == {"id": 3.0}
    assert table.find({"id": 2}) is None
    assert table.find({"id": "02", "m": "b"}) == {"id": "02", "m": "b"}
    assert table.find({"m": "b", "id": "1"}) is None
    with pytest.raises(SidecarError, match=r"no column 'uid'.*has id, m"):
        table.find({"uid": 1})


def test_repeated_keys() -> None:
    rows = [{"id": 1, "v": 1}, {"id": 1, "v": 2}, {"id": 2, "v": 3}, {"id": 2, "v": 3}]
    with pytest.raises(SidecarError, match="row 2 repeats id='1'"):
        SidecarTable(Path("t"), rows).find({"id": 2})
    assert SidecarTable(Path("t"), rows[2:]).find({"id": 2}) == rows[2]
    for many, value in (("first", rows[0]), ("last", rows[1]), ("skip", None)):
        table = SidecarTable(Path("t"), rows, many)
        assert table.find({"id": 1}) == value
        assert table.find({"id": 2}) == rows[2]


@pytest.mark.parametrize(
    "place", ["p/acts/deep/maths", "p/acts/deep", "p/acts", "p", "p/../p/acts"]
)
def test_tables_lie_beside_the_file_or_above_it(tmp_path: Path, place: str) -> None:
    layout = recipe(["scores.csv"])
    file = source_file(tmp_path, "p/acts/deep/maths/a.npz", layout)
    path = write(tmp_path / place / "scores.csv", "id\n1\n")
    table = Sidecars(layout).table("t", file)
    assert table is not None
    assert table.path.resolve() == path.resolve()


def test_the_nearest_table_is_taken(tmp_path: Path) -> None:
    layout = recipe(["scores.csv"])
    file = source_file(tmp_path, "p/a/maths/a.npz", layout)
    write(tmp_path / "p/scores.csv", "id\n1\n")
    near = write(tmp_path / "p/a/scores.csv", "id\n2\n")
    assert Sidecars(layout).path("t", file) == near


def test_several_candidates_are_not_guessed(tmp_path: Path) -> None:
    layout = recipe(["s_*.csv"])
    file = source_file(tmp_path, "p/maths/a.npz", layout)
    write(tmp_path / "p/s_1.csv", "id\n1\n")
    other = write(tmp_path / "p/s_2.csv", "id\n2\n")
    with pytest.raises(SidecarError, match=r"2 files fit s_\*\.csv.*--sidecar t=PATH"):
        Sidecars(layout).table("t", file)
    named = Sidecars(layout, {"t": other}).table("t", file)
    assert named is not None
    assert named.records == [{"id": "2"}]


def test_tables_can_be_merged(tmp_path: Path) -> None:
    layout = recipe(["{path.task}/s_*.csv"], 'merge = true\nmany = "skip"')
    file = source_file(tmp_path, "p/maths/a.npz", layout)
    write(tmp_path / "p/maths/s_1.csv", "id,v\n1,a\n2,b\n")
    write(tmp_path / "p/maths/s_2.csv", "id,v\n2,c\n3,d\n")
    write(tmp_path / "p/other/s_3.csv", "id,v\n9,z\n")
    sidecars = Sidecars(layout)
    table = sidecars.table("t", file)
    assert table is not None
    assert [table.find({"id": key}) is not None for key in (1, 2, 3, 9)] == [
        True,
        False,
        True,
        False,
    ]
    assert sidecars.notes() == ["sidecar t: s_1.csv, s_2.csv"]


def test_what_several_processes_looked_up_is_told_together(tmp_path: Path) -> None:
    layout = recipe(["scores.csv"])
    write(tmp_path / "p/scores.csv", "id\n1\n2\n")
    told = Sidecars(layout)
    for number, name in enumerate(("a", "b")):
        own = Sidecars(layout)
        table = own.table("t", source_file(tmp_path, f"p/maths/{name}.npz", layout))
        assert table is not None
        for key in (1 + number, 3 + number):
            own.asked("t", (name, key), table.find({"id": key}) is not None)
        told.add(own.taken())
    assert told.notes() == ["sidecar t: scores.csv, joined 2 of 4"]


def test_parts_of_the_path_are_no_patterns(tmp_path: Path) -> None:
    layout = recipe(["{path.task}.csv"])
    file = source_file(tmp_path, "p/[ab]*/a.npz", layout)
    write(tmp_path / "p/a.csv", "id\n1\n")
    assert Sidecars(layout).path("t", file) is None
    path = write(tmp_path / "p/[ab]*.csv", "id\n1\n")
    assert Sidecars(layout).path("t", file) == path


def test_a_missing_table(tmp_path: Path) -> None:
    layout = recipe(["scores.csv"])
    file = source_file(tmp_path, "p/maths/a.npz", layout)
    assert Sidecars(layout).table("t", file) is None
    needed = recipe(["scores.csv"], "required = true")
    with pytest.raises(SidecarError, match=r"sidecar t is missing: looked for scores\.csv"):
        Sidecars(needed).table("t", file)


def test_overrides_must_name_a_sidecar(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--sidecar scores=…: recipe r has no such.*has t"):
        Sidecars(recipe(["x"]), {"scores": tmp_path})
    (tmp_path / "folder.csv").mkdir()
    table = Sidecars(recipe(["x.csv"]), {"t": tmp_path / "folder.csv"})
    file = source_file(tmp_path, "p/m/a.npz", recipe(["x.csv"]))
    with pytest.raises(PathError, match=r"folder\.csv: is a folder, not a file"):
        table.table("t", file)


def test_overrides_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--sidecar t=.*gone\.csv: no such file or folder"):
        Sidecars(recipe(["t.csv"]), {"t": tmp_path / "gone.csv"})
