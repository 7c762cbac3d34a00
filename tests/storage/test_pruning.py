"""Prunings that meet each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actstore.storage import manifest as manifests
from actstore.storage import pruning, soundness
from actstore.storage.compaction import compact
from actstore.storage.staging import Staging
from actstore.storage.transaction import Transaction
from tests.storage.stores import assert_sound, batch, content, expected, live_files, write


def test_a_pruning_during_which_another_one_prunes_finds_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    for number in range(3):
        write(root, batch(10 * number, 4, layer=0))
    compact(root)
    check = soundness.check
    others: list[int] = []

    def overtaken(*given: Any, **options: Any) -> None:
        if not others:
            others.append(1)
            pruning.erase(root, keep=1)
        check(*given, **options)

    monkeypatch.setattr(soundness, "check", overtaken)
    kept = content(root)
    done = pruning.erase(root, keep=2)
    assert others
    assert done.commits == ()
    assert content(root) == kept
    assert_sound(root)


def test_a_commit_that_is_pruned_before_it_is_read_takes_no_files_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    load = manifests.load_if_there

    def overtaken(*given: Any) -> manifests.Manifest | None:
        monkeypatch.setattr(manifests, "load_if_there", load)
        write(root, batch(3, 1))
        pruning.erase(root)
        return load(*given)

    monkeypatch.setattr(manifests, "load_if_there", overtaken)
    pruning.erase(root)
    assert content(root) == expected(batch(0, 4))
    assert_sound(root)


def test_a_commit_that_is_made_while_a_pruning_checks_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    write(root, batch(3, 1))
    path = "labels/new.parquet"
    (root / "labels").mkdir()
    (root / path).write_bytes(b"1")  # as a copying puts its files, before it commits
    check = soundness.check

    def named(latest: manifests.Manifest) -> manifests.Manifest:
        entry = manifests.LabelEntry(path=path, rows=1, bytes=1, sha256="0" * 64)
        return latest.next(operation="o", message="", labels=(entry,))

    def overtaken(*given: Any, **options: Any) -> None:
        check(*given, **options)
        with Transaction(root) as change:
            change.commit({}, named)

    monkeypatch.setattr(soundness, "check", overtaken)
    assert pruning.erase(root).files == ()
    assert (root / path).exists()


def test_a_plan_is_never_seen_in_half(tmp_path: Path) -> None:
    root = tmp_path / "s"
    write(root, batch(0, 3))
    work = Staging(root)
    for name in ("a", "b"):
        (work.folder / name).write_text("x")
    work.place({"activations/m/a.parquet": work.folder / "a"})
    with (work.folder / "plan.json").open() as plan:  # a pruning is about to read it
        work.place({"activations/m/b.parquet": work.folder / "b"})
        assert json.load(plan)["paths"] == ["activations/m/a.parquet"]
    assert pruning.erase(root).files == ()
    work.close()
    assert pruning.stored_files(root) == live_files(root)
