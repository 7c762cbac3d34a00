"""Paths that others name become open files, or one error that says why they do not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from actstore import paths
from actstore.errors import PathError, UsageError

ADDRESSES = (
    "s3://bucket/key",
    "gs://bucket/key",
    "az://box/key",
    "abfss://box@account/key",
    "http://host/x",
    "https://host/x",
    "file:///tmp/x",
    "memory://x",
    "HF://datasets/o/n",
    "hf://datasets/o/n",
    "runs+s3://x/y",
)


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses_are_no_paths(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (text, Path(text)):  # which keeps one slash of two
        with pytest.raises(PathError, match="on this machine"):
            paths.local(given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["C:/x", "a/s3://x", "/abs/s3:/x", "a:b", "time 12:00", "ü/ß", "x:"]
)
def test_what_only_looks_like_an_address(text: str) -> None:
    assert paths.local(text) == Path(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty path"),
        ("a\0b", "NUL"),
        ("n" * 256, "too long"),
        ("ü" * 128, "too long"),
        ("d/" + "n" * 300 + "/e", "too long"),
        ("d/" * 2100, "too long"),
    ],
)
def test_names_that_no_disk_can_hold(text: str, reason: str) -> None:
    with pytest.raises(PathError, match=reason) as caught:
        paths.local(text)
    assert len(str(caught.value)) < 250
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/acts/d/t.json: broken", "d/t.json: broken"),
        ("2 files fit in /home/me/acts (a, b)", "2 files fit in the source (a, b)"),
        ("It is in /home/me/acts.", "It is in the source."),
        ("[Errno 2] Failed: '/home/me/acts/a.pt'", "[Errno 2] Failed: 'a.pt'"),
        ("/home/me/acts2/a and /home/me/acts.old/b", "acts2/a and acts.old/b"),
        ("of /home/me/t.csv and /home/me/tables/x/y.csv", "of t.csv and tables/x/y.csv"),
        ("../you/o.csv: row 1", "o.csv: row 1"),
        ("d/home/me/acts/t.json: broken", "d/home/me/acts/t.json: broken"),
        (repr("/home/me/it's \u200b/e.pt"), repr("e.pt").replace("'", '"')),
        ("near.csv: row 1", "near.csv: row 1"),
    ],
)
def test_texts_that_others_read_have_no_folders(text: str, shown: str) -> None:
    folders = {Path("/home/me/acts"): "the source", Path("/home/me/it's \u200b"): "that"}
    tables = ["/home/me/t.csv", "/home/me/tables", "../you/o.csv", "near.csv"]
    assert paths.shareable(text, folders, map(Path, tables)) == shown


def test_a_store_may_be_named_by_a_file_address(tmp_path: Path) -> None:
    assert paths.local_store(tmp_path / "s") == tmp_path / "s"
    assert paths.local_store("s.store") == Path("s.store")
    assert paths.local_store(f"FILE://{tmp_path}/with%20space") == tmp_path / "with space"
    with pytest.raises(PathError, match="three slashes"):
        paths.local_store("file://elsewhere/s")


def test_names_of_every_script_are_names(tmp_path: Path) -> None:
    for name in ("актив", "活性化", "ενεργ", "تنشيط", "🧠", "a b\tc", "-x", "'\"$(x)`", "n" * 255):
        (tmp_path / name).write_bytes(name.encode())
        assert paths.read_text(tmp_path / name) == name
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    odd.write_bytes(b"x")
    assert paths.read_bytes(odd) == b"x"


@pytest.fixture
def things(tmp_path: Path) -> Iterator[Path]:
    """One of everything that a path can lead to."""
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as server:
        home = os.open(tmp_path, os.O_RDONLY)  # the whole path would be too long for a socket
        try:
            server.bind(f"/proc/self/fd/{home}/socket")
        finally:
            os.close(home)
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "is a folder, not a file"),
        ("pipe", r"is a FIFO \(a named pipe\), not a file"),
        ("socket", "is a socket, not a file"),
        ("null", "is a device, not a file"),
        ("dangling", "is a link to something that is not there"),
        ("round", "cannot be opened: Too many levels"),
        ("nothing", "no such file"),
        ("file/x", "cannot be opened: Not a directory"),
    ],
)
def test_only_files_are_opened_and_nothing_is_waited_for(
    things: Path, name: str, reason: str
) -> None:
    with pytest.raises(PathError, match=reason):
        paths.open_file(things / name)


def test_a_folder_or_nothing(things: Path) -> None:
    for name in ("folder", "nothing"):
        assert paths.require_folder_or_nothing(things / name) == things / name
    for name in ("file", "pipe", "socket", "null", "dangling", "round", "link"):
        with pytest.raises(PathError, match=name):
            paths.require_folder_or_nothing(things / name)
    for name in ("file", "link", "folder", "nothing"):
        assert paths.require_ordinary(things / name) == things / name
    for name in ("pipe", "socket", "null", "dangling"):
        with pytest.raises(PathError, match=name):
            paths.require_ordinary(things / name)


def test_a_file_is_opened_only_where_it_really_lies_within(things: Path) -> None:
    (things / "folder/inner").symlink_to("../file")
    home, folder = paths.real(things), paths.real(things / "folder")
    assert paths.read_bytes(things / "folder/inner", [home]) == b"text"
    assert paths.read_bytes(things / "link", [folder, home]) == b"text"
    with pytest.raises(PathError, match="leads out of the folders"):
        paths.read_bytes(things / "folder/inner", [folder])
    with pytest.raises(PathError, match="leads out"):
        paths.read_bytes(things / "folder/../file", [folder])


def test_what_is_asked_is_where_the_open_file_lies(
    things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is changed between the look and the opening; without /proc likewise."""
    (things / "folder/own").write_bytes(b"own")
    real_open, folder = os.open, paths.real(things / "folder")

    def swapped(path: Path, flags: int) -> int:
        if Path(path).name == "own":
            Path(path).unlink()
            Path(path).symlink_to(things / "file")
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", swapped)
    for descriptors in ("/proc/self/fd", "/nowhere"):
        monkeypatch.setattr(paths, "_DESCRIPTORS", descriptors)
        with pytest.raises(PathError, match="leads out"):
            paths.open_file(things / "folder/own", [folder])
        (things / "folder/own").unlink()
        (things / "folder/own").write_bytes(b"own")


def test_how_a_file_differs_from_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def after(change: str) -> str:
        path.write_bytes(b"12345")
        os.utime(path, ns=(1, 1))
        before = paths.states(path)
        assert paths.change(path, before) is None
        if change == "grow":
            path.write_bytes(b"1234567")
        elif change == "shrink":
            os.truncate(path, 2)
        elif change == "write":
            with path.open("r+b") as file:
                file.write(b"x")
        elif change == "replace":
            (tmp_path / "b").write_bytes(b"12345")
            os.utime(tmp_path / "b", ns=(1, 1))
            (tmp_path / "b").replace(path)
        else:
            path.unlink()
        return paths.change(path, before) or ""

    assert "grew from 5 to 7 bytes" in after("grow")
    assert "shrank from 5 to 2 bytes" in after("shrink")
    assert "was written to" in after("write")
    assert "was replaced" in after("replace")
    assert "is gone" in after("remove")


def test_how_a_folder_differs_from_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a").write_bytes(b"1")
    before = paths.states(tmp_path)
    assert paths.change(tmp_path, before) is None
    (tmp_path / "in/b").write_bytes(b"2")
    assert "was changed while it was read" in (paths.change(tmp_path, before) or "")
