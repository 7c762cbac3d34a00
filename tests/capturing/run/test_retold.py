"""Labels and oracles of stored examples that are others now are told, and change no row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import actstore
from actstore.ingestion.labeling import label_by_expression
from tests.capturing import families

EXAMPLES: list[dict[str, Any]] = [
    {"id": f"q{n}", "variant": "a", "question": f"what is {n} ?", "label": "yes", "oracle": "1"}
    for n in range(4)
]
OTHERS = [
    {**each, "label": "no" if n < 2 else "yes", "oracle": "2" if n == 3 else "1"}
    for n, each in enumerate(EXAMPLES)
]
LABELS = (
    "another label than in the store came with 2 examples (id 'q0', variant a: 'yes' → 'no'); "
    "stored rows keep theirs: `actstore label STORE TABLE --on example_id --on variant` gives them "
    "other labels"
)
ORACLES = "another oracle than in the store came with 1 example (id 'q3', variant a: '1' → '2')"


@pytest.fixture(scope="module")
def model() -> Any:
    return families.build("llama")


def told(model: Any, store: Path, examples: Any, **options: Any) -> list[str]:
    tokenizer = None if model is None else families.tokenizer()
    done = actstore.capture(
        model,
        tokenizer,
        examples,
        store=store,
        self_check=False,
        **{"model_name": "m", "layers": "0", **options},
    )
    return [note for note in done.notes if "than in the store" in note]


@pytest.mark.parametrize(
    ("again", "options"),
    [
        (OTHERS, {}),
        ([OTHERS[0], *OTHERS[:0:-1], {**OTHERS[0], "id": "new"}], {}),
        (OTHERS, {"layers": "1"}),
        (OTHERS, {"rank": 0, "world_size": 1}),
        (OTHERS, {"dry_run": True}),
    ],
    ids=["the same", "another order", "another layer", "in pieces", "dry"],
)
def test_what_examples_come_with_now_is_told(
    model: Any, tmp_path: Path, again: Any, options: dict[str, Any]
) -> None:
    assert told(model, tmp_path / "s", EXAMPLES) == []
    notes = told(model, tmp_path / "s", again, **options)
    assert notes[0] == LABELS
    assert notes[1].startswith(ORACLES)
    assert len(notes) == 2
    kept = actstore.open(tmp_path / "s").select(layer=0, example_id=["q0", "q1", "q2", "q3"])
    columns = kept.table(["label", "oracle"])
    assert columns["label"].to_pylist() == ["yes"] * 4
    assert columns["oracle"].to_pylist() == ["1"] * 4


def test_it_is_told_without_the_model(model: Any, tmp_path: Path) -> None:
    told(model, tmp_path / "s", EXAMPLES)
    assert told(None, tmp_path / "s", OTHERS)[0] == LABELS


def test_labels_that_were_given_since_are_those_of_the_rows(model: Any, tmp_path: Path) -> None:
    told(model, tmp_path / "s", EXAMPLES)
    label_by_expression(tmp_path / "s", "CASE WHEN example_id < 'q2' THEN 'no' ELSE 'yes' END")
    assert told(model, tmp_path / "s", OTHERS)[0].startswith(ORACLES)


def test_nothing_is_told_of_labels_that_are_missing_or_graded(model: Any, tmp_path: Path) -> None:
    told(model, tmp_path / "s", EXAMPLES)
    bare = [{name: each[name] for name in ("id", "variant", "question")} for each in EXAMPLES]
    assert told(model, tmp_path / "s", bare) == []
    asked = {"max_new_tokens": 2, "grade": "contains"}
    assert told(model, tmp_path / "graded", EXAMPLES, **asked) == []
    (note,) = told(model, tmp_path / "graded", OTHERS, **asked)
    assert note.startswith(ORACLES)
    assert "and labels graded by it" in note
