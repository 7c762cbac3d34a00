"""NumPy files: every type, large ones mapped, pickles and bombs refused, damage."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actstore.errors import LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import mapping, read
from actstore.ingestion.tensor import Tensor


@pytest.fixture(params=["read", "mapped"])
def load(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "mapped":
        monkeypatch.setattr(mapping, "MAP_FROM", 1)
    return lambda path, **options: read("numpy", path, **options)


ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(3, dtype=">f4"),
    "single": np.array(2.5),
    "empty": np.zeros((0, 4), np.float32),
    "ids": np.array(["a", "bcd"]),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(load: Any, tmp_path: Path, save: Any) -> None:
    path = tmp_path / "x.npz"
    save(path, **ARRAYS)
    tree = load(path)
    assert list(tree) == list(ARRAYS)
    for name, source in ARRAYS.items():
        np.testing.assert_array_equal(tree[name].numpy(), source)
        assert tree[name].shape == source.shape
        assert tree[name].numpy().dtype == source.dtype.newbyteorder("=")


@pytest.mark.parametrize("name", ARRAYS)
def test_npy(load: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ARRAYS[name])
    tensor = load(path)
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(tensor.numpy(), ARRAYS[name])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "error", "named"),
    [
        (np.array([None]), UnsafeFileError, "Python objects as a pickle"),
        (np.zeros(2, [("a", "f4"), ("b", "O")]), UnsafeFileError, "Python objects"),
        (np.zeros(2, [("a", "f4"), ("b", "i4")]), LayoutError, "fields a, b"),
        (np.zeros(2, "V2"), LayoutError, "perhaps bfloat16"),
        (np.zeros(2, np.complex64), LayoutError, "complex array"),
    ],
)
def test_other_types_are_named(
    load: Any, tmp_path: Path, suffix: str, array: Any, error: type[Exception], named: str
) -> None:
    path = tmp_path / f"x.{suffix}"
    with path.open("wb") as file:
        if suffix == "npy":
            np.save(file, array, allow_pickle=True)
        else:
            np.savez(file, thing=array)
    with pytest.raises(error, match=rf"x\.{suffix}: .*{named}") as caught:
        load(path)
    if suffix == "npz":
        assert "'thing'" in str(caught.value)


def npy(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 62, 1 << 62), (5,), (-1,)])
def test_declared_shapes_are_checked_first(
    load: Any, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(shape, data=bytes(16)))
    with pytest.raises(UnreadableFileError, match=r"x\.npy: .*(needs|names the shape)"):
        load(path)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
            archive.writestr("a.npy", npy(shape, data=bytes(16)))
        with pytest.raises(UnreadableFileError, match=r"x\.npz: .*(needs|names the shape)"):
            load(tmp_path / "x.npz")


def test_values_of_no_bytes(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy((1 << 50,), "<U0", bytes(16)))
    with pytest.raises(UnsafeFileError, match="values of no bytes"):
        load(path)


def test_bombs(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(1 << 24, np.uint8), b=np.zeros(5))
    assert load(path)["a"].shape == (1 << 24,)
    with pytest.raises(UnsafeFileError, match="memory limit is 1,000"):
        load(path, memory_limit=1000)
    largest = (64 << 20) - 128  # its header is counted too
    np.savez_compressed(path, a=np.zeros(largest, np.uint8))
    assert load(path)["a"].shape == (largest,)
    np.savez_compressed(path, a=np.zeros(largest + 1, np.uint8))
    with pytest.raises(UnsafeFileError, match="unfold to 67,108,865, as bombs do"):
        load(path)


def test_foreign_entries(load: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy((1,), data=bytes(4)))
    with pytest.raises(UnreadableFileError, match="compressed in a foreign way"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy((1,), data=bytes(4)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy((1,), data=bytes(4)))
    with pytest.raises(UnreadableFileError, match="'a' occurs twice"):
        load(path)
