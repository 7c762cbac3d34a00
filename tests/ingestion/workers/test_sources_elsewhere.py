"""Files on the Hub and in buckets, read by the workers of a cluster as by one process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import actstore
from actstore.errors import ActstoreError, UsageError
from actstore.ingestion.report import Progress
from actstore.ingestion.workers import pieces
from actstore.remote import source_places
from actstore.remote.bucket import Bucket
from actstore.remote.bucket_address import parse_bucket
from actstore.storage import manifest as manifests
from tests.capturing import clusters
from tests.hub_server import Hub
from tests.hub_server.fixtures import *  # noqa: F403
from tests.ingestion.workers.driving import assert_as_alone, told_of
from tests.layouts import amber
from tests.remote import buckets
from tests.remote.bucket_fixtures import *  # noqa: F403
from tests.torture.effort import TORTURE

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.usefixtures("lfs", "quick_retries", "small"),
]
long = pytest.mark.skipif(not TORTURE, reason="takes minutes: make torture")
RAW = "hf://datasets/alice/raw"
SAMPLES, LAYERS = 40, 2
NAMES = [f"sample_{number:04}.pt" for number in range(SAMPLES)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two small files."""
    monkeypatch.setattr(pieces, "_LEAST", 2 * pieces._FILE + (64 << 10))


@contextlib.contextmanager
def ray_with(folder: Path, **variables: str) -> Iterator[Path]:
    """A Ray of two cores whose workers have these variables."""
    import ray

    before = dict(os.environ)
    os.environ.update(clusters.environment(folder) | variables)
    ray.init("local", num_cpus=2, log_to_driver=False, **clusters.SMALL)
    try:
        yield folder
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


def write(folder: Path) -> dict[str, bytes]:
    """Samples with tables beside them, one of them damaged; return all files."""
    amber.write_samples(folder, samples=SAMPLES, layers=LAYERS)
    amber.write_responses(folder, SAMPLES)
    (folder / "sample_0007.pt").write_bytes(b"no activations" * 999)
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_told_alike(source: str, folder: Path, **options: Any) -> None:
    """Ingest by one process and by Ray: both tell and store the same."""
    told: list[Any] = []
    engines: dict[str, dict[str, Any]] = {"alone": {}, "ray": {"engine": "ray", "workers": 2}}
    for name, engine in engines.items():
        try:
            found = actstore.ingest(source, folder / name, model="m", **options, **engine)
            told.append(told_of(found.as_dict()))
        except ActstoreError as error:
            told.append((type(error), str(error)))
    assert told[0] == told[1]
    if (folder / "alone").exists():
        assert_as_alone(folder / "ray", folder / "alone")
        runs = [manifests.latest(folder / name).runs[-1] for name in ("alone", "ray")]
        assert runs[0].settings["sources"] == runs[1].settings["sources"]
        assert runs[0].settings["forms"] == runs[1].settings["forms"]


def asked_for(hub: Hub) -> set[str]:
    """The samples that were fetched."""
    return {name for each in hub.log.entries() for name in NAMES if name in each.path}


def test_a_repository(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    files = write(tmp_path / "source")
    hub.create("alice/raw", files)
    with ray_with(tmp_path / "mark"):
        assert_told_alike(RAW, tmp_path / "pieces")
        assert_told_alike(RAW, tmp_path / "refused", strict=True)
        assert_told_alike(RAW, tmp_path / "whole", replace=True)
        for replace in (False, True):  # piece by piece, and as one commit
            store = tmp_path / f"again {replace}"
            goes_on(hub, RAW, store, replace)
            assert_as_alone(store, tmp_path / "pieces/alone")
        local = tmp_path / "local"
        goes_on(None, str(tmp_path / "source"), local, replace=True)


def goes_on(hub: Hub | None, source: str, store: Path, replace: bool) -> None:
    """Break an ingest by Ray off; the next one fetches nothing that is stored."""

    def broken_off(done: Progress) -> None:
        if done.files >= 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"model": "m", "engine": "ray", "workers": 2, "replace": replace}
    with pytest.raises(KeyboardInterrupt):
        actstore.ingest(source, store, progress=broken_off, **options)
    kept = [path.read_text() for path in store.glob(".cache/ingest-*/*/records/*.json")]
    assert bool(kept) == replace
    for text in kept:
        assert "model_responses.jsonl" in text
        assert str(store.parent) not in text
        assert tempfile.gettempdir() not in text
    if hub is not None:
        hub.reset()
    told: list[str] = []
    found = actstore.ingest(source, store, note=told.append, **options)
    assert any("files not read again" in each for each in [*told, *found.notes])
    if hub is not None:
        assert "sample_0002.pt" not in asked_for(hub)
        assert "sample_0033.pt" in asked_for(hub)
    joined = SAMPLES - 1 - (0 if replace else 4)
    assert f"sidecar responses: model_responses.jsonl, joined {joined} of {joined}" in found.notes
    assert not found.unmatched


@long
def test_a_bucket(bucket: str, s3_server: str, tmp_path: Path) -> None:
    for name, data in write(tmp_path / "source").items():
        Bucket(parse_bucket(f"{bucket}/raw")).put(name, data)
    with ray_with(tmp_path / "mark", **buckets.variables(s3_server)):
        assert_told_alike(f"{bucket}/raw", tmp_path / "pieces")
        assert_told_alike(f"{bucket}/raw", tmp_path / "whole", replace=True)


def test_a_source_that_no_worker_can_see_is_refused(tmp_path: Path) -> None:
    for name, data in write(tmp_path / "source").items():
        Bucket(parse_bucket("memory://raw/here")).put(name, data)
    with pytest.raises(UsageError, match=r"memory://raw/here is in .* no worker can read"):
        actstore.ingest("memory://raw/here", tmp_path / "s", model="m", engine="ray", workers=2)
    assert not (tmp_path / "s").exists()


def test_a_place_that_is_sent_holds_no_credentials(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    hub.create("alice/raw", write(tmp_path / "source"))
    place = source_places.place_of(RAW)
    sent = pickle.dumps(place)
    assert b"hf_write" not in sent
    hub.commit("alice/raw", {"sample_0001.pt": b"another"})
    found = pickle.loads(sent)
    assert (found.pinned, found.files) == (place.pinned, place.files)
    found.bring("sample_0001.pt", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "source/sample_0001.pt").read_bytes()
