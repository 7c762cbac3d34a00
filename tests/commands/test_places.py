"""Every argument that is a path, given what is none: one line, exit code 2, and no waiting."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from actstore.remote.bucket_address import is_bucket
from tests.commands.conftest import Command

PATIENCE = 60
"""Seconds after which a command that waits for a pipe's writer is said to hang."""

STORE_ARGUMENTS = (
    "info {}",
    "query {} 'SELECT 1'",
    "log {}",
    "verify {}",
    "report {} -o new.html",
    "probe {} --label label",
    "nearest {} --vector [1]",
    "compact {}",
    "label {} t.csv --on example_id",
    "drop {} true --yes",
    "export {} new --to npz",
    "push {} org/name",
    "stats {}",
)
NEW_STORES = (
    "ingest acts --model m --store {}",
    "capture --data q.jsonl --model m --store {}",
    "pull org/name {}",
)
FILES = (
    "ingest {} --model m --store new",
    "ingest acts --model m --store new --recipe {}",
    "ingest acts --model m --store new --labels {} --on example_id",
    "ingest acts --model m --store new --contract {}",
    "label runs.store {} --on example_id",
    "query runs.store --name {}",
    "capture --data {} --model m --store new --layers 0",
    "nearest runs.store --vector {}",
    "recipes --from {}",
)
OUTPUTS = (
    "export runs.store {} --to npz",
    "select runs.store -o {}",
    "query runs.store 'SELECT 1' -o {}",
    "report runs.store -o {}",
    "plot runs.store --kind norms -o {}",
    "probe runs.store --label label -o {}",
    "nearest runs.store --vector [1] -o {}",
    "score runs.store --probe acts -o {}",
    "steer runs.store --label label -o {}",
    "validate runs.store --vectors acts --label label -o {}",
    "view runs.store -o {}",
    "convert runs.store --to float16 -o {}",
)
ADDRESSES = ("s3://bucket/x", "file:///tmp/x", "http://host/x.toml", "memory://x.toml")


@pytest.fixture
def here(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a store, activations, and things that are no files; never waits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acts").mkdir()
    np.savez(tmp_path / "acts/a.npz", v=np.ones((1, 3), np.float32))
    (tmp_path / "t.csv").write_text("example_id,label\ne1,x\n")
    for name in ("pipe", "pipe.toml", "pipe.csv", "pipe.sql", "pipe.jsonl", "pipe.npy"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "dangling").symlink_to("nowhere")

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the command waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def words(command: str, place: str) -> list[str]:
    """The words of a command line, with a place put in."""
    return [word.replace("{}", place) for word in shlex.split(command)]


def told(actstore: Command, here: Path, command: str, place: str) -> str:
    """Run a command that must refuse a place; return what it said."""
    before = sorted(os.listdir(here))
    finished = actstore(*words(command, place))
    assert (finished.code, finished.out) == (2, ""), (command, place, finished)
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1, finished.err
    assert "no option" not in finished.err, finished.err
    assert "Missing" not in finished.err, finished.err
    assert sorted(os.listdir(here)) == before
    return finished.err


@pytest.mark.parametrize("place", ADDRESSES)
def test_unknown_schemes(actstore: Command, here: Path, place: str) -> None:
    for command in (*FILES, *OUTPUTS):
        source_in_bucket = command.startswith("ingest {}") and is_bucket(place)
        if not command.startswith("recipes") and not source_in_bucket:
            assert "on this machine" in told(actstore, here, command, place), command


@pytest.mark.parametrize("place", ["http://host/x", "ftp://host/x", "file://host/x", "s3://"])
def test_no_store_has_such_an_address(actstore: Command, here: Path, place: str) -> None:
    for command in (*STORE_ARGUMENTS, *NEW_STORES):
        said = told(actstore, here, command, place)
        assert re.search("on this machine|three slashes|names no bucket", said), command


@pytest.mark.parametrize("place", ["hf://datasets/org/name"])
def test_the_hub_is_no_place_to_write_to(actstore: Command, here: Path, place: str) -> None:
    for command in (*NEW_STORES, *OUTPUTS):
        assert "on this machine" in told(actstore, here, command, place), command


def test_a_dash_is_no_file(actstore: Command, here: Path) -> None:
    for command in OUTPUTS:
        assert "does not stand for standard output" in told(actstore, here, command, "-"), command


@pytest.mark.parametrize("place", ["pipe", "null", "dangling", "n" * 300, "t.csv/x", "a\0b"])
def test_what_is_neither_file_nor_folder(actstore: Command, here: Path, place: str) -> None:
    for command in (*STORE_ARGUMENTS, *NEW_STORES, *FILES, *OUTPUTS):
        told(actstore, here, command, place)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("ingest acts --model m --store new --recipe {}", "pipe.toml"),
        ("ingest acts --model m --store new --labels {} --on example_id", "pipe.csv"),
        ("label runs.store {} --on example_id", "pipe.csv"),
        ("query runs.store --name {}", "pipe.sql"),
        ("capture --data {} --model m --store new --layers 0", "pipe.jsonl"),
        ("nearest runs.store --vector {}", "pipe.npy"),
    ],
)
def test_pipes_of_any_name(actstore: Command, here: Path, command: str, place: str) -> None:
    assert "FIFO" in told(actstore, here, command, place)


def test_a_file_where_a_folder_belongs_and_the_reverse(actstore: Command, here: Path) -> None:
    for command in (*STORE_ARGUMENTS, *NEW_STORES):
        told(actstore, here, command, "t.csv")
    for command in FILES[1:-1]:
        told(actstore, here, command, "acts")


def test_a_pipe_among_the_sources_files_is_left_out_and_named(
    actstore: Command, here: Path
) -> None:
    os.mkfifo(here / "acts/b.npz")
    finished = actstore("ingest", "acts", "--model", "m", "--store", "new", "--yes")
    assert finished.code == 0, finished.err
    assert "b.npz, which is a FIFO" in finished.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(actstore: Command, here: Path) -> None:
    (here / "shut").mkdir(mode=0)
    for command in (*STORE_ARGUMENTS, *NEW_STORES, *FILES):
        told(actstore, here, command, "shut/x")


def test_two_names_that_differ_in_case_are_two_files(actstore: Command, here: Path) -> None:
    np.savez(here / "acts/A.npz", v=np.ones((1, 3), np.float32))
    finished = actstore("ingest", "acts", "--model", "m", "--store", "new", "--yes", "--json")
    assert finished.code == 0, finished.err
    assert '"files_read": 2' in finished.out
