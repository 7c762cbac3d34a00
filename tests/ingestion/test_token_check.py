"""Token ids that are not those stored for the same examples are told, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actstore
from actstore.errors import ConflictError

MODEL = "org/model"


@pytest.fixture
def store(tmp_path: Path) -> actstore.Store:
    return actstore.open(tmp_path / "s", create=True)


def write(
    store: actstore.Store,
    ids: dict[str, list[int]],
    *,
    site: str = "mlp_out",
    model: str = MODEL,
    mask: list[list[int]] | None = None,
    pool: str | None = None,
    **about: Any,
) -> tuple[str, ...]:
    """Write states of examples with these tokens; return the notes."""
    draw = np.random.default_rng(len(store))
    states = [draw.normal(size=(len(each), 4)).astype(np.float32) for each in ids.values()]
    metadata = {"id": list(ids), **about}
    tokens = list(ids.values())
    done = store.write(
        {(site, 0): states}, metadata, model=model, token_ids=tokens, mask=mask, pool=pool
    )
    return done.notes


def test_the_same_ids_are_no_matter(store: actstore.Store) -> None:
    assert write(store, {"a": [5, 6, 7], "b": [8, 9]}, site="resid_post") == ()
    assert write(store, {"a": [5, 6, 7], "b": [8, 9], "c": [1, 2]}) == ()
    # A text that goes on is the same text as far as both go.
    assert write(store, {"a": [5, 6, 7, 10]}, site="attn_out") == ()


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"a": [1, 5, 6, 7], "b": [1, 8, 9]}, "2 of 2 examples.*with one more token .id 1.*BOS"),
        ({"a": [6, 7], "b": [9]}, "2 of 2 examples.*the stored ones begin .* more token .id"),
        ({"a": [5, 4, 7], "b": [8, 9]}, "1 of 2 examples.*position 1 of a the id is 4.* one 6"),
        ({"b": [1, 8, 9], "new": [1, 2]}, "1 of 1 example differ"),
        ({"a": [1, 5, 6, 7], "b": [3, 4]}, "2 of 2 examples.*at position 0"),
    ],
    ids=["longer", "shorter", "other", "some", "several"],
)
def test_other_ids_are_told(store: actstore.Store, ids: dict[str, list[int]], said: str) -> None:
    write(store, {"a": [5, 6, 7], "b": [8, 9]}, site="resid_post")
    (note,) = write(store, ids)
    assert re.search(said, note), note


def test_padding_is_no_token(store: actstore.Store) -> None:
    write(store, {"a": [5, 6], "b": [8, 9]}, site="resid_post")
    masked = {"a": [0, 0, 5, 6], "b": [0, 0, 8, 9]}
    assert write(store, masked, mask=[[0, 0, 1, 1]] * 2) == ()


def test_pooled_vectors_are_compared_by_their_ids_too(store: actstore.Store) -> None:
    write(store, {"a": [5, 6, 7]}, site="resid_post")
    (note,) = write(store, {"a": [1, 5, 6, 7]}, pool="prompt.mean")
    assert "begin with one more token (id 1)" in note
    # Where only pooled vectors are stored, there are no ids to compare with.
    assert write(store, {"z": [5, 6]}, pool="prompt.mean", site="resid_post") == ()
    assert write(store, {"z": [1, 5, 6]}) == ()


def test_other_models_and_versions_are_other_examples(store: actstore.Store) -> None:
    write(store, {"a": [5, 6, 7]}, site="resid_post", variant="q1")
    assert write(store, {"a": [1, 2]}, model="org/other") == ()
    assert write(store, {"a": [1, 2]}, variant="q2") == ()
    assert len(write(store, {"a": [1, 3]}, dataset="names-it", site="attn_out")) == 1


def test_a_conflict_tells_of_the_ids(store: actstore.Store) -> None:
    write(store, {"a": [5, 6, 7]})
    with pytest.raises(ConflictError, match=r"different vector: .*begin with one more token"):
        write(store, {"a": [1, 5, 6, 7]})
    with pytest.raises(ConflictError) as told:
        write(store, {"a": [5, 6, 7]})
    assert "token" not in str(told.value)


def test_tokens_of_a_later_part_of_the_text(store: actstore.Store) -> None:
    states = np.ones((2, 4), np.float32)
    metadata = {"id": ["a", "a"], "position": [3, 4], "token_id": [7, 8], "region": "response"}
    store.write({("resid_post", 0): states}, {**metadata, "pooling": "none"}, model=MODEL)
    assert write(store, {"a": [4, 5]}) == ()
    assert write(store, {"a": [4, 5, 6, 7, 8]}, site="attn_out") == ()


def test_only_a_part_of_the_stored_tokens_is_there(store: actstore.Store) -> None:
    states = np.ones((2, 4), np.float32)
    metadata = {"id": ["a", "a"], "position": [3, 4], "token_id": [7, 8], "region": "response"}
    store.write({("resid_post", 0): states}, {**metadata, "pooling": "none"}, model=MODEL)
    (note,) = write(store, {"a": [1, 4, 5, 6, 7, 8]})
    assert "begin with one more token (id 1)" in note
