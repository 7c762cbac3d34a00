"""Files that lie or unfold: refused with a reason, and never by an error of another kind."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from actstore.errors import IngestError, SidecarError, UnsafeFileError, UsageError
from actstore.ingestion import containers, contract, recipes
from actstore.ingestion.containers.torch import check_legacy
from actstore.ingestion.sidecar_table import read_records

LIMIT = 64 << 20


def load(kind: str, path: Path) -> Any:
    return containers.read(kind, path, memory_limit=LIMIT)


def test_one_text_made_bytes_over_and_over(tmp_path: Path) -> None:
    """Ten megabytes out of fifty kilobytes, and as many more as one likes."""
    text = b"X" + struct.pack("<I", 50_000) + b"x" * 50_000 + b"q\x01"
    call = b"\x80\x02c_codecs\nencode\nq\x00"
    again = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"
    path = tmp_path / "x.pkl"
    path.write_bytes(call + text + b"](" + again * 4 + b"e.")
    assert load("pickle", path) == [b"x" * 50_000] * 4  # a few are what files do
    path.write_bytes(call + text + b"](" + again * 200 + b"e.")
    with pytest.raises(UnsafeFileError, match="copies far more than it holds"):
        load("pickle", path)


def test_one_bytearray_made_over_and_over(tmp_path: Path) -> None:
    data = b"B" + struct.pack("<I", 50_000) + b"x" * 50_000 + b"q\x01"
    call = b"\x80\x03cbuiltins\nbytearray\nq\x00"
    path = tmp_path / "x.pkl"
    path.write_bytes(call + data + b"](" + b"h\x00h\x01\x85R" * 4 + b"e.")
    assert load("pickle", path) == [b"x" * 50_000] * 4
    path.write_bytes(call + data + b"](" + b"h\x00h\x01\x85R" * 200 + b"e.")
    with pytest.raises(UnsafeFileError, match="copies far more than it holds"):
        load("pickle", path)


class _Legacy(pickle.Pickler):
    """Writes storages by name as torch before 0.4 did, with the window that is wanted."""

    def __init__(self, file: io.BytesIO, view: Any, count: int) -> None:
        super().__init__(file, protocol=2)
        self._identity = ("storage", torch.FloatStorage, "0", "cpu", count, view)

    def persistent_id(self, found: Any) -> Any:
        return self._identity if isinstance(found, _Storage) else None


class _Storage:
    """Stands for a storage."""


class _Tensor:
    def __init__(self, elements: int) -> None:
        self._elements = elements

    def __reduce__(self) -> Any:
        parts = (_Storage(), 0, (self._elements,), (1,))
        return torch._utils._rebuild_tensor, parts


def legacy(view: Any, *, count: int = 8, elements: int = 2) -> bytes:
    """A legacy torch file of one tensor over a window into a storage of ``count`` floats."""
    head = b"".join(
        pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"a": 1})
    )
    content = io.BytesIO()
    _Legacy(content, view, count).dump(_Tensor(elements))
    keys = pickle.dumps(["0"], protocol=2)
    return head + content.getvalue() + keys + struct.pack("<q", count) + b"\0" * 4 * count


@pytest.mark.parametrize("view", [("1", 0, 2), ("1", 6, 2), ("1", 0, 8), None])
def test_windows_that_fit(view: Any) -> None:
    check_legacy(legacy(view))


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (("1", -1, 2), "without bounds"),
        (("1", 4, -2), "without bounds"),
        (("1", 0.0, 2), "without bounds"),
        (("1", 0, 2.0), "without bounds"),
        (("1", True, 2), "without bounds"),
        (("1", 0, True), "without bounds"),
        (("1", 7, 2), "reaches outside"),
        (("1", 2**62, 2), "reaches outside"),
        ((0, 2), "describes a storage wrongly"),
    ],
)
def test_windows_that_reach_elsewhere(view: Any, reason: str) -> None:
    with pytest.raises(IngestError, match=reason):
        check_legacy(legacy(view))


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + body


SHAPES = ["(1099511627776,)", "(4294967296, 4294967296)", "(2, -1)", "(3.5,)", "(True, 4)", "'x'"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["npy", "npz", "packed"])
def test_numpy_headers_that_lie(tmp_path: Path, shape: str, kind: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    data = npy(header, b"\0" * 16)
    path = tmp_path / f"x.{kind[:3]}"
    if kind == "npy":
        path.write_bytes(data)
    else:
        how = zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w", how) as archive:
            archive.writestr("a.npy", data)
    with pytest.raises(IngestError, match=r"x\.np"):
        load("numpy", path)


@pytest.mark.parametrize("header", ["{" * 5000, "[" * 100_000, "'x' * 10**9", "__import__('os')"])
def test_numpy_headers_that_are_no_description(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(header, b"\0" * 16))
    with pytest.raises(IngestError, match=r"x\.npy"):
        load("numpy", path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"a": {"dtype": "F999", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}},
        {"a": [1]},
        [1],
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(IngestError, match=r"x\.safetensors"):
        load("safetensors", path)


def test_a_safetensors_header_nested_without_end(tmp_path: Path) -> None:
    text = b'{"a":' + b"[" * 200_000
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(IngestError, match=r"x\.safetensors"):
        load("safetensors", path)


@pytest.mark.parametrize("at", [-8, -6, -40, 8, 30])
def test_a_table_whose_description_lies(tmp_path: Path, at: int) -> None:
    """No byte of a Parquet file's ends leads to anything but rows or one of our errors."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"v": [[1.0, 2.0]] * 10}), path)
    whole = path.read_bytes()
    for value in (0, 0x7F, 0xFF):
        broken = bytearray(whole)
        broken[at] = value
        path.write_bytes(broken)
        try:
            for batch in load("parquet", path).batches(None):
                assert batch.num_rows <= 10
        except IngestError:
            continue


HUGE = 1 << 20
TABLES = {
    "deep.json": "[" * 300_000,
    "deep objects.json": '{"a":' * 300_000,
    "deep line.jsonl": '{"id": ' + "[" * 300_000,
    "long number.json": '[{"id": ' + "9" * 5000 + "}]",
    "long number.jsonl": '{"id": ' + "9" * 5000 + "}",
    "long line.csv": "id,label\n1," + "x" * HUGE + "\n",
    "open quote.csv": 'id,label\n1,"' + "x" * HUGE,
    "nul.json": "\0" * 100,
    "half a letter.json": "\udcff",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_long_lines_and_deep_nesting(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TABLES[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(SidecarError) as caught:
        read_records(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a" + ".a" * 50_000 + " = 1",
        "a = " + "9" * 5000,
        'name = "' + "x" * HUGE + '"',
        "a = {b = " * 10_000,
        'name = "r"\n[[files]]\npath = "' + "{a}" * 20_000 + '"',
    ],
)
def test_recipes_of_long_lines_and_deep_nesting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(IngestError):
        recipes.load(path)


@pytest.mark.parametrize("text", ["[" * 300_000, '{"a": ' + "9" * 5000 + "}", "\0"])
def test_contracts_of_deep_nesting(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        contract.load(path)
