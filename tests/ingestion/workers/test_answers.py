"""What came of a piece is the same after it was kept in a draft."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from actstore.ingestion.contract import Count
from actstore.ingestion.readers import Notes
from actstore.ingestion.reading import Outcome
from actstore.ingestion.report import Group, Refusal, Tally
from actstore.ingestion.sidecars import TableUse, Withheld
from actstore.ingestion.workers.answers import Kept, Read, decoded, encoded
from actstore.storage.entries import Rounding
from actstore.storage.narrowing import Part
from actstore.storage.rows import Added, RowBatch


def tally() -> Tally:
    made = Tally()
    batch = RowBatch(
        vectors=np.ones((3, 2), np.float32),
        constants={"model": "m", "site": "s", "layer": np.int64(3), "dataset": "d"},
        columns={"example_id": ["é", "b\udcff", "c"], "label": ["yes", None, "no"]},
    )
    made.add(batch, Added(2, 1, differing=1, repeated=1, bytes=16))
    made.rounded, made.nonfinite = 4, 5
    return made


@pytest.mark.parametrize(
    "read",
    [
        Read(outcome=Outcome()),
        Read(
            outcome=Outcome(
                read=2,
                tally=tally(),
                counts=Counter({Count("m", None, "s", None, "yes", 2, "float32", 0): 3}),
                refused=[Refusal("a/b.pt", "no")],
                foreign=[Refusal("c.pt", "other")],
            ),
            forms=[("a.pt", "x", {"dtype": "bfloat16", "dtypes": ("a", "b"), "rank": 3})],
            notes=Notes(["one", "two"], Counter({"three": 4})),
            tables=TableUse(
                {"queries": {Path("/in/q.json")}},
                {"queries": {("a.pt", 3): True, ("x", None, 1.5): False, "plain": True}},
                {"answers": {Path("/above/a.csv"): Withheld("../a.csv", True)}},
            ),
            shapes={"a.pt#x": ((1, 2, 3), "float16")},
            labels_asked=7,
            labels_found=6,
            losses=[Part("int8", 3, Rounding(2, 0.1)), Part("float32", 1, None)],
        ),
    ],
    ids=["nothing", "all"],
)
def test_what_is_kept_is_what_it_was(read: Read) -> None:
    kept = Kept(read, {"activations/a.parquet": [3, 4]})
    assert decoded(encoded(kept)) == kept
    found, _ = decoded(encoded(kept))
    if read.outcome.read:
        assert Group("m", "s", 3, 2, "float32") in found.outcome.tally.groups
        assert hash(("a", "b")) == hash(found.forms[0][2]["dtypes"])
    assert encoded(Kept(found, kept.replaced)) == encoded(kept)


def test_what_is_no_answer() -> None:
    for data in (b"", b"{}", b"[]", b'{"read": 1, "samples": [1]}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decoded(data)
