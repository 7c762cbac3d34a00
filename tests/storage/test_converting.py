"""A store's vectors in a smaller type: the same rows, in place or as another store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.errors import PrecisionError, UsageError
from actstore.storage import converting
from actstore.storage import manifest as manifests
from actstore.storage.converting import Target
from actstore.storage.going_back import go_back
from actstore.storage.labels import set_labels
from actstore.storage.manifest import Rounding
from actstore.storage.snapshot import open_snapshot
from actstore.storage.verification import verify
from tests.storage.stores import assert_sound, batch, content, write


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Rows of both types at two layers, one that overflows float16, and labels in an overlay."""
    large = batch(9, 4, dtype="float32")
    large.vectors[:] = large.vectors % 1000
    large.vectors[2, 1] = 1e5
    write(tmp_path / "s", batch(0, 9))
    write(tmp_path / "s", large)
    whole = batch(0, 5, layer=4, dtype="float32")
    whole.vectors[:] = np.arange(40).reshape(5, 8) - 20
    write(tmp_path / "s", whole)
    set_labels(open_snapshot(tmp_path / "s"), np.array([0, 9, 11, 14]), list("abcd"), message="l")
    return tmp_path / "s"


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("to", ["int8", "compact16"])
def test_rows_keep_keys_labels_and_values(
    store: Path, tmp_path: Path, to: Target, elsewhere: bool
) -> None:
    before = content(store)
    out = tmp_path / "out" if elsewhere else None
    made, run = converting.convert(open_snapshot(store), to, out=out, settings={"note": 1})
    target = store if out is None else out
    assert content(store, 4) == before
    after = content(target)
    assert after.keys() == before.keys()
    for key, (dtype, data, label) in before.items():
        was = np.frombuffer(data, dtype)[None]
        kind, now, mine = after[key]
        assert mine == label
        expected = was if kind == dtype else converting.rounded(was, to)
        assert np.array_equal(
            np.frombuffer(now, "float32" if kind == "int8" else kind), expected[0]
        )
    kinds = [(e.layer, e.dtype, e.rows) for e in made.shards]
    if to == "int8":
        assert kinds == [(3, "int8", 9), (3, "int8", 4), (4, "int8", 5)]
        assert made.shards[0].rounding is not None
    else:
        wide = [(3, "float16", 3), (3, "float32", 1), (4, "float16", 5)]
        assert kinds == [(3, "float16", 9), *wide]
        assert made.shards[3].rounding is None  # whole numbers
    assert made.runs[-1] == run
    assert run.settings == {"to": to, "from_commit": 4, "note": 1}
    assert verify(open_snapshot(target)) == []
    assert_sound(target)


def test_what_is_small_enough_stays_and_earlier_losses_are_added(store: Path) -> None:
    first, _ = converting.convert(open_snapshot(store), "compact16")
    assert [e.dtype for e in converting.changing(first.shards, "compact16")] == ["float32"]
    assert len(converting.changing(first.shards, "int8")) == 4
    second, _ = converting.convert(open_snapshot(store), "int8")
    assert converting.changing(second.shards, "compact16") == []
    lost = second.shards[1].rounding
    before = first.shards[1].rounding
    assert lost is not None
    assert before is None or (lost.values > before.values and lost.greatest >= before.greatest)
    go_back(store, 4)
    assert {e.dtype for e in open_snapshot(store).shards} == {"float16", "float32"}


def test_float16_refuses_what_overflows(store: Path) -> None:
    with pytest.raises(PrecisionError, match="row 2: a value overflows float16"):
        converting.convert(open_snapshot(store), "float16")
    assert manifests.numbers(store) == [1, 2, 3, 4]


def test_another_store_is_not_written_over(store: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", batch(0, 1))
    with pytest.raises(UsageError, match="holds a store already"):
        converting.convert(open_snapshot(store), "int8", out=tmp_path / "out")


def test_rounding_stands_in_the_manifest(tmp_path: Path) -> None:
    one = batch(0, 2, dtype="float32")
    one.vectors[:] = 1
    one.vectors[0, 0] = 1 + 2.0**-13
    write(tmp_path / "s", one)
    made, _ = converting.convert(open_snapshot(tmp_path / "s"), "float16")
    assert made.shards[0].rounding == Rounding(1, 2.0**-13)
    assert open_snapshot(tmp_path / "s").shards[0].rounding == Rounding(1, 2.0**-13)
