"""`actstore capture`: questions in, activations, answers and labels out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actstore import cli
from actstore.api.store import open as open_store
from tests.capturing import families
from tests.commands.conftest import Command, Finished

ROWS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    families.build("llama").save_pretrained(folder)
    families.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with more threads, and give the same values with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"key": f"k{n}", "ask": f"which is larger : {n} or 4 ?", "best": "a", "task": "xy"[n % 2]}
        for n in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def capture(actstore: Command, model: Path, questions: Path, tmp_path: Path) -> Any:
    """Run the command on the tiny model; options that are given twice count the second time."""

    def run(*words: Any, data: Path = questions, store: str = "s.store") -> Finished:
        columns = ("--id", "key", "--question", "ask", "--oracle", "best")
        return actstore(
            *("capture", "--model", model, "--data", data, "--store", tmp_path / store),
            *("--device", "cpu", *(columns if data == questions else ()), *words),
        )

    return run


def frame(tmp_path: Path, columns: str, where: str = "true", store: str = "s.store") -> list[Any]:
    opened = open_store(tmp_path / store)
    found = opened.sql(f"SELECT DISTINCT {columns} FROM activations WHERE {where} ORDER BY ALL")
    return [tuple(row.values()) for row in found.to_arrow_table().to_pylist()]


def test_answers_are_captured_graded_and_stored(capture: Any, tmp_path: Path) -> None:
    done = capture(
        *("--layers", "0,2", "--pool", "prompt.last,response.mean", "--max-new-tokens", 4),
        *("--grade", "sql:task = 'x'", "--batch-size", 4, "--json"),
    )
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["examples"] == ROWS
    assert told["labels"] == {"correct": 3, "incorrect": 3}
    assert told["model"] == "tiny-llama"
    assert told["dataset"] == "questions"
    ids = frame(tmp_path, "example_id, task, label, oracle")
    assert ids == [
        (f"k{n}", "xy"[n % 2], ("correct", "incorrect")[n % 2], "a") for n in range(ROWS)
    ]
    assert {row[0] for row in frame(tmp_path, "layer")} == {0, 2}
    assert ("prompt", "last") in frame(tmp_path, "region, pooling")
    again = json.loads(
        capture(
            *("--layers", "0,2", "--pool", "prompt.last,response.mean", "--max-new-tokens", 4),
            *("--grade", "sql:task = 'x'", "--batch-size", 4, "--json"),
        ).out
    )
    assert (again["examples"], again["skipped"], again["rows"]) == (0, ROWS, 0)


def test_what_is_stored_is_what_the_model_computes(
    capture: Any, model: Path, tmp_path: Path
) -> None:
    assert capture("--raw", "--layers", "1").code == 0
    selection = open_store(tmp_path / "s.store").select(layer=1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    for row in range(ROWS):
        inputs = tokenizer(f"which is larger : {row} or 4 ?", return_tensors="pt")
        with torch.no_grad():
            states = loaded(**inputs, output_hidden_states=True).hidden_states
        torch.testing.assert_close(
            torch.from_numpy(selection.numpy()[row]).float(),
            states[2][0, -1],
            rtol=1e-5,
            atol=1e-5,
        )


def test_the_summary_is_for_people(capture: Any) -> None:
    done = capture("--layers", "last", "--first-k", 2)
    assert done.code == 0
    assert "captured  2 examples" in done.out
    assert "2 rows" in done.out
    assert "tiny-llama" in done.out


def test_a_dry_run_stores_nothing(capture: Any, tmp_path: Path) -> None:
    done = capture("--dry-run")
    assert done.code == 0
    assert f"rows      {ROWS * families.BLOCKS}" in done.out
    assert "on disk" in done.out
    assert not (tmp_path / "s.store" / "manifests").exists()
    told = json.loads(capture("--dry-run", "--json").out)
    assert told["estimate"]["rows"] == ROWS * families.BLOCKS


def test_recipes_bring_their_options_and_options_come_first(capture: Any, tmp_path: Path) -> None:
    pairs = [{"question": f"which : {n} ?", "positive": "a", "negative": "b c"} for n in range(3)]
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps(pairs))
    assert capture("--recipe", "contrastive", "--layers", "1", data=data).code == 0
    assert frame(tmp_path, "variant, label, region, pooling, layer") == [
        ("deploy", "deploy", "answer", "last", 1),
        ("test", "test", "answer", "last", 1),
    ]
    done = capture(
        "--recipe", "contrastive", "--pool", "prompt.mean", data=data, store="other.store"
    )
    assert done.code == 0
    assert frame(tmp_path, "region, pooling", store="other.store") == [("prompt", "mean")]


def test_pairs_are_labelled_by_agreement_afterwards(capture: Any, tmp_path: Path) -> None:
    pairs = [
        {"id": "p", "q1": "1 ?", "q2": "2 ?", "q1_answer": "zzz", "q2_answer": "zzz"},
        {"id": "r", "q1": "3 ?", "q2": "4 ?", "q1_answer": "zzz", "q2_answer": "zzz"},
    ]
    data = tmp_path / "question_pairs.json"
    data.write_text(json.dumps({"pairs": pairs}))
    done = capture(
        *("--recipe", "faithful-pairs", "--layers", "0", "--max-new-tokens", 6, "--json"), data=data
    )
    assert done.code == 0
    rows = frame(tmp_path, "example_id, variant, label, prediction")
    for name in ("p", "r"):
        answers = {row[3] for row in rows if row[0] == name}
        labels = {row[2] for row in rows if row[0] == name}
        empty = None in answers or "" in answers
        assert labels == ({None} if empty else {"faithful"})  # both are wrong


def test_only_some_and_bad_ones_are_refused_by_name(capture: Any, tmp_path: Path) -> None:
    assert capture("--only", "task=x", "--layers", "0").code == 0
    assert len(frame(tmp_path, "example_id")) == ROWS // 2
    long = tmp_path / "long.jsonl"
    long.write_text(
        json.dumps({"id": "short", "question": "1 ?"})
        + "\n"
        + json.dumps({"id": "long", "question": "1 " * 400})
        + "\n"
    )
    done = capture("--layers", "0", data=long, store="long.store")
    assert done.code == 3
    assert "refused: 1 example" in done.err
    assert "long" in done.err
    assert "the model takes 256" in done.err
    strict = capture("--layers", "0", "--strict", data=long, store="strict.store")
    assert strict.code == 1
    assert "the model takes 256" in strict.err


def test_the_lower_blocks_give_the_same_rows(capture: Any, tmp_path: Path) -> None:
    assert capture("--layers", "0,1").code == 0
    assert capture("--layers", "0,1", "--lower-blocks-only", store="part.store").code == 0
    whole = open_store(tmp_path / "s.store").select().numpy(mixed=True)
    part = open_store(tmp_path / "part.store").select().numpy(mixed=True)
    assert (whole == part).all()
    refused = capture("--lower-blocks-only", "--max-new-tokens", 2)
    assert refused.code == 2
    assert "need all blocks" in refused.err


def test_templates_can_be_chosen(capture: Any, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }} {{ tail }}{% endfor %}")
    done = capture(
        *("--template-file", template, "--template-option", "tail=answer", "--layers", "0"),
        *("--pool", "prompt.tokens", "--first-k", 1),
    )
    assert done.code == 0
    words = families.tokenizer()(["which is larger : 0 or 4 ? answer"], add_special_tokens=False)
    found = frame(tmp_path, "position, token_id")
    assert [token for _, token in found] == words["input_ids"][0]
    assert capture("--template-file", template, "--raw").code == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "missing.jsonl"], 1, "missing.jsonl: no such file"),
        (["--question", "nothing"], 1, "no column 'nothing'; there are key, ask, best, task"),
        (["--model", "./nowhere"], 1, "nowhere: no such folder"),
        (["--grade", "nearly"], 2, "grade 'nearly' is unknown"),
        (["--batch-size", "many"], 2, "batch size 'many'"),
        (["--recipe", "unheard-of"], 2, "no capture recipe 'unheard-of'"),
        (["--layers", "77"], 2, "77"),
        (["--pool", "prompt.median"], 2, "median"),
        (["--only", "color=red"], 2, "an example has no 'color'"),
        (["--device-map", "{"], 2, "not JSON"),
        (["--dtype", "int4"], 2, "int4"),
        (["--sites", "attn_pattern", "--attn", "sdpa"], 2, "attn_pattern needs eager attention"),
        (["--sites", "attn_pattern", "--pool", "prompt.mean"], 2, "rows of single query tokens"),
    ],
)
def test_one_clear_error(capture: Any, words: list[str], code: int, said: str) -> None:
    done = capture(*words)
    assert done.code == code
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_patterns_are_captured_with_eager_attention(capture: Any, tmp_path: Path) -> None:
    done = capture("--sites", "attn_pattern,head_out", "--pattern-length", 32, "--layers", 1)
    assert (done.code, done.err) == (0, "")
    store = open_store(tmp_path / "s.store")
    assert store.select(site="attn_pattern").heads().shape == (ROWS, 4, 32)
    assert store.select(site="head_out").heads().shape == (ROWS, 4, 8)


def test_the_command_is_in_the_list() -> None:
    assert "capture" in cli.COMMANDS


def test_what_is_stored_of_a_known_commit_does_not_load_the_model(
    capture: Any, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hub" / "models--org--tiny" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(model, folder)
    asked = ("--model", folder, "--layers", "0,2", "--batch-size", 4, "--json")
    first = json.loads(capture(*asked).out)
    assert (first["model"], first["rows"]) == ("org/tiny", 2 * ROWS)
    (folder / "model.safetensors").unlink()
    done = capture(*asked)
    assert (done.code, done.err) == (0, "")
    again = json.loads(done.out)
    assert (again["rows"], again["skipped"], again["run_id"]) == (0, ROWS, first["run_id"])
    assert again["notes"] == ["everything is stored already: no model was needed"]
    fewer = capture(*asked[:-1], "--layers", 2, "--first-k", 3)
    assert fewer.code == 0
    assert "0 examples, 3 were there already" in fewer.out
    # Another type, another layer, or the wish to see it done again: the model is needed.
    for more in (("--dtype", "bfloat16"), ("--layers", "all"), ("--no-resume",), ("--dry-run",)):
        failed = capture(*asked[:-1], *more)
        assert failed.code == 1
        assert "model.safetensors" in failed.err
    # Of a folder that is not named after a commit nobody knows whether its weights are the same.
    shutil.copytree(folder, tmp_path / "plain")
    plain = capture("--model", tmp_path / "plain", "--model-name", "org/tiny", "--layers", "0,2")
    assert plain.code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--engine", "vllm", "--device", "cpu"), "not with --engine vllm: vLLM takes the"),
        (("--engine", "vllm", "--lower-blocks-only"), "vLLM loads the whole model"),
        (("--engine", "vllm", "--attn", "eager"), "vLLM has attention of its own"),
        (("--engine", "vllm", "--engine-option", "enable_lora=true"), "no option 'enable_lora'"),
        (("--engine", "vllm", "--sites", "attn_pattern"), "never computes its weights"),
        (("--engine", "vllm", "--blocks", "model.layers"), "whose blocks it names itself"),
        (("--engine-option", "max_model_len=9"), "engine options (max_model_len) are for another"),
    ],
)
def test_what_an_engine_does_not_serve_is_told_before_anything_is_loaded(
    actstore: Command, questions: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    given = ("capture", "--model", tmp_path / "none", "--data", questions, "--question", "ask")
    done = actstore(*given, "--store", tmp_path / "s", *words)
    assert done.code in (1, 2)
    assert message in " ".join(done.err.split())
