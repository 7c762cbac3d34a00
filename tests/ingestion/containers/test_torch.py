"""Torch files: every layout that is written, and every way a file can be hostile or damaged."""

from __future__ import annotations

import datetime
import io
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import IngestError, LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import mapping, read
from actstore.ingestion.tensor import Tensor


@pytest.fixture(params=["zip", "mapped zip", "legacy"])
def save(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[object], Path]:
    if request.param == "mapped zip":
        monkeypatch.setattr(mapping, "MAP_FROM", 1)

    def saved(value: object) -> Path:
        path = tmp_path / "file.pt"
        torch.save(value, path, _use_new_zipfile_serialization=request.param != "legacy")
        return path

    return saved


def load(path: Path) -> Any:
    return read("torch", path)


def assert_same(tensor: Tensor, source: torch.Tensor) -> None:
    assert isinstance(tensor, Tensor)
    assert tensor.shape == tuple(source.shape)
    assert tensor.dtype == str(source.dtype).removeprefix("torch.")
    expected = source.float() if source.dtype == torch.bfloat16 else source
    np.testing.assert_array_equal(tensor.numpy(), expected.numpy())


def test_spatialeval_file(save: Any) -> None:
    hidden = torch.randn(1, 50, 32)
    content = {
        "question": "Consider a map …",
        "oracle_answer": "Northeast",
        "example_id": "spatialmap.tqa.2000.0",
        "index": 0,
        "hidden_states_last": hidden[:, -1:, :],
        "hidden_size": 32,
    }
    tree = load(save(content))
    assert list(tree) == list(content)
    assert_same(tree.pop("hidden_states_last"), hidden[:, -1:, :])
    assert tree == {key: value for key, value in content.items() if key in tree}


def test_integer_keys_nested_half_precision(save: Any) -> None:
    layers = {index: torch.randn(16).half() for index in range(31)}
    tree = load(save({"activations": layers}))
    assert list(tree["activations"]) == list(range(31))
    for index, source in layers.items():
        assert_same(tree["activations"][index], source)


def test_targets_share_memory_with_y(save: Any) -> None:
    targets = [torch.randn(1, 5, 8).bfloat16() for _ in range(3)]
    tree = load(save({"y": targets[0], "targets": targets, "n_targets": 3}))
    assert tree["n_targets"] == 3
    assert tree["y"].identity() == tree["targets"][0].identity()
    assert tree["y"].identity() != tree["targets"][1].identity()
    for tensor, source in zip(tree["targets"], targets, strict=True):
        assert_same(tensor, source)


def test_bare_tensor_is_a_tensor(save: Any) -> None:
    source = torch.randn(4, 1, 8).bfloat16()
    assert_same(load(save(source)), source)


def test_views_rows_of_one_storage_and_transposes(save: Any) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tree = load(save([base[1], base.T, base[:, 2], base[2:, ::2], base[:0]]))
    for tensor, source in zip(
        tree, [base[1], base.T, base[:, 2], base[2:, ::2], base[:0]], strict=True
    ):
        assert_same(tensor, source)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int16", "int32", "int64", "float64", "bfloat16"]
)
def test_every_type(save: Any, dtype: str) -> None:
    source = torch.tensor([0, 1, 1]).to(getattr(torch, dtype))
    assert_same(load(save({"x": source}))["x"], source)


def test_float8_and_unsigned_types(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    wide = torch.tensor([1, 65535], dtype=torch.uint16)
    torch.save({"a": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn), "b": wide}, path)
    tree = load(path)
    assert tree["a"].dtype == "float8_e4m3fn"
    assert tree["a"].tolist() == [1.5, -2.0]
    assert tree["b"].tolist() == [1, 65535]
    torch.save(wide, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnreadableFileError, match="torch itself cannot read float8 or uint16"):
        load(path)


def test_plain_values_beside_tensors(save: Any) -> None:
    content = OrderedDict(
        counted=Counter("aab"),
        size=torch.Size([1, 2]),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        raw=b"\x00\xff",
        array=bytearray(b"ab"),
        group={3},
        pair=(1, None, True, 2.5),
        text="é\n",
        number=np.float32(0.5),
        matrix=np.arange(6, dtype=np.float32).reshape(2, 3),
        default=defaultdict(list, a=[1]),
        frozen=frozenset({4}),
        time=datetime.datetime(2025, 9, 9, 20, 23, 33),
        nothing=b"",
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    tree = load(save(content))
    assert type(tree) is dict
    np.testing.assert_array_equal(tree.pop("matrix").numpy(), content["matrix"])
    assert tree.pop("parameter").tolist() == [1, 1]
    assert tree == {
        "counted": {"a": 2, "b": 1},
        "size": (1, 2),
        "dtype": "bfloat16",
        "device": "cpu",
        "raw": b"\x00\xff",
        "array": b"ab",
        "group": [3],
        "pair": (1, None, True, 2.5),
        "text": "é\n",
        "number": 0.5,
        "default": {"a": [1]},
        "frozen": [4],
        "time": "2025-09-09T20:23:33",
        "nothing": b"",
    }
    assert type(tree["number"]) is float
    assert type(tree["counted"]) is dict


def test_stray_surrogates_become_visible(save: Any) -> None:
    assert load(save({"text": "a\ud800é"})) == {"text": "a\\ud800é"}


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse tensor"),
        (torch.zeros(2, device="meta"), "meta tensor"),
        (torch.zeros(2, dtype=torch.complex64), "complex tensor"),
    ],
)
def test_other_tensors_are_named(save: Any, value: torch.Tensor, named: str) -> None:
    with pytest.raises(LayoutError, match=f"file.pt: .*{named}"):
        load(save({"x": value}))


def test_custom_class_is_named(save: Any) -> None:
    with pytest.raises(UnsafeFileError, match=r"file\.pt: refused: it holds .*\.?Linear\b"):
        load(save({"probe": torch.nn.Linear(2, 2)}))


def test_expanded_tensor_is_refused(save: Any) -> None:
    with pytest.raises(UnsafeFileError, match=r"shape \[1000, 1000, 4\].*the file holds 16"):
        load(save(torch.zeros(4).expand(1000, 1000, 4)))


def zipped(path: Path, content: bytes, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/byteorder", b"little")
        archive.writestr("x/version", b"3\n")
    return path


def test_compressed_entries_are_bombs(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pt", b"\x80\x02}." + bytes(10**6), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFileError, match=r"x\.pt: its entry x/data\.pkl is compressed"):
        load(path)


def test_entries_that_claim_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(100)}, path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    while data[at + 46 : at + 52] != b"x/data":
        at = data.rindex(b"PK\x01\x02", 0, at)
    data[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(data)
    with pytest.raises(UnsafeFileError, match="entries claim 1,0"):
        load(path)


def test_storage_that_is_missing_or_short(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(100)}, path)
    for name, kept, message in (("missing", None, "missing"), ("short", 8, "claims 400 bytes")):
        other = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename == "x/data/0":
                    if kept is None:
                        continue
                    content = content[:kept]
                target.writestr(entry.filename, content)
        with pytest.raises(IngestError, match=message):
            load(other)


def test_tuples_nested_deep_enough_to_overflow_the_stack(tmp_path: Path) -> None:
    content = b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s."
    with pytest.raises(UnsafeFileError, match="nests tuples"):
        load(zipped(tmp_path / "x.pt", content))


def test_legacy_storage_that_is_never_filled(tmp_path: Path) -> None:
    """Its tensors would show whatever the memory held before."""
    buffer = io.BytesIO()
    torch.save(torch.zeros(100), buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    keys = data.rindex(b"\x80\x02]")
    path = tmp_path / "x.pt"
    path.write_bytes(data[:keys] + b"\x80\x02]." + data[-408:])
    with pytest.raises(UnreadableFileError, match="list of storages"):
        load(path)


def test_a_pickle_is_named_with_its_container(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnreadableFileError, match=r"a plain pickle .*name 'pickle'"):
        load(path)
