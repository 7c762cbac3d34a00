"""Errors of SQL say what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

import actstore
from actstore.errors import SqlError
from tests.commands.conftest import store as store  # the fixture


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ('SELECT * FROM activations WHERE label = "faithful"', "single quotes, 'faithful'"),
        ("SELECT layr FROM activations", "Did you mean layer?"),
        ("SELECT * FROM activations WHERE labels = 'x'", "Did you mean label?"),
        ("SELECT verdict FROM activations", "columns: example_id, example_index, dataset"),
        ("SELECT cosin(layer) FROM activations", "Did you mean cosine?"),
        ("SELECT similarity(layer) FROM activations", "dot(a, b), cosine(a, b)"),
        ("SELECT extra.task FROM activations", "no row here has anything in extra"),
        ("SELECT * FROM runs", "table is activations"),
        ("label-counts", "--name label-counts"),
        ("label-count", "such as label-counts"),
        ("layer = 3", "SELECT * FROM activations WHERE"),
        ("SELECT row_id, sum(layer) FROM activations", "GROUP BY"),
    ],
)
def test_an_error_says_what_to_write(store: Path, query: str, said: str) -> None:
    with actstore.open(store) as opened, pytest.raises(SqlError) as caught:
        opened.stream(query).read_all()
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert "Candidate" not in message
