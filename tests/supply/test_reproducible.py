"""Wheel and sdist: the same bytes wherever, whenever and by whomever they are built."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EPOCH = "1767225600"


def copied(target: Path, *, umask: int, seconds: int, backwards: bool) -> Path:
    """Copy the files that git knows as a clone would lay them: by this umask, at this time."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("this is no clone: which files belong to it is not known")
    names = sorted((name for name in listed.stdout.split("\0") if name), reverse=backwards)
    before = os.umask(umask)
    try:
        for name in names:
            source = ROOT / name
            if not source.is_file() or source.is_symlink():
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o777 if os.access(source, os.X_OK) else 0o666)
            shutil.copyfile(source, path)
            os.utime(path, (seconds, seconds))
    finally:
        os.umask(before)
    return target


def built(root: Path, into: Path, *, umask: int, **environment: str) -> dict[str, str]:
    """Build both, and return the hash of each."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"]
    subprocess.run(
        [*command, "-d", str(into)],
        cwd=root,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **environment},
        umask=umask,
        check=True,
        capture_output=True,
    )
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in into.iterdir()}


def test_two_clones_make_the_same_bytes(tmp_path: Path) -> None:
    one = copied(tmp_path / "one", umask=0o022, seconds=1_500_000_000, backwards=False)
    two = copied(tmp_path / "deep/er/two", umask=0o077, seconds=1_700_000_001, backwards=True)
    (two / "notes.txt").write_text("lies about, and belongs to nobody")
    first = built(one, tmp_path / "a", umask=0o022, TZ="UTC", LC_ALL="C")
    second = built(two, tmp_path / "b", umask=0o077, TZ="Asia/Kolkata", PYTHONHASHSEED="7")
    assert sorted(name.rpartition(".")[2] for name in first) == ["gz", "whl"]
    assert first == second
    # Whoever builds from the sdist gets that wheel too.
    (archive,) = (tmp_path / "a").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = file.getnames()
        file.extractall(tmp_path / "out", filter="data")
    (inner,) = (tmp_path / "out").iterdir()
    assert built(inner, tmp_path / "c", umask=0o022) == first
    tops = {name.split("/")[1] for name in names}
    assert tops >= {
        "actstore",
        "schemas",
        "ingest",
        "query",
        "tests",
        "docs",
        "LICENSE",
        "Makefile",
    }
    assert not tops & {"notes.txt", ".venv", "build", ".github", ".ci"}
    (wheel,) = (tmp_path / "a").glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        modes = {one.external_attr >> 16 & 0o777 for one in packed.infolist()}
        assert modes <= {0o644, 0o755}
        assert {one.date_time[0] for one in packed.infolist()} == {2026}
