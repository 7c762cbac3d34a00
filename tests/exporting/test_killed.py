"""An export that is killed at any moment leaves nothing behind after the next command."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actstore import cli
from actstore.storage import unfinished
from tests.children import children
from tests.commands.conftest import Command, actstore, store
from tests.torture.effort import TORTURE, attack

__all__ = ["actstore", "store"]
_CALLS = ("mkdir", "open", "replace", "rename", "unlink", "rmdir", "write")
_real = {name: getattr(os, name) for name in _CALLS}


def exporting(root: Path, target: Path, overwrite: bool) -> list[str]:
    """Return the words of an export."""
    more = ["--overwrite"] if overwrite else []
    return ["export", str(root), str(target), "--to", "safetensors", *more]


def export(root: Path, target: Path, *, overwrite: bool) -> int:
    """Export a store in this process."""
    return cli.run(exporting(root, target, overwrite))


def killed(words: list[str], at: int, cache: str) -> None:
    """Run a command, and kill this process at the call of that number which changes files."""
    os.environ["ACTSTORE_CACHE"] = cache
    count = 0

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name != "open" or arguments[1] & os.O_CREAT:
                count += 1
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return _real[name](*arguments, **options)

        return call

    for name in _CALLS:
        setattr(os, name, wrapped(name))
    os._exit(cli.run(words))


def ended(words: list[str], at: int) -> int:
    """Run such a process; return how it ended."""
    # The server that forks it has the environment of the first test.
    cache = os.environ["ACTSTORE_CACHE"]
    child = children.Process(target=killed, args=(words, at, cache))
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_wherever_an_export_is_killed(
    store: Path, tmp_path: Path, actstore: Command, overwrite: bool
) -> None:
    home, target = tmp_path / "out", tmp_path / "out/matrices"
    assert export(store, target, overwrite=False) == 0
    whole = files(home)
    if not overwrite:
        shutil.rmtree(home)
    home.mkdir(exist_ok=True)
    killings = said = 0
    with attack("crashes", "an export killed at every call of the system") as tally:
        for at in range(1, 200, 1 if TORTURE else 3):
            if ended(exporting(store, target, overwrite), at) != -signal.SIGKILL:
                break
            killings += 1
            finished = actstore("info", store)  # any command
            assert finished.code == 0
            said += "matrices: cleared what a command had left" in finished.err
            assert files(home) == (whole if overwrite or target.exists() else {})
            names = [path.name for path in home.iterdir()]
            assert names == (["matrices"] if target.exists() else [])
            assert actstore("info", store).err == ""
            if not overwrite and target.exists():
                shutil.rmtree(target)
        tally.tries = killings
    assert killings > (12 if TORTURE else 4)
    assert said > (5 if TORTURE else 1)
    assert files(home) == whole
    assert list((tmp_path / "cache/unfinished").iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("query STORE SELECT|example_id|FROM|activations -o", "rows.csv"),
        ("select STORE --layers 3 -o", "rows.parquet"),
        ("select STORE --layers 3 -o", "rows.npz"),
    ],
)
def test_nothing_is_left_wherever_a_file_is_killed(
    store: Path, tmp_path: Path, actstore: Command, command: str, name: str, there: bool
) -> None:
    home = tmp_path / "out"
    target = home / name
    home.mkdir()
    words = [word.replace("|", " ").replace("STORE", str(store)) for word in command.split()]
    assert cli.run([*words, str(target)]) == 0
    whole = target.read_bytes()
    killings = said = 0
    for at in range(1, 60):
        for path in home.iterdir():
            path.unlink()
        if there:
            target.write_bytes(b"before")
        if ended([*words, str(target)], at) != -signal.SIGKILL:
            break
        killings += 1
        finished = actstore("info", store)  # any command
        said += f"{name}: cleared what a command had left" in finished.err
        left = files(home)
        assert left.keys() == ({name} if there or target.exists() else set())
        assert left.get(name) in ((b"before", whole) if there else (None, whole))
        assert actstore("info", store).err == ""
    assert killings > 2
    assert said > 0
    assert target.read_bytes() == whole
    assert list((tmp_path / "cache/unfinished").iterdir()) == []


def test_a_living_export_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    draft = unfinished.draft_of(target)
    with unfinished.noted(draft, target):
        draft.mkdir()
        (draft / "a").write_bytes(b"x")
        assert unfinished.clear() == []
        assert (draft / "a").exists()
    assert unfinished.clear() == []
    assert draft.exists()  # its writer let go of it: it is nobody's business here


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        '{"draft": "HOME/precious", "target": "HOME/precious"}',
        '{"draft": "HOME/../.precious.00000000.partial", "target": "HOME/precious"}',
        '{"draft": ".precious.00000000.partial", "target": "precious"}',
        '{"draft": "HOME/.other.00000000.partial", "target": "HOME/precious"}',
    ],
)
def test_a_note_of_anything_else_removes_nothing(tmp_path: Path, note: str) -> None:
    for name in ("precious", ".other.00000000.partial"):
        (tmp_path / "home" / name).mkdir(parents=True)
    notes = tmp_path / "cache/unfinished"
    notes.mkdir(parents=True)
    (notes / "a.json").write_text(note.replace("HOME", str(tmp_path / "home")))
    assert unfinished.clear() == []
    assert len(list((tmp_path / "home").iterdir())) == 2
    assert list(notes.iterdir()) == []


def test_without_a_place_for_notes_exports_work_all_the_same(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ACTSTORE_CACHE", str(tmp_path / "file"))
    assert export(store, tmp_path / "out", overwrite=False) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "runs.store"]


def test_a_long_name_is_no_reason_to_fail(store: Path, tmp_path: Path) -> None:
    assert export(store, tmp_path / ("ü" * 127), overwrite=False) == 0
