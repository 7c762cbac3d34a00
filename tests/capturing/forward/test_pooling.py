"""The words for what is pooled."""

from __future__ import annotations

import pytest

from actstore import schema
from actstore.capturing.forward.pooling import POOLS, REGIONS, Pool, parse_exclude, parse_pools
from actstore.errors import UsageError


def test_every_region_goes_with_every_pool() -> None:
    words = [f"{region}.{pool}" for region in REGIONS for pool in (*POOLS, "-2", "0", "3")]
    found = parse_pools(",".join(words))
    assert [pool.text for pool in found] == words
    assert parse_pools(words) == found


def test_regions_and_stored_words_are_the_schemas() -> None:
    assert set(REGIONS) == set(schema.document()["regions"])
    for pool in parse_pools([f"prompt.{word}" for word in (*POOLS, "-2")]):
        schema.check_choice("pooling", pool.stored)


def test_single_tokens_are_stored_unpooled() -> None:
    stored = {pool.pool: pool.stored for pool in parse_pools("all.tokens,all.-2,all.last,all.max")}
    assert stored == {"tokens": "none", "-2": "none", "last": "last", "max": "max"}


def test_repeated_and_differently_written_words_count_once() -> None:
    assert parse_pools(" prompt.last ,prompt.last, prompt.-2,prompt.-02,") == (
        Pool("prompt", "last"),
        Pool("prompt", "-2"),
    )


@pytest.mark.parametrize(
    ("pool", "offset"), [("first", 0), ("last", -1), ("-3", -3), ("4", 4), ("mean", None)]
)
def test_offsets_count_from_either_end(pool: str, offset: int | None) -> None:
    assert Pool("prompt", pool).offset == offset


@pytest.mark.parametrize(
    "word", ["last", "prompt", "prompt.", "prompt.mode", "query.last", "a.b.c"]
)
def test_words_outside_the_vocabulary_are_named(word: str) -> None:
    with pytest.raises(UsageError, match=r"REGION\.POOL") as error:
        parse_pools(["prompt.last", word])
    assert repr(word) in str(error.value)


def test_naming_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no pool"):
        parse_pools(" , ")


def test_exclusions() -> None:
    assert parse_exclude("bos, special") == {"bos", "special"}
    assert parse_exclude("none") == parse_exclude([]) == frozenset()
    with pytest.raises(UsageError, match="sinks"):
        parse_exclude("bos,sinks")
