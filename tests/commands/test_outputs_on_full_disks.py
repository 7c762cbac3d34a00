"""Outputs that the disk cannot hold: one error that names the file, and no half of it."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from actstore.commands.exit_codes import Exit
from actstore.storage import unfinished
from tests.commands.conftest import Command, Finished

ARRAY = np.zeros(1 << 18, np.float32)


@contextmanager
def little_room(most: int) -> Iterator[None]:
    """Let no file grow beyond some bytes: the system refuses it as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "words",
    [
        "query {store} 'every' -o {out}/o.csv",
        "query {store} 'every' -o {out}/o.parquet",
        "select {store} --layers 3 -o {out}/o.npz",
        "select {store} --layers 3 -o {out}/o.safetensors",
        "select {store} --layers 3 -o {out}/o.pt",
        "report {store} -o {out}/o.html",
        "plot {store} --kind norms -o {out}/o.svg",
        "steer {store} -o {out}/o",
    ],
)
def test_an_output_that_does_not_fit(
    actstore: Command, tmp_path: Path, store: Path, words: str
) -> None:
    def run(out: Path) -> Finished:
        out.mkdir()
        every = "SELECT a.*, b.question FROM activations a, activations b"
        each = [word.format(store=store, out=out) for word in words.split(" ")]
        return actstore(*[word.replace("'every'", every) for word in each])

    def files(out: Path) -> dict[str, int]:
        found = [path for path in out.rglob("*") if path.is_file()]
        return {str(path.relative_to(out)): path.stat().st_size for path in found}

    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(whole).code == Exit.DONE  # after which caches need no room either
    sizes = files(whole)
    with little_room(max(sizes.values()) - 1):
        done = run(out)
    assert (done.code, "Traceback" in done.err) == (Exit.ERROR, False)
    (said,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert f"{out}/o" in said
    assert "cannot be written: " in said
    assert files(out).items() < sizes.items()


def test_errors_of_other_libraries_are_the_systems(tmp_path: Path) -> None:
    def raw(draft: Path) -> None:
        draft.write_bytes(ARRAY.tobytes())

    target = tmp_path / "x"
    for write in (
        raw,
        lambda draft: save_file({"a": ARRAY}, draft),
        lambda draft: torch.save(torch.from_numpy(ARRAY), draft),
    ):
        with (
            little_room(4096),
            pytest.raises(OSError, match="cannot be written") as caught,
            unfinished.replacing(target) as draft,
        ):
            write(draft)
        assert caught.value.filename == str(target)
        assert caught.value.errno in (errno.EFBIG, errno.EIO)
        assert os.listdir(tmp_path) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), unfinished.replacing(tmp_path / "x"):
        raise KeyError("x")
    with pytest.raises(FileNotFoundError), unfinished.replacing(tmp_path / "x") as draft:
        (draft / "y").write_text("")
