"""Tables, sizes and JSON as they are printed."""

import json
from decimal import Decimal

import pytest

from actstore.commands import output
from actstore.wording import counted


def test_numbers_stand_to_the_right_and_texts_to_the_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.print_table(("label", "rows"), [("faithful", 30), ("no", 4)])
    assert capsys.readouterr().out == "label     rows\nfaithful    30\nno           4\n"


def test_a_column_of_nothing_but_nulls_counts_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("a", "b"), [(None, 1), (None, 22)])
    assert capsys.readouterr().out == "a      b\nNULL   1\nNULL  22\n"


def test_wide_characters_take_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name", "n"), [("言語", 1), ("abcd", 2)])
    assert capsys.readouterr().out.splitlines()[1:] == ["言語  1", "abcd  2"]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (26, [0, 1, 2, 3]),
        (25, [0, 1, None, 3]),
        (21, [0, None, 3]),
        (9, [0, None]),
        (1, [0, None]),
    ],
)
def test_middle_columns_give_way_first(room: int | None, expected: list[int | None]) -> None:
    assert output._fitting([5, 5, 5, 5], room) == expected


def test_a_column_that_is_whole_is_never_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = "no better than the best of 31 on shuffled labels, and then some more words"
    for room in (None, 120, 80, 20):
        monkeypatch.setattr(output, "terminal_width", lambda room=room: room)
        rows = [("x" * 70, 1, verdict)]
        output.print_table(("text", "n", "verdict"), rows, whole=("verdict",))
        assert verdict in capsys.readouterr().out


def test_a_vector_is_shortened_and_says_its_length() -> None:
    assert output.cell([0.5, -1.25, 3.0, 4.0]) == "[0.5, -1.25, 3, … 4]"
    assert output.cell([0.5, 1.0]) == "[0.5, 1]"
    assert output.cell([0.5, None, 2.0, 4.0]) == "[0.5, NULL, 2, … 4]"


def test_a_cell_stays_on_one_line_and_harmless() -> None:
    assert output.cell("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


def test_a_long_text_is_cut() -> None:
    text = output.cell("x" * 5000)
    assert len(text) == output.CELL
    assert text.endswith("…")


def test_json_names_the_numbers_it_does_not_know() -> None:
    text = output.json_text({"a": float("nan"), "b": [float("inf"), -float("inf")], "c": 1.5})
    assert json.loads(text) == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": 1.5}
    assert output.json_text({"é": float("nan")}) == '{"é": "NaN"}'  # letters stay letters


def test_json_keeps_whole_decimals_whole() -> None:
    assert output.json_text([Decimal(3), Decimal("1.5"), b"\x01\xff"]) == '[3, 1.5, "01ff"]'


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (136_742, "136.7 kB"), (4_100_000_000, "4.1 GB")],
)
def test_sizes(number: int, text: str) -> None:
    assert output.size(number) == text


def test_one_is_not_a_plural() -> None:
    assert [counted(n, "row") for n in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_pairs_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_pairs({"rows": 3, "label": None, "commit": 12})
    assert capsys.readouterr().out == "rows    3\ncommit  12\n"


def test_an_error_is_one_line_whatever_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    output.error("example Which gas?\nA. Oxygen\r\n  B. Neon is one vector")
    assert capsys.readouterr().err == "error: example Which gas? A. Oxygen B. Neon is one vector\n"
