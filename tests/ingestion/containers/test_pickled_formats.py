"""What plain pickles and both torch formats refuse alike, since a pickle is inside each of them."""

from __future__ import annotations

import datetime
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import IngestError, UnsafeFileError
from actstore.ingestion.containers import mapping, read
from tests.ingestion.containers.pickled import Reduced, storage

Refused = Callable[[object], Any]
REBUILD = torch._utils._rebuild_tensor_v2


@pytest.fixture(params=["pickle", "torch zip", "mapped torch zip", "legacy torch"])
def load(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a value into a file of the format, and read it."""
    form: str = request.param
    if form.startswith("mapped"):
        monkeypatch.setattr(mapping, "MAP_FROM", 1)

    def loaded(value: object) -> Any:
        path = tmp_path / "x.file"
        if form == "pickle":
            path.write_bytes(pickle.dumps(value))
            return read("pickle", path)
        torch.save(value, path, _use_new_zipfile_serialization=form != "legacy torch")
        return read("torch", path)

    return loaded


def test_code_never_runs(load: Refused, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with pytest.raises(UnsafeFileError, match=r"x\.file: refused: it holds (posix|nt)\.system"):
        load({"x": torch.zeros(2), "evil": Reduced(os.system, f"touch {flag}")})
    assert not flag.exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, (1000,), (1,)), "needs 4,000 bytes"),
        ((2, (4,), (1,)), "reaches outside"),
        ((0, (2, 2), (3, 1)), "reaches outside"),
        ((10**9, (1,), (1,)), "reaches outside"),
        ((-1, (4,), (1,)), "no natural number"),
        ((0, (4,), (-1,)), "no natural number"),
        ((0, (-4,), (1,)), "no natural number"),
        ((0, (2**61,), (0,)), "needs"),
        ((0, (2**70,), (0,)), "no natural number"),
        ((0, (1000, 1000), (0, 0)), "needs 4,000,000 bytes"),
        ((0, (4,), (1, 1)), "1 axes and 2 strides"),
        ((True, (4,), (1,)), "no natural number"),
        ((0.0, (4,), (1,)), "no natural number"),
        ((0, ("4",), (1,)), "no natural number"),
        ((0, "abcd", (1,)), "is a str"),
    ],
)
def test_tensors_stay_inside_their_storage(load: Refused, arguments: Any, named: str) -> None:
    with pytest.raises(UnsafeFileError, match=rf"x\.file: .*{named}"):
        load({"x": Reduced(REBUILD, storage(), *arguments, False, OrderedDict())})


@pytest.mark.parametrize(
    "call",
    [
        (REBUILD, "no storage", 0, (1,), (1,), False, OrderedDict()),
        (REBUILD, b"raw", 0, (4,), (1,), False, {}),
        (REBUILD, storage(), 0, (4,), (1,), False, {"hook": len}),
        (REBUILD, storage(), 0, (4,), (1,), False, OrderedDict(), [1]),
        (REBUILD, storage(), 0, (4,), (1,), False, {1: 2}),
        (REBUILD, storage(), 0, (4,), (1,), False, None, {"x": 1}),
        (torch._utils._rebuild_tensor_v3, storage(), 0, (4,), (1,), False, None, "float32"),
        (torch._utils._rebuild_parameter, [1], False, OrderedDict()),
        (OrderedDict, 5),
        (OrderedDict, {"a": 1}, "more"),
        (set, 5),
        (bytearray, 1 << 50),
        (datetime.datetime, 1),
        (np.dtype, "O"),
        (np.dtype, [("a", "f4")]),
        (torch.Size, ["a"]),
        (torch.FloatTensor, 1 << 40),
        (torch.UntypedStorage, 1 << 40),
        (torch.storage._load_from_bytes, b"x"),
        (torch.load, "x"),
        (eval, "1"),
    ],
    ids=lambda call: getattr(call[0], "__name__", "call"),
)
def test_allowed_names_with_wrong_arguments(load: Refused, call: Any) -> None:
    with pytest.raises(IngestError, match=r"x\.file"):
        load({"x": Reduced(*call)})


@pytest.mark.parametrize("state", [{"data": 1}, (None, {"grad": 1})], ids=repr)
def test_state_set_on_a_finished_tensor(load: Refused, state: Any) -> None:
    with pytest.raises(IngestError, match=r"x\.file"):
        load(Reduced(REBUILD, storage(), 0, (4,), (1,), False, {}, state=state))


@pytest.mark.parametrize(
    "array",
    [np.array([object], dtype=object), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]")],
    ids=lambda array: str(array.dtype),
)
def test_arrays_that_are_no_numbers(load: Refused, array: np.ndarray) -> None:
    with pytest.raises(IngestError, match=r"x\.file"):
        load(array)


def test_structures_that_contain_themselves(load: Refused) -> None:
    knot: list[Any] = [torch.zeros(1)]
    knot.append({"again": knot})
    with pytest.raises(UnsafeFileError, match="contains itself"):
        load(knot)


def test_a_billion_laughs(load: Refused) -> None:
    value: list[Any] = ["ha"]
    for _ in range(40):
        value = [value] * 10
    with pytest.raises(UnsafeFileError, match="unfolds into more than"):
        load(value)


def test_deep_nesting(load: Refused) -> None:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    with pytest.raises(UnsafeFileError, match="deep"):
        load(value)
