"""Counts, names and poolings in words."""

from __future__ import annotations

import pytest

from actstore import wording


def test_one_row_is_no_rows() -> None:
    assert wording.counted(1) == "1 row"
    assert wording.counted(0, "layer") == "0 layers"
    assert wording.counted(2000) == "2,000 rows"


@pytest.mark.parametrize(
    ("pooling", "region", "text"),
    [
        ("last", "prompt", "prompt.last"),
        ("mean", None, "mean"),
        ("none", "response", "response.tokens"),
        ("none", None, "tokens"),
        ("unknown", None, ""),
        ("unknown", "answer", "answer"),
    ],
)
def test_poolings_are_what_capture_calls_them(pooling: str, region: str | None, text: str) -> None:
    assert wording.pooling_text(pooling, region) == text


def test_long_names_that_begin_alike_stay_apart() -> None:
    one, other = ("a common beginning " * 9 + end for end in ("left", "right"))
    assert wording.shorten(one, 20) != wording.shorten(other, 20)
    assert wording.shorten(one, 20).endswith("left")
    for most in range(2, 40):
        assert len(wording.shorten(one, most)) == most
    assert wording.shorten("short", 5) == "short"


def test_names_are_never_cut_to_one_text() -> None:
    middle = [f"{'begins alike ' * 4}{word}{' ends alike' * 4}" for word in ("one", "two", "one")]
    short = wording.shorten_apart(middle, 20)
    assert short[0] == short[2] != short[1]
    assert "one" in short[0]
    assert "two" in short[1]
    assert max(map(len, short)) <= 20
    assert wording.shorten_apart(["a", "b"], 20) == ["a", "b"]
    ends = ("", "x", *(f"y{'z' * 60}{number}{'z' * 60}" for number in range(3)))
    for most in (12, 30):
        names = [f"{'begins alike ' * 4}{end}{'q' * 50}" for end in ends]
        short = wording.shorten_apart(names, most)
        assert len(set(short)) == len(ends)
        assert max(map(len, short)) <= most


def test_what_is_written_stays_and_what_is_not_is_seen() -> None:
    family, persian = "👩\u200d👧", "\u0645\u06cc\u200c\u062e\u0648"
    assert wording.readable(f"{family} {persian}\n") == f"{family} {persian}\n"
    assert wording.readable("a\xa0b\tc\u3000d") == "a b c d"
    assert wording.readable("a\u202eb\x00c") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (2_000_000, "2.0 MB"),
        (10**15, "1,000.0 TB"),
    ],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert wording.size(count) == text
