"""Neither what is pushed nor what a pull writes says who made it, or where."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actstore import cli
from tests.commands.test_privacy import USER, contents
from tests.hub.pushing import ID, relabel
from tests.hub_server import Hub


def test_no_name_token_or_folder_goes_to_the_hub_or_comes_from_it(
    hub: Hub, lfs: None, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / USER
    home.mkdir(parents=True)
    values = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_write", "HOME": str(home), "USER": USER}
    for name, value in {**values, "LOGNAME": USER}.items():
        monkeypatch.setenv(name, value)
    store = home / "s.store"
    shutil.copytree(small, store)
    pulled = home / "pulled.store"
    for words in (
        ("push", store, ID),
        ("pull", ID, pulled),
        ("pull", ID, home / "part.store", "--layers", "1"),
    ):
        assert cli.run([*map(str, words)]) == 0, words
    relabel(pulled, [0], "b")
    assert cli.run(["push", str(pulled), ID]) == 0
    assert cli.run(["pull", ID, str(store)]) == 0
    there = tmp_path / "there"
    for name in hub.files(ID):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(hub.read(ID, name))
    found = [p for folder in (there, home) for p in folder.rglob("*") if p.is_file()]
    assert len(found) > 20
    for path in found:
        for content in contents(path):
            for word in (USER, "hf_write", str(tmp_path)):
                assert word.encode() not in content, (path.relative_to(tmp_path), word)
    assert USER not in str(hub.head(ID))
