"""Folders of raw files in buckets become stores as folders here do, and nothing beside is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore import cli
from actstore.errors import BucketConnectionError, BucketFileError, UsageError
from actstore.remote import mirror, source_places
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.remote.syncing import sync
from actstore.storage import manifest as manifests
from tests.ingestion.storing import assert_same_rows
from tests.layouts import amber, clt, faithfulness
from tests.remote.buckets import Proxy, put_rows
from tests.torture.effort import TORTURE


def upload(folder: Path, address: str) -> None:
    held = Bucket(parse_bucket(address))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            held.put(path.relative_to(folder).as_posix(), path)


def both(folder: Path, address: str, tmp_path: Path, **options: Any) -> tuple[Any, Any]:
    """Ingest a folder, and the same files in a bucket; both give the same rows."""
    upload(folder, address)
    here = actstore.ingest(folder, tmp_path / "here", **options)
    far = actstore.ingest(address, tmp_path / "far", **options)
    assert_same_rows(tmp_path / "far", tmp_path / "here")
    return here, far


def matrices(folder: Path, files: int = 3) -> Path:
    """Write ``.npz`` files of one layer each."""
    folder.mkdir(parents=True)
    for number in range(files):
        values = np.random.default_rng(number).normal(size=(5, 8)).astype(np.float32)
        np.savez(folder / f"layer_{number}.npz", activations=values)
    return folder


@pytest.mark.parametrize(
    "layout", ["amber", "clt", "faithfulness"] if TORTURE else ["faithfulness"]
)
def test_each_layout_comes_in_as_from_a_folder(layout: str, bucket: str, tmp_path: Path) -> None:
    """Tensors by torch, tables beside them, safetensors, and all named in the record."""
    source = tmp_path / "source"
    options: dict[str, Any] = {}
    if layout == "amber":
        amber.write_samples(source, layers=2)
        options = {"model": amber.MODEL}
    elif layout == "clt":
        clt.write_multi_target(source, batches=2)
        options = {"model": "org/m"}
    else:
        faithfulness.write_v1(source)
    here, far = both(source, f"{bucket}/raw/source", tmp_path, **options)
    assert (far.recipe, far.files_read) == (here.recipe, here.files_read)
    for name in ("notes", "labels", "layers", "sites", "datasets"):
        assert getattr(far, name) == getattr(here, name), name
    settings = manifests.load(tmp_path / "far").runs[0].settings
    assert settings["sources"] == [f"{bucket}/raw/source"]


def test_one_object_and_one_bucket_into_another(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = matrices(tmp_path / "source")
    upload(source, f"{bucket}/raw")
    words = ["--model", "m", "--site", "resid_post", "--yes"]
    one = f"{bucket}/raw/layer_1.npz"
    assert cli.run(["ingest", one, "--store", f"{bucket}/one.store", *words]) == 0
    assert cli.run(["ingest", f"{bucket}/raw", "--store", f"{bucket}/all.store", *words]) == 0
    assert actstore.open(f"{bucket}/one.store").rows == 5
    assert actstore.open(f"{bucket}/all.store").rows == 15
    capsys.readouterr()
    assert cli.run(["ingest", f"{bucket}/raw", "--store", f"{bucket}/all.store", *words]) == 0
    assert "15" in capsys.readouterr().out
    assert actstore.open(f"{bucket}/all.store").rows == 15


def test_nothing_outside_the_address_is_listed_or_read(
    bucket: str, proxy: Proxy, tmp_path: Path
) -> None:
    source = matrices(tmp_path / "source")
    upload(source, f"{bucket}/raw/inner")
    for name in ("raw/labels.csv", "raw/inner2/layer_9.npz", "raw/innermost.npz", "secret.json"):
        Bucket(parse_bucket(bucket)).put(name, b"not for you")
    proxy.fail(None)
    done = actstore.ingest(
        f"{bucket}/raw/inner", tmp_path / "s", model="m", site="resid_post", yes=True
    )
    assert (done.rows_written, done.refused) == (15, ())
    lists = [each for each in proxy.seen if "list-type" in each]
    gets = {each.split("?")[0] for each in proxy.seen if "list-type" not in each}
    assert lists
    assert all("prefix=raw%2Finner%2F" in each for each in lists)
    name = bucket.removeprefix("s3://")
    assert gets == {f"GET /{name}/raw/inner/layer_{number}.npz" for number in range(3)}


def test_an_object_that_is_replaced_meanwhile_is_refused(bucket: str, tmp_path: Path) -> None:
    source = matrices(tmp_path / "source")
    upload(source, f"{bucket}/raw")
    place = source_places.BucketPlace(parse_bucket(f"{bucket}/raw"))
    data = (source / "layer_1.npz").read_bytes()
    Bucket(parse_bucket(f"{bucket}/raw")).put("layer_1.npz", bytes(len(data)))
    place.bring("layer_0.npz", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == (source / "layer_0.npz").read_bytes()
    with pytest.raises(BucketFileError, match=r"layer_1\.npz of .* was replaced while"):
        place.bring("layer_1.npz", tmp_path / "x")
    with pytest.raises(BucketFileError, match="was replaced"):
        place.read_range("layer_1.npz", 0, 10)
    Bucket(parse_bucket(f"{bucket}/raw")).delete(["layer_2.npz"])
    with pytest.raises(BucketFileError, match="was removed"):
        place.read_range("layer_2.npz", 0, 10)


def test_what_cannot_be_a_source_is_told(bucket: str, tmp_path: Path) -> None:
    held = Bucket(parse_bucket(f"{bucket}/raw"))
    with pytest.raises(UsageError, match="nothing in the bucket has a name that begins so"):
        actstore.ingest(f"{bucket}/nothing", tmp_path / "s")
    put_rows(f"{bucket}/a.store", 0)
    with pytest.raises(UsageError, match="holds a store already: copy it with: actstore sync"):
        actstore.ingest(f"{bucket}/a.store", tmp_path / "s")
    held.put("x.npy", b"data")
    held.put("x.npy/y.npy", b"data")
    with pytest.raises(BucketFileError, match=r"cannot be a file and a folder at once"):
        actstore.ingest(f"{bucket}/raw", tmp_path / "s")
    held.delete(["x.npy", "x.npy/y.npy"])
    held.put(f"{'n' * 300}.npy", b"data")
    with pytest.raises(BucketFileError, match="a name that no file can have"):
        actstore.ingest(f"{bucket}/raw", tmp_path / "s")
    assert not (tmp_path / "s" / "manifests").exists()


def test_empty_objects_that_stand_for_folders_are_none(bucket: str, tmp_path: Path) -> None:
    source = matrices(tmp_path / "source")
    upload(source, f"{bucket}/raw/inner")
    place = source_places.BucketPlace(parse_bucket(f"{bucket}/raw"))
    assert sorted(place.files) == [f"inner/layer_{number}.npz" for number in range(3)]
    Bucket(parse_bucket(f"{bucket}/raw")).put("inner", b"")
    again = source_places.BucketPlace(parse_bucket(f"{bucket}/raw"))
    assert again.files == place.files


def test_a_bucket_that_stops_answering_ends_the_run_and_keeps_what_is_whole(
    bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "KEPT", 0)
    source = matrices(tmp_path / "source", files=6)
    upload(source, f"{bucket}/raw")
    options: dict[str, Any] = {"model": "m", "site": "resid_post", "yes": True}
    proxy.fail(None)
    actstore.ingest(f"{bucket}/raw", tmp_path / "whole", **options)
    requests = len(proxy.seen)
    proxy.stays = True
    proxy.fail("500", requests - 2)
    with pytest.raises(BucketConnectionError):
        actstore.ingest(f"{bucket}/raw", tmp_path / "s", **options)
    proxy.stays = False
    proxy.fail(None)
    done = actstore.ingest(f"{bucket}/raw", tmp_path / "s", **options)
    assert done.rows_present + done.rows_written == 30
    sync(tmp_path / "s", tmp_path / "copy")
    assert actstore.open(tmp_path / "copy").rows == 30
