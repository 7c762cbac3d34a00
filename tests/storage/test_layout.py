"""Paths are safe whatever a model is called, and files are replaced in one step."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore.storage import layout


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B"),
        ("/data/models/my model/", "data--models--my_model"),
        ("..", "_"),
        ("../../etc/passwd", "--..--etc--passwd"),
        ("模型/大", "_--_"),
        ("", "_"),
        (".hidden", "hidden"),
        ("a\\b:c*?[x]\n", "a_b_c_x_"),
        ("x" * 300, "x" * 120),
    ],
)
def test_slugs(name: str, slug: str) -> None:
    assert layout.slug(name) == slug


@given(st.text())
def test_any_name_is_one_path_segment_without_glob_signs(name: str) -> None:
    slug = layout.slug(name)
    assert PurePosixPath(slug).parts == (slug,)
    assert slug.isascii()
    assert slug not in (".", "..")
    assert not set(slug) & set("*?[]{}!\\/ \0")
    assert 0 < len(slug) <= 120


@pytest.mark.parametrize(
    ("layer", "folder"),
    [(None, "layer_unknown"), (-1, "layer_embed"), (0, "layer_000"), (1000, "layer_1000")],
)
def test_layers(layer: int | None, folder: str) -> None:
    assert layout.layer_folder(layer) == folder


def test_a_shard_shows_model_site_layer_and_type() -> None:
    path = layout.shard_path(
        model="org/model",
        site="resid_post",
        layer=7,
        width=4096,
        dtype="float16",
        transaction="abc",
        number=3,
    )
    assert path == "activations/org--model/resid_post/layer_007/f16x4096-abc-00003.parquet"


def test_transactions_never_repeat_and_hold_no_hyphen() -> None:
    names = {layout.new_transaction() for _ in range(1000)}
    assert len(names) == 1000
    assert not any("-" in name for name in names)


def test_replacing_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    layout.replace_durably(path, b"one")
    layout.replace_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "README.md"
    layout.replace_durably(path, b"one")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        layout.replace_durably(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
