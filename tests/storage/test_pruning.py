"""Prunings that meet each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actstore.storage import pruning, soundness
from actstore.storage.compaction import compact
from tests.storage.stores import assert_sound, batch, content, write


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
