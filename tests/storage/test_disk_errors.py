"""What the system says of a file becomes one error of ours, with what can be done about it."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from actstore.errors import ActstoreError, CommitError, MissingFileError, ReadError
from actstore.storage.disk_errors import content_of, named, reading, writing

PATH = Path("runs.store/manifests/0000000001.json")


def failed(number: int, *, derived: bool = False) -> ReadError:
    with pytest.raises(ReadError) as caught, reading(PATH, derived=derived):
        raise OSError(number, os.strerror(number))
    return caught.value


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EIO, "look at the disk or the network drive.*bring the file back from a copy"),
        (errno.EACCES, "let this user read it"),
        (errno.EPERM, "let this user read it"),
        (errno.EMFILE, "close files"),
        (errno.ENFILE, "close files"),
        (errno.ESTALE, "mount that again"),
        (errno.ENOENT, "if it is gone for good, bring it back from a copy"),
    ],
)
def test_the_file_what_failed_and_what_to_do_next(number: int, advice: str) -> None:
    error = failed(number)
    assert str(error).startswith(f"{PATH} cannot be read: {os.strerror(number)}. Nothing")
    assert error.path == PATH
    assert error.reason == os.strerror(number)
    assert error.errno == number
    with pytest.raises(ReadError, match=advice):
        raise error
    assert isinstance(error, FileNotFoundError) == (number == errno.ENOENT)


@pytest.mark.parametrize(
    ("number", "removed"),
    [(errno.EIO, True), (errno.ENOENT, True), (errno.EACCES, False), (errno.EMFILE, False)],
)
def test_what_is_derived_may_be_removed_where_that_helps(number: int, removed: bool) -> None:
    assert ("made anew once it is removed" in str(failed(number, derived=True))) == removed


def test_an_error_without_a_number_keeps_its_words() -> None:
    with pytest.raises(ReadError, match=r"cannot be read: it ends early\. Nothing"), reading(PATH):
        raise OSError("it ends early")


def test_errors_of_ours_go_on_as_they_are(tmp_path: Path) -> None:
    for explained in (reading(PATH), writing(tmp_path)):
        with pytest.raises(ActstoreError, match=r"^mine$") as caught, explained:
            raise CommitError("mine")
        assert type(caught.value) is CommitError


def test_it_goes_to_another_process_whole() -> None:
    error = pickle.loads(pickle.dumps(failed(errno.ENOENT)))
    assert type(error) is MissingFileError
    assert (error.path, error.errno) == (PATH, errno.ENOENT)
    assert str(error) == str(failed(errno.ENOENT))


def test_a_failing_write_names_the_store_and_the_file(tmp_path: Path) -> None:
    said = rf"store at {tmp_path}: \[Errno 28\] .*'{PATH}'; .*run this again"
    with pytest.raises(CommitError, match=said), writing(tmp_path), named(PATH):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_name_that_is_known_stays() -> None:
    with pytest.raises(OSError, match="'other'"), named(PATH):
        raise OSError(errno.EIO, "Input/output error", "other")


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert content_of(tmp_path / "a") == b"abc"
    with pytest.raises(MissingFileError, match=f"{tmp_path / 'b'} cannot be read: No such file"):
        content_of(tmp_path / "b")
