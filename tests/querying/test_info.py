"""What a store says of itself."""

import json
from pathlib import Path

from actstore.querying import info
from actstore.storage.compaction import compact
from actstore.storage.snapshot import open_snapshot
from tests.querying import places, stores


def test_numbers(tmp_path: Path) -> None:
    stores.mixed(tmp_path / "s")
    stores.add(
        tmp_path / "s", stores.vectors(2, 4, "float16", 5), model="a/small", site="mlp_out",
        layer=None, label=["yes", None],
    )  # fmt: skip
    found = info.describe(open_snapshot(tmp_path / "s"))
    assert (found.commit, found.commits, found.runs) == (3, 3, 1)
    assert (found.rows, found.shards) == (10, 3)
    assert found.models == ("a/small", "b/large")
    assert found.sites == ("mlp_out", "resid_post")
    assert found.layers == (0, 7, None)
    assert found.widths == (4, 6)
    assert found.dtypes == ("float16", "float32")
    assert list(found.labels.items()) == [("yes", 4), ("no", 3), (None, 3)]
    assert found.vector_bytes == 5 * 4 * 2 + 3 * 6 * 4 + 2 * 4 * 2
    assert found.bytes == sum(
        path.stat().st_size for path in (tmp_path / "s" / "activations").rglob("*.parquet")
    )
    assert [(part.site, part.layer, part.rows) for part in found.partitions] == [
        ("mlp_out", None, 2),
        ("resid_post", 0, 5),
        ("resid_post", 7, 3),
    ]
    document = json.loads(json.dumps(found.as_dict()))
    assert document["labels"] == {"yes": 4, "no": 3}
    assert document["unlabelled"] == 3
    assert document["partitions"][0]["dtype"] == "float16"


def test_only_types_that_would_save_bytes_are_named(tmp_path: Path) -> None:
    stores.add(tmp_path, stores.vectors(4, 64, "float16", 0))
    # float16 is what compact16 would store; a scale of 4 bytes goes with each row of int8.
    assert info.describe(open_snapshot(tmp_path)).vector_bytes_as == {"int8": 4 * (64 + 4)}


def test_poolings_and_regions_are_told_apart(tmp_path: Path) -> None:
    pools = (("last", "prompt"), ("mean", "prompt"), ("mean", None))
    places.write(tmp_path, places.places(pools=pools[:2], layer=(3, 7)), examples=5)
    places.write(tmp_path, places.places(pools=pools[2:], layer=(7,)), examples=4)
    snapshot = open_snapshot(tmp_path)
    found = info.describe(snapshot)
    assert found.poolings == ("last", "mean")
    assert found.regions == ("prompt", None)
    told = [(part.layer, part.pooling, part.region, part.rows) for part in found.partitions]
    assert told == [
        (3, "last", "prompt", 5),
        (3, "mean", "prompt", 5),
        (7, "last", "prompt", 5),
        (7, "mean", "prompt", 5),
        (7, "mean", None, 4),
    ]
    # Every byte is counted once.
    assert sum(part.bytes for part in found.partitions) == found.bytes
    assert [part.shards for part in found.partitions] == [1] * 5
    document = json.loads(json.dumps(found.as_dict()))
    assert document["partitions"][4]["region"] is None
    compact(tmp_path)
    merged = info.describe(open_snapshot(tmp_path)).partitions
    assert [(part.layer, part.pooling, part.region, part.rows) for part in merged] == told
