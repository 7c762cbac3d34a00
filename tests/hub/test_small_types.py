"""Stores of int8 and compact16 on the Hub: pushed, loaded by `datasets`, read from afar, pulled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actstore.remote.files import open_remote
from actstore.storage import quantised
from actstore.storage.snapshot import open_snapshot
from tests.hub.pulling import assert_whole, pull_from
from tests.hub.pushing import ID, client, matching, push_to
from tests.hub_server import Hub, hub_env, run_python
from tests.storage.stores import batch, content, write

pytestmark = pytest.mark.usefixtures("lfs", "quick_retries")


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A layer of int8, to which float16 and compact16 were added."""
    write(tmp_path / "mixed", batch(0, 40, dtype="float32"), narrow="int8")
    write(tmp_path / "mixed", batch(40, 5))
    one = batch(50, 5, dtype="float32")
    one.vectors[:] = 0.1
    one.vectors[2] = 1e6
    write(tmp_path / "mixed", one, narrow="compact16")
    return tmp_path / "mixed"


def test_a_push_and_a_pull_keep_the_numbers(hub: Hub, mixed: Path, tmp_path: Path) -> None:
    push_to(hub, mixed)
    matching(hub, mixed, tmp_path / "copy")
    pull_from(hub, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(mixed)
    assert [e.rounding for e in assert_whole(tmp_path / "pulled").shards] == [
        e.rounding for e in open_snapshot(mixed).shards
    ]
    # Some rows of a shard: written anew, of the same whole numbers.
    pull_from(hub, tmp_path / "part", where="example_id IN ('e3', 'e7', 'e41')")
    found, whole = content(tmp_path / "part"), content(mixed)
    assert len(found) == 3
    assert found == {key: whole[key] for key in found}
    assert "int8" in {entry.dtype for entry in open_snapshot(tmp_path / "part").shards}
    assert push_to(hub, mixed).commit is None


def test_rows_are_read_from_afar(hub: Hub, mixed: Path) -> None:
    push_to(hub, mixed)
    far, near = open_remote(f"hf://datasets/{ID}", client=client(hub)), open_snapshot(mixed)
    for rows in (np.array([3, 30, 1, 41, 47]), np.arange(49)):
        assert np.array_equal(far.gather(rows), near.gather(rows))


def test_an_archive_of_int8_is_pulled(hub: Hub, mixed: Path, tmp_path: Path) -> None:
    push_to(hub, mixed, archive=True)
    pull_from(hub, tmp_path / "pulled")
    assert content(tmp_path / "pulled") == content(mixed)


def test_datasets_loads_whole_numbers_and_scales(hub: Hub, mixed: Path, tmp_path: Path) -> None:
    push_to(hub, mixed)
    snapshot = open_snapshot(mixed)
    code = f"""
import numpy as np
from datasets import get_dataset_config_names, load_dataset
names = get_dataset_config_names({ID!r})
rows = load_dataset({ID!r}, split="train")
print(rows.features["activation"], len(rows), len(names))
data = rows.with_format("numpy")[:]
np.save({str(tmp_path / "numbers.npy")!r}, np.stack(data["activation"]))
np.save({str(tmp_path / "scales.npy")!r}, np.asarray(data["scale"], np.float32))
"""
    printed = run_python(code, hub_env(hub, tmp_path / "home")).stdout
    assert "int8" in printed
    numbers, scales = (np.load(tmp_path / f"{name}.npy") for name in ("numbers", "scales"))
    read = quantised.restore(numbers.astype(np.int8), scales)
    assert np.array_equal(read, snapshot.gather(np.arange(40)))
