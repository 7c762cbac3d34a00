"""Torch's zip files read over their own bytes: what torch would load, bit for bit, or an error."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actstore.errors import UnreadableFileError
from actstore.ingestion.containers import read, torch_zip
from tests.torture.effort import examples

BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def bits(values: np.ndarray) -> list[int]:
    whole = np.ascontiguousarray(values)
    return whole.reshape(-1).view(BITS[whole.itemsize]).tolist()


@settings(deadline=None, max_examples=examples(60))
@given(data=st.data())
def test_any_view_of_a_storage_is_what_torch_loads(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dtype = data.draw(st.sampled_from([torch.float16, torch.float32, torch.int64, torch.uint8]))
    count = data.draw(st.integers(1, 60))
    values = torch.randint(0, 250, (count,), dtype=torch.uint8).to(dtype)
    views = {}
    for number in range(data.draw(st.integers(1, 4))):
        rows = data.draw(st.integers(0, 5))
        width = data.draw(st.integers(1, 5))
        steps = data.draw(st.tuples(st.integers(0, 6), st.integers(0, 3)))
        reach = (rows - 1) * steps[0] + (width - 1) * steps[1] if rows else 0
        if rows * width <= count and reach < count:
            offset = data.draw(st.integers(0, count - reach - 1))
            views[number] = torch.as_strided(values, (rows, width), steps, offset)
    path = tmp_path_factory.mktemp("views") / "file.pt"
    torch.save({"views": views, "again": views.get(0)}, path)
    found, loaded = read("torch", path), torch.load(path)
    for number, view in loaded["views"].items():
        tensor = found["views"][number]
        assert (tensor.shape, tensor.dtype) == (
            tuple(view.shape),
            str(view.dtype).removeprefix("torch."),
        )
        assert bits(tensor.numpy()) == bits(view.numpy())
    if 0 in views:
        assert found["again"].identity() == found["views"][0].identity()


def test_empty_tensors_of_any_other_length(tmp_path: Path) -> None:
    torch.save({"a": torch.empty(0, 3), "b": torch.empty(5, 0, 2**40)}, tmp_path / "file.pt")
    found = read("torch", tmp_path / "file.pt")
    assert (found["a"].shape, found["b"].shape) == ((0, 3), (5, 0, 2**40))


def beyond_all_numbers(archive: bytes) -> bytes:
    """Return a zip that says that its directory lies where no file reaches."""
    end = archive.rindex(b"PK\5\6")
    entries, size, start = struct.unpack_from("<HII", archive, end + 10)
    where = (45, 45, 0, 0, entries, entries, size, start | 255 << 56)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, *where)
    return archive[:end] + record + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1) + archive[end:]


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_directory_that_lies_beyond_all_numbers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("file.pt" if kind == "torch" else "file.npz")
    if kind == "torch":
        torch.save({"a": torch.arange(3.0)}, path)
    else:
        np.savez(path, a=np.arange(3.0))
    path.write_bytes(beyond_all_numbers(path.read_bytes()))
    with pytest.raises(UnreadableFileError, match="zip archive"):
        read(kind, path)


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Return a copy of a zip file whose entries are changed."""
    copy = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, change(info.filename, source.read(info.filename)))
    return copy


def test_numbers_of_the_other_byte_order(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6, dtype=torch.float16).reshape(2, 3)}, tmp_path / "file.pt")

    def turned(name: str, content: bytes) -> bytes:
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" in name:
            return np.frombuffer(content, np.uint16).byteswap().tobytes()
        return content

    found = read("torch", rewritten(tmp_path / "file.pt", turned))["a"].numpy()
    np.testing.assert_array_equal(found, np.arange(6, dtype=np.float16).reshape(2, 3))


def test_files_without_a_byte_order_are_little_endian(tmp_path: Path) -> None:
    """As torch wrote them before it said so."""
    torch.save(torch.arange(6), tmp_path / "file.pt")
    copy = tmp_path / "changed.pt"
    with (
        zipfile.ZipFile(tmp_path / "file.pt") as source,
        zipfile.ZipFile(copy, "w") as target,
    ):
        for info in source.infolist():
            if not info.filename.endswith("byteorder"):
                target.writestr(info.filename, source.read(info.filename))
    np.testing.assert_array_equal(read("torch", copy).numpy(), np.arange(6))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"PK\1\2"),  # no local header
        (26, b"\xff\xff"),  # a name that reaches past the end of the file
        (28, b"\xff\xff"),
    ],
)
def test_an_entry_that_does_not_lie_where_the_directory_says(
    tmp_path: Path, at: int, value: bytes
) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(4)}, path)
    with zipfile.ZipFile(path) as archive:
        header = next(
            info.header_offset for info in archive.infolist() if "/data/" in info.filename
        )
    content = bytearray(path.read_bytes())
    content[header + at : header + at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="does not lie where the directory says"):
        read("torch", path)


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    for entry in range(len(content)):
        if content[entry : entry + 4] == b"PK\1\2":
            content[entry + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match="is encrypted"):
        read("torch", path)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(4)}, path)
    content = path.read_bytes()
    for end in range(2, len(content), 37):
        path.write_bytes(content[:end])
        with pytest.raises(UnreadableFileError):
            read("torch", path)


def test_the_same_description_over_other_bytes_gives_other_tensors(tmp_path: Path) -> None:
    """Descriptions are remembered: the numbers must come from the file at hand."""
    torch_zip._look_once.cache_clear()
    for number in range(3):
        path = tmp_path / f"{number}.pt"
        torch.save({"a": torch.full((3,), float(number)), "b": "text"}, path)
        found = read("torch", path)
        assert found["a"].tolist() == [number] * 3
        found["b"] = "changed by whoever reads it"
    assert torch_zip._look_once.cache_info().hits > 0
    assert read("torch", tmp_path / "0.pt")["b"] == "text"


def test_torch_is_not_needed(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3, dtype=torch.float16), "b": [1, "x"]}, tmp_path / "file.pt")
    script = (
        "import sys; from pathlib import Path; from actstore.ingestion.containers import read; "
        "print(read('torch', Path(sys.argv[1]))['a'].tolist(), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0.0, 1.0, 2.0] False"
