"""A target appears as a whole or not at all, and nothing of others is lost."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from actstore.errors import ActstoreError, ExportError, OfflineError, ReadError
from actstore.exporting.folder import MARK, mark, replacing
from actstore.exporting.tensors import save
from tests.commands.test_outputs_on_full_disks import little_room


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(error: BaseException) -> None:
        with replacing(tmp_path / "deep/out", overwrite=False, needed=0) as draft:
            (draft / "file").write_text("half")
            raise error

    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    with pytest.raises(ExportError, match="disk is full; nothing was left there"):
        fail(OSError(errno.ENOSPC, "No space left on device"))
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_torch_says_of_a_full_disk_is_no_traceback(tmp_path: Path) -> None:
    with (
        little_room(4096),
        pytest.raises(ExportError, match=r"out: cannot be written: .*; nothing was left there"),
        replacing(tmp_path / "out", overwrite=False, needed=0) as draft,
    ):
        save({"x": torch.zeros(1 << 16)}, draft / "x.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [ReadError("no shard x", Path("x"), "", errno.EIO), OfflineError("no shard x")],
    ids=repr,
)
def test_a_store_that_cannot_be_read_is_said_as_that(tmp_path: Path, error: ActstoreError) -> None:
    with (
        pytest.raises(type(error), match=r"^no shard x$"),
        replacing(tmp_path / "out", overwrite=False, needed=0),
    ):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_said_before(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"the files take about .* are free"),
        replacing(tmp_path / "out", overwrite=False, needed=1 << 62),
    ):
        pytest.fail("nothing may be written")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replacing(out, overwrite=False, needed=0) as draft:
        (draft / "a").write_text("1")
        mark(draft, {"layout": "npz"})
    with (
        pytest.raises(ExportError, match="--overwrite replaces all of it"),
        replacing(out, overwrite=False, needed=0),
    ):
        pytest.fail("nothing may be written")
    with pytest.raises(ZeroDivisionError), replacing(out, overwrite=True, needed=0):
        _ = 1 / 0
    assert (out / "a").read_text() == "1"
    with replacing(out, overwrite=True, needed=0) as draft:
        (draft / "b").write_text("2")
        mark(draft, {"layout": "npz"})
    assert sorted(path.name for path in out.iterdir()) == [MARK, "b"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_of_others_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for target in (out, out / "thesis.tex"):
        with pytest.raises(ExportError), replacing(target, overwrite=overwrite, needed=0):
            pytest.fail("nothing may be written")
    link = tmp_path / "link"
    link.symlink_to(out)
    with (
        pytest.raises(ExportError, match="is no folder"),
        replacing(link, overwrite=overwrite, needed=0),
    ):
        pytest.fail("nothing may be written")
    assert (out / "thesis.tex").read_text() == "years of work"


def test_files_that_others_put_beside_an_export_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replacing(out, overwrite=False, needed=0) as draft:
        (draft / "layer").mkdir()
        (draft / "layer/a").write_text("1")
        mark(draft, {"layout": "npz"})
    (out / "layer/sae.pt").write_text("days of training")
    with (
        pytest.raises(ExportError, match=r"did not write \(layer/sae.pt\)"),
        replacing(out, overwrite=True, needed=0),
    ):
        pytest.fail("nothing may be written")
    (out / "layer/sae.pt").rename(tmp_path / "sae.pt")
    with replacing(out, overwrite=True, needed=0) as draft:
        mark(draft, {"layout": "npz"})
    assert [path.name for path in out.iterdir()] == [MARK]


@pytest.mark.parametrize("overwrite", [True, False])
def test_files_that_come_during_an_export_stay(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "out"

    def export() -> None:
        with replacing(out, overwrite=overwrite, needed=0) as draft:
            (draft / "a").write_text("1")
            out.mkdir()
            (out / "thesis.tex").write_text("years of work")

    with pytest.raises(ExportError, match="holds files that no export wrote"):
        export()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.tex"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with replacing(tmp_path / "out", overwrite=False, needed=0) as draft:
        (draft / "a").write_text("1")
    assert (tmp_path / "out/a").exists()
