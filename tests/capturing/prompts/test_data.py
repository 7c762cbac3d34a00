"""Questions of a run: columns, recipes, what is left out, and what is said when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actstore.capturing.prompts import capture_recipes
from actstore.capturing.prompts.data import open_questions
from actstore.errors import ExampleError, SidecarError, UsageError
from tests.capturing.pictures import picture


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(folder: Path, text: str) -> capture_recipes.CaptureRecipe:
    path = folder / "my.toml"
    path.write_text(text)
    return capture_recipes.read(path)


def test_columns_by_their_own_names_and_by_option(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "q.jsonl",
        [{"key": "a", "prompt": "Why?", "oracle": "x", "level": 2, "split": "train"}],
    )
    questions = open_questions(path, columns={"id": "key", "question": "prompt", "label": None})
    (example,) = questions
    assert (example.id, example.question, example.oracle) == ("a", "Why?", "x")
    assert (example.split, example.extra) == ("train", {"level": 2})
    assert (example.source, example.images) == ("q.jsonl:1", tmp_path)
    assert (questions.dataset, questions.count) == ("q", 1)


def test_an_answer_is_appended_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"id": 1, "question": "2+2?", "answer": "4"}])
    (plain,) = open_questions(path)
    assert (plain.answer, plain.extra) == (None, {"answer": "4"})
    (forced,) = open_questions(path, columns={"answer": "answer"})
    assert (forced.answer, forced.extra) == ("4", {})


def test_a_split_of_all_and_an_id_by_position(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"question": "a"}, {"question": "b", "split": "own"}])
    found = list(open_questions(path, split="dev"))
    assert [(each.id, each.split) for each in found] == [("0", "dev"), ("1", "own")]


def test_the_first_k(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"id": n, "question": "a"} for n in range(5)])
    questions = open_questions(path, first_k=2)
    assert [each.id for each in questions] == [each.id for each in questions] == ["0", "1"]
    assert questions.count == len(questions) == 2
    assert open_questions(path, first_k=9).count == 5


def test_only_some(tmp_path: Path) -> None:
    rows = [{"id": n, "question": "a", "task": "xyx"[n]} for n in range(3)]
    path = write(tmp_path, "q.jsonl", rows)
    questions = open_questions(path, only={"task": ["x"]})
    assert [each.id for each in questions] == ["0", "2"]
    assert questions.count is None
    with pytest.raises(TypeError):
        len(questions)
    with pytest.raises(ExampleError, match="no examples that --only"):
        list(open_questions(path, only={"task": ["z"]}))


def test_what_makes_examples_is_recorded_without_paths(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"id": 1, "question": "a"}])
    settings = open_questions(path, columns={"id": "id"}).settings
    assert str(tmp_path) not in json.dumps(settings)
    assert settings["columns"] == {"id": "id"}
    path.write_text('{"id": 2, "question": "a"}\n')
    assert open_questions(path, columns={"id": "id"}).settings["data"] != settings["data"]


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"id": 1, "text": "q"}, {}, r"q\.jsonl:1: no column 'question'; there are id, text"),
        ({"id": 1, "text": "q"}, {"question": "txt"}, r"q\.jsonl:1: no column 'txt'; .* id, text"),
        ({"id": 1, "question": None}, {}, r"q\.jsonl:1: an empty question"),
    ],
)
def test_a_missing_column_names_those_there_are(
    tmp_path: Path, row: dict[str, Any], columns: dict[str, str], said: str
) -> None:
    with pytest.raises(ExampleError, match=said):
        list(open_questions(write(tmp_path, "q.jsonl", [row]), columns=columns))


def test_doubles_name_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"id": n % 2, "question": "a"} for n in range(3)])
    with pytest.raises(ExampleError, match=r"q\.jsonl:3: id '0' is that of q\.jsonl:1 too"):
        list(open_questions(path))


def test_an_empty_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExampleError, match="no examples"):
        list(open_questions(write(tmp_path, "q.jsonl", [])))


def test_wrong_options(tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", [{"id": 1, "question": "a"}])
    with pytest.raises(UsageError, match="an example has no 'prompt'"):
        open_questions(path, columns={"prompt": "x"})
    with pytest.raises(UsageError, match="an example has no 'layer'"):
        open_questions(path, only={"layer": ["3"]})
    with pytest.raises(UsageError, match="at least 1"):
        open_questions(path, first_k=0)
    with pytest.raises(UsageError, match="no such folder of images"):
        open_questions(path, images=tmp_path / "nothing")


def test_images_stay_out_of_extra(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = {"bytes": picture(tmp_path, "x.png").read_bytes(), "path": "x.png"}
    table = pa.Table.from_pylist([{"id": 1, "question": "a", "photo": image, "raw": b"\0"}])
    pq.write_table(table, tmp_path / "q.parquet")
    (example,) = open_questions(tmp_path / "q.parquet", columns={"image": "photo"})
    assert example.image == image
    assert example.extra == {}


def test_lists_and_records_go_into_extra(tmp_path: Path) -> None:
    more = {"tags": ["sums", "small"], "scores": {"easy": 0.5}}
    path = write(tmp_path, "q.jsonl", [{"id": 1, "question": "2+2?", **more}])
    (example,) = open_questions(path)
    assert example.extra == more


def test_constants_expansions_caps_and_tables(tmp_path: Path) -> None:
    write(tmp_path, "pairs.jsonl", [{"k": n, "a": f"a{n}", "b": f"b{n}"} for n in range(4)])
    write(tmp_path, "scores.json", [{"k": n, "ok": n % 2 == 0} for n in range(4)])
    made = recipe(
        tmp_path,
        """
        dataset = "mine"
        [columns]
        id = "p{k}"
        mode = "tqa"
        label = "{scores.ok|map:True=yes,False=no}"
        [extra]
        k = "{k}"
        nothing = "{missing?}"
        [[parts]]
        data = "{data}/pairs.jsonl"
        [[tables]]
        name = "scores"
        data = ["{data}/none.csv", "{data}/scores.json"]
        on = { k = "{k}" }
        [[expand]]
        variant = "q1"
        question = "{a}"
        [[expand]]
        variant = "q2"
        question = "{b}"
        [most]
        label = { yes = 1 }
        """,
    )
    questions = open_questions(tmp_path, recipe=made)
    found = [(each.id, each.variant, each.question, each.label) for each in questions]
    assert found == [
        ("p0", "q1", "a0", "yes"),
        ("p0", "q2", "b0", "yes"),
        ("p1", "q1", "a1", "no"),
        ("p1", "q2", "b1", "no"),
        ("p3", "q1", "a3", "no"),
        ("p3", "q2", "b3", "no"),
    ]
    assert next(iter(questions)).extra == {"k": 0}
    assert questions.dataset == "mine"
    # The folder of a file that is named stands for it too; options come before the recipe.
    same = open_questions(tmp_path / "pairs.jsonl", recipe=made, columns={"id": "a"})
    assert next(iter(same)).id == "a0"


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path, "q.jsonl", [{"k": 1, "question": "a"}])
    text = """
        [columns]
        id = "{k}"
        question = "{question}"
        [[tables]]
        name = "t"
        data = "{data}/t.json"
        on = { k = "{k}" }
        [[parts]]
        data = "{data}/q.jsonl"
        """
    made = recipe(tmp_path, text)
    with pytest.raises(SidecarError, match=r"table t: .* looked for"):
        open_questions(tmp_path, recipe=made)
    write(tmp_path, "t.json", [{"k": 2}])
    with pytest.raises(SidecarError, match=r"q\.jsonl:1: table t has no row with k = 1"):
        list(open_questions(tmp_path, recipe=made))
    write(tmp_path, "t.json", [{"other": 2}])
    with pytest.raises(SidecarError, match="no column 'k' to join by; there are other"):
        open_questions(tmp_path, recipe=made)
    write(tmp_path, "t.json", [{"k": 1, "v": 1}, {"k": 1, "v": 2}])
    with pytest.raises(SidecarError, match="repeats 1 with other values"):
        open_questions(tmp_path, recipe=made)


def test_spatialeval_is_a_grid_of_tasks_and_modes(tmp_path: Path) -> None:
    for mode in ("tqa", "vqa", "vtqa"):
        rows = [
            {
                "id": f"{task}.{mode}.{n}.0",
                "text": f"{task}?",
                "oracle_answer": n,
                "image": "x.png",
            }
            for task in ("spatialmap", "mazenav")
            for n in range(2)
        ]
        write(tmp_path, f"{mode}.jsonl", rows)
    questions = open_questions(tmp_path, recipe=capture_recipes.load("spatialeval"))
    found = list(questions)
    assert questions.count == len(found) == 12
    assert {(each.task, each.mode) for each in found} == {
        (task, mode) for task in ("spatialmap", "mazenav") for mode in ("tqa", "vqa", "vtqa")
    }
    assert [each.image for each in found[:4]] == [None] * 4
    assert found[-1].image == "x.png"
    assert found[-1].oracle == "1"
    texts = open_questions(
        tmp_path, recipe=capture_recipes.load("spatialeval"), only={"mode": ["tqa"]}
    )
    assert all(not each.pictures for each in texts)


def test_contrastive_pairs_have_two_answers(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "positive": "(A)", "negative": "(B)"}]
    path = write(tmp_path, "contrastive_dataset.json", rows)
    found = list(open_questions(path, recipe=capture_recipes.load("contrastive")))
    assert [(each.id, each.variant, each.answer) for each in found] == [
        ("0", "test", "(A)"),
        ("0", "deploy", "(B)"),
    ]


def test_faithfulness_caps_pairs_in_the_order_of_the_scores(tmp_path: Path) -> None:
    lines = ["pair_id,is_faithful,category"]
    answers = []
    for n in range(60):
        lines.append(f"num_{n:03},{n % 2 == 0},numbers")
        answers += [
            {"pair_id": f"num_{n:03}", "variant": variant, "question": f"{variant} of {n}"}
            for variant in ("q1", "q2")
        ]
    scores = tmp_path / "data" / "processed" / "faithfulness_scores.csv"
    scores.parent.mkdir(parents=True)
    scores.write_text("\n".join(lines) + "\n")
    write(tmp_path, "data/responses/model_1.5B_responses.jsonl", answers)
    made = capture_recipes.load("faithfulness")
    found = list(open_questions(tmp_path, recipe=made))
    labels = [each.label for each in found]
    assert (labels.count("faithful"), labels.count("unfaithful")) == (30, 20)
    assert {each.variant for each in found} == {"q1"}
    assert [each.id for each in found[:3]] == ["num_000", "num_001", "num_002"]
    both = list(open_questions(tmp_path, recipe=made, only={"variant": ["q1", "q2"]}))
    assert len(both) == 100
    assert both[1].question == "q2 of 0"


def test_image_queries_and_transcoders_read_the_same_file(tmp_path: Path) -> None:
    rows = [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}]
    path = write(tmp_path, "query_generative.json", rows)
    (queried,) = open_questions(tmp_path, recipe=capture_recipes.load("image-queries"))
    (plain,) = open_questions(path, recipe=capture_recipes.load("clt"))
    assert (queried.id, queried.question, queried.image) == ("1", rows[0]["query"], "AMBER_1.jpg")
    assert (plain.id, plain.image) == ("1", "AMBER_1.jpg")
    write(tmp_path, "query_generative.json", [{"query": "Count to ten."}])
    (plain,) = open_questions(path, recipe=capture_recipes.load("clt"))
    assert (plain.id, plain.image) == ("0", None)


def test_pairs_are_asked_both_ways(tmp_path: Path) -> None:
    pair = {"id": "n", "q1": "Is 1 > 2?", "q2": "Is 2 > 1?", "q1_answer": "No", "q2_answer": "Yes"}
    path = tmp_path / "question_pairs.json"
    path.write_text(json.dumps({"pairs": [pair]}))
    for place in (tmp_path, path):
        found = list(open_questions(place, recipe=capture_recipes.load("faithful-pairs")))
        assert [(e.variant, e.oracle) for e in found] == [("q1", "No"), ("q2", "Yes")]


def test_a_benchmark_needs_no_ids(tmp_path: Path) -> None:
    path = write(tmp_path, "b.jsonl", [{"question": "2+2?", "answer": 4}])
    (example,) = open_questions(path, recipe=capture_recipes.load("benchmark"))
    assert (example.id, example.oracle, example.answer) == ("0", "4", None)
