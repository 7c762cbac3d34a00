"""Safetensors files: every type, metadata, and damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actstore.errors import LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import read


def load(path: Path) -> Any:
    return read("safetensors", path)


def test_tensors_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    sources = {
        "layer_0": torch.randn(2, 3).bfloat16(),
        "layer_1": torch.randn(2, 3).half(),
        "ids": torch.tensor([1, 2]),
        "small": torch.tensor([1.5]).to(torch.float8_e5m2),
    }
    save_file(sources, path, metadata={"model": "m"})
    tree = load(path)
    assert tree.pop("__metadata__") == {"model": "m"}
    assert set(tree) == set(sources)
    for name, source in sources.items():
        assert tree[name].dtype == str(source.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(tree[name].numpy(), source.to(torch.float32).numpy())


def test_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(1)}, path)
    assert list(load(path)) == ["x"]


def test_complex_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(2, dtype=torch.complex64)}, path)
    with pytest.raises(LayoutError, match=r"x\.safetensors: x: a complex tensor"):
        load(path)


def test_header_bombs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(UnreadableFileError, match="announces 4,611,"):
        load(path)
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(200_000_008)
    with pytest.raises(UnsafeFileError, match="header takes 200,000,000 bytes"):
        load(path)
    deep = b"[" * 100_000
    path.write_bytes(len(deep).to_bytes(8, "little") + deep)
    with pytest.raises(UnreadableFileError, match="not JSON"):
        load(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]},
        {"dtype": "X9", "shape": [4], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {},
        5,
    ],
    ids=str,
)
def test_headers_that_lie(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"x": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(UnreadableFileError, match=r"x\.safetensors"):
        load(path)
