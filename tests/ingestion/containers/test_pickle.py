"""Plain pickles: what hooks write, and every way a pickle can be hostile or damaged."""

from __future__ import annotations

import copyreg
import datetime
import functools
import io
import os
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import IngestError, LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers import opcodes, read
from tests.ingestion.containers.pickled import Reduced, storage

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def load(path: Path, **options: Any) -> Any:
    return read("pickle", path, **options)


def write(path: Path, value: object, protocol: int | None = None) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def hook_file() -> dict[str, Any]:
    return {
        "prompt": "Question:\nWhat?\n",
        "response": "FINAL ANSWER: é",
        "model": "meta-llama/Llama-3.2-3B-Instruct",
        "timestamp": "2025-09-09T20:23:33.105000",
        "input_ids": torch.arange(7).reshape(1, 7),
        "activations": {
            "embeddings": torch.randn(1, 1, 32).half(),
            "layer_0": torch.randn(1, 50, 32)[:, -1:, :],
            "layer_1": torch.randn(1, 1, 32).bfloat16(),
        },
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_hook_pickle_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = hook_file()
    tree = load(write(tmp_path / "What is\n A b.pkl", content, protocol))
    assert list(tree) == list(content)
    assert list(tree["activations"]) == ["embeddings", "layer_0", "layer_1"]
    for name, source in content["activations"].items():
        tensor = tree["activations"][name]
        assert tensor.dtype == str(source.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(tensor.numpy(), source.float().numpy())
    assert tree["input_ids"].tolist() == [list(range(7))]
    for name in ("prompt", "response", "model", "timestamp"):
        assert tree[name] == content[name]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_plain_values_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "f": np.arange(6, dtype=np.float16).reshape(2, 3).T,
        "big": np.arange(3, dtype=">f4"),
        "strided": np.arange(10)[::3],
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "text": np.array(["a", "bcd"]),
    }
    values = {
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, a=[1]),
        "counted": Counter("aab"),
        "set": {3},
        "frozen": frozenset({4}),
        "bytes": b"\x00\xff",
        "array": bytearray(b"ab"),
        "date": datetime.date(2025, 9, 9),
        "time": datetime.datetime(2025, 9, 9, 20, 23, 33, 105000),
        "number": np.float32(0.5),
        "size": torch.Size([2]),
        "dtype": torch.float16,
        "device": torch.device("cuda:1"),
        "long": 10**30,
        (1, "a"): None,
        5: 1.5,
    }
    tree = load(write(tmp_path / "x.pkl", {"arrays": arrays, "values": values}, protocol))
    for name, source in arrays.items():
        np.testing.assert_array_equal(tree["arrays"][name].numpy(), source)
        assert tree["arrays"][name].numpy().dtype == source.dtype.newbyteorder("=")
    assert tree["values"] == {
        "ordered": {"a": 1},
        "default": {"a": [1]},
        "counted": {"a": 2, "b": 1},
        "set": [3],
        "frozen": [4],
        "bytes": b"\x00\xff",
        "array": b"ab",
        "date": "2025-09-09",
        "time": "2025-09-09T20:23:33.105000",
        "number": 0.5,
        "size": (2,),
        "dtype": "float16",
        "device": "cuda:1",
        "long": 10**30,
        (1, "a"): None,
        5: 1.5,
    }
    assert {type(tree["values"][name]) for name in ("ordered", "default", "counted")} == {dict}


@pytest.mark.parametrize(
    ("number", "kind"), [(np.complex64(1j), "builtins.complex"), (np.longdouble(1), "numpy.long")]
)
def test_numbers_of_numpy_that_no_column_holds_are_refused(
    tmp_path: Path, number: Any, kind: str
) -> None:
    with pytest.raises(LayoutError, match=rf"the value at \['a'\] is a {kind}"):
        load(write(tmp_path / "x.pkl", {"a": number}))


def test_parameters_state_dicts_and_shared_tensors(tmp_path: Path) -> None:
    linear = torch.nn.Linear(2, 3)
    shared = torch.ones(2)
    content = {"state": linear.state_dict(), "p": linear.bias, "a": shared, "b": [shared]}
    tree = load(write(tmp_path / "x.pkl", content))
    np.testing.assert_array_equal(tree["state"]["weight"].numpy(), linear.weight.detach().numpy())
    assert tree["p"].shape == (3,)
    assert tree["a"].identity() == tree["b"][0].identity()


def test_names_of_numpy_1(tmp_path: Path) -> None:
    data = pickle.dumps(np.arange(3.0), protocol=2)
    path = tmp_path / "x.pkl"
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load(path).tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"builtins\.eval"),
        (getattr, r"builtins\.getattr"),
        (functools.partial, r"functools\.partial"),
        (copyreg._reconstructor, r"copyreg\._reconstructor"),  # type: ignore[attr-defined]
        (torch.load, r"torch\.serialization\.load"),
        (torch.hub.load, r"torch\.hub\.load"),
        (np.load, r"numpy\.load"),
        (OrderedDict.fromkeys, r"(builtins\.getattr|collections\.OrderedDict\.fromkeys)"),
    ],
)
def test_other_functions_are_named_and_never_run(
    tmp_path: Path, protocol: int, function: Any, named: str
) -> None:
    flag = tmp_path / "flag"
    path = write(tmp_path / "x.pkl", {"a": Reduced(function, f"touch {flag}")}, protocol)
    with pytest.raises(UnsafeFileError, match=rf"x\.pkl: refused: it holds {named}"):
        load(path)
    assert not flag.exists()


def inner_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_code_inside_the_bytes_of_a_storage(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    evil = inner_bytes(Reduced(os.system, f"touch {flag}"))
    for hidden in (evil, pickle.dumps(Reduced(os.system, f"touch {flag}"))):
        path = write(tmp_path / "x.pkl", Reduced(torch.storage._load_from_bytes, hidden))
        with pytest.raises((UnsafeFileError, UnreadableFileError)):
            load(path)
        assert not flag.exists()


def test_code_beside_a_whole_storage(tmp_path: Path) -> None:
    """A pickle of the inner file that comes before its storage, or after it."""
    flag = tmp_path / "flag"
    good = inner_bytes(torch.ones(2)._typed_storage())  # type: ignore[no-untyped-call]
    evil = pickle.dumps(Reduced(os.system, f"touch {flag}"), protocol=2)
    stops = [i + 1 for i in range(len(good)) if good[i : i + 1] == b"." and good[i + 1 : i + 2]]
    for at in [0, *stops, len(good)]:
        hidden = good[:at] + evil + good[at:]
        value = Reduced(torch.storage._load_from_bytes, hidden)
        path = write(tmp_path / "x.pkl", value)
        # Bytes after the storage are never looked at; a bare storage is refused then.
        with pytest.raises(IngestError):
            load(path)
        assert not flag.exists()


def test_a_zip_inside_the_bytes_of_a_storage(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(torch.ones(2), buffer)
    path = write(tmp_path / "x.pkl", Reduced(torch.storage._load_from_bytes, buffer.getvalue()))
    with pytest.raises(UnreadableFileError):
        load(path)


def test_state_set_on_an_allowed_function_changes_nothing(tmp_path: Path) -> None:
    """BUILD on what a name leads to, which would poison every later file."""
    state = pickle.dumps((None, {"__defaults__": (1,), "value": 2}), protocol=2)[2:-1]
    for name in (b"collections\nOrderedDict", b"torch._utils\n_rebuild_tensor_v2", b"torch\nint8"):
        path = tmp_path / "x.pkl"
        path.write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
        with pytest.raises(UnsafeFileError, match="state of a finished value"):
            load(path)
    assert load(write(path, OrderedDict(a=torch.ones(1))))["a"].tolist() == [1]


def test_attributes_of_an_ordered_dict_cannot_stand_in_for_its_methods(tmp_path: Path) -> None:
    value = Reduced(OrderedDict, [["a", 1]], state={"items": "poison"})
    assert load(write(tmp_path / "x.pkl", value)) == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04r\xff\xff\xff\x7fN.", "no tensor|memo index|breaks off|is no pickle"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index"),
        (b"\x80\x02Np99999999999\n.", "memo index"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.", "announces"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00.", "announces"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "announces"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00N.", "announces"),
        (b"\x80\x04B\xff\xff\xff\xffN.", "announces"),
        (b"\x80\x02\x8b\xff\xff\xff\x7fN.", "announces"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.", "nests tuples"),
        (b"\x80\x02(" + b"(" * 1000 + b".", "damaged"),
        (b"\x80\x02Pabc\n.", "outside it"),
        (b"\x80\x02K\x01Q.", "outside it"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02" + b"N" * 100, "breaks off"),
        (b"\x80\x02\xff.", "is no pickle instruction"),
    ],
)
def test_bombs_and_broken_instructions(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(IngestError, match=rf"(?s)x\.pkl: .*({message})"):
        load(path)


@pytest.mark.parametrize(
    "call", [b"cbuiltins\nset\n", b"cbuiltins\nfrozenset\n", b"ctorch\nSize\n"]
)
def test_copies_of_one_list_over_and_over(tmp_path: Path, call: bytes) -> None:
    """A hundred kilobytes that ask for gigabytes of copies."""
    numbers = b"](" + b"K\x01" * 10_000 + b"eq\x01"
    path = tmp_path / "x.pkl"
    path.write_bytes(
        b"\x80\x02" + call + b"q\x00" + numbers + b"](" + b"h\x00h\x01\x85R" * 10_000 + b"e."
    )
    with pytest.raises(UnsafeFileError, match="copies far more than it holds"):
        load(path)


def test_the_same_storage_loaded_over_and_over(tmp_path: Path) -> None:
    inner = inner_bytes(torch.zeros(1 << 16)._typed_storage())  # type: ignore[no-untyped-call]
    data = (
        b"\x80\x03ctorch.storage\n_load_from_bytes\nq\x00B" + struct.pack("<I", len(inner)) + inner
    )
    path = tmp_path / "x.pkl"
    path.write_bytes(data + b"q\x01](" + b"h\x00h\x01\x85R" * 1000 + b"e.")
    with pytest.raises(UnsafeFileError, match="copies far more than it holds"):
        load(path)


def test_tuples_that_share_their_parts_over_and_over(tmp_path: Path) -> None:
    """Hashing them as a key would take longer than anyone lives."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.")
    with pytest.raises(UnsafeFileError, match="nests tuples"):
        load(path)


def test_keys_of_nested_tuples(tmp_path: Path) -> None:
    key: Any = 1
    for _ in range(opcodes.MAX_TUPLE_DEPTH):
        key = (key,)
    assert load(write(tmp_path / "x.pkl", {key: 2})) == {key: 2}
    with pytest.raises(UnsafeFileError, match="nests tuples more than 100 deep"):
        load(write(tmp_path / "x.pkl", {(key,): 2}))


def test_numbers_too_long_to_print(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFileError, match="bits"):
        load(write(tmp_path / "x.pkl", {"a": 1 << 100_000}))


def test_bare_storage(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="storage without a tensor"):
        load(write(tmp_path / "x.pkl", {"a": storage()}))


def test_classes_as_values_and_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02}ctorch\nSize\nK\x01s.")
    with pytest.raises(LayoutError, match="a key at"):
        load(path)
    path.write_bytes(b"\x80\x02ctorch\nSize\n.")
    with pytest.raises(LayoutError, match="neither a tensor nor a plain value"):
        load(path)


def test_a_torch_file_is_named_with_its_container(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    torch.save({"x": 1}, path)
    with pytest.raises(UnreadableFileError, match="not a plain pickle but a torch file; name"):
        load(path)
