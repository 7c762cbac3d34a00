"""SQL expressions over rows that are not stored."""

from __future__ import annotations

import pytest

from actstore.errors import SqlError
from actstore.querying.row_expressions import evaluate


def test_one_value_per_row_in_order() -> None:
    rows = [{"example_id": str(number), "oracle": "x" * number} for number in range(5)]
    assert evaluate("length(oracle) -- of the answer", rows) == [0, 1, 2, 3, 4]
    assert evaluate("prediction", rows) == [None] * 5


def test_windows_see_all_rows() -> None:
    rows = [{"example_id": "a", "prediction": "x"}, {"example_id": "a", "prediction": "y"}]
    over = "OVER (PARTITION BY example_id)"
    same = f"min(prediction) {over} = max(prediction) {over}"
    assert evaluate(same, rows) == [False, False]


@pytest.mark.parametrize(
    "expression",
    ["nothing", "sum(1)", "1; SELECT 2", "1), (2", "(SELECT content FROM read_text('/etc/hosts'))"],
)
def test_what_is_no_expression_of_the_row_is_refused(expression: str) -> None:
    with pytest.raises(SqlError):
        evaluate(expression, [{"example_id": "a"}, {"example_id": "b"}])


def test_nothing_to_evaluate_still_checks() -> None:
    assert evaluate("task", []) == []
    with pytest.raises(SqlError, match="nothing"):
        evaluate("nothing", [])
