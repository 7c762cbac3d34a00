"""Folders of no known layout: what only real libraries write, what options set, what is refused."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import RecipeError, UsageError
from actstore.ingestion.folder import recipe_of
from actstore.ingestion.inference import FolderMapping
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows
from tests.layouts.drawing import WIDTH, draw
from tests.layouts.folders import SHAPES

MODEL = "org/model"


def hidden_states(layers: int = 3, examples: int = 1) -> Any:
    """What a small model of transformers answers with ``output_hidden_states``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers, n_embd=WIDTH, n_head=2, vocab_size=32, n_positions=16)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        return model(torch.arange(5).repeat(examples, 1), output_hidden_states=True)


def columns(store: Path, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in stored_rows(store)]


def write(name: str, folder: Path) -> None:
    folder.mkdir()
    SHAPES[name].write(folder)


@pytest.mark.parametrize("key", [None, "hidden_states"])
def test_a_tuple_of_hidden_states_is_counted_as_transformers_counts(
    tmp_path: Path, key: str | None
) -> None:
    states = hidden_states().hidden_states
    torch.save(states if key is None else {key: states}, tmp_path / "p.pt")
    summary = ingest(tmp_path / "p.pt", tmp_path / "store", model=MODEL, yes=True)
    assert summary.mapping is not None
    assert {"layer = key1-1", "site = key1"} <= set(summary.mapping.guessed())
    places = [("embeddings", -1), ("final_norm", None), ("resid_post", 0), ("resid_post", 1)]
    rows = stored_rows(tmp_path / "store")
    assert sorted({(row["site"], row["layer"]) for row in rows}) == places
    order = {place: states[index] for index, place in zip((0, 3, 1, 2), places, strict=True)}
    for row in rows:
        expected = order[row["site"], row["layer"]][0, row["position"]].numpy()
        assert row["activation"].tobytes() == expected.tobytes()


def test_hidden_states_of_another_depth_are_refused_not_shifted(tmp_path: Path) -> None:
    torch.save(hidden_states(3).hidden_states, tmp_path / "a.pt")
    (tmp_path / "mine.toml").write_text(recipe_of(tmp_path / "a.pt").recipe.text)
    (tmp_path / "other").mkdir()
    torch.save(hidden_states(4).hidden_states, tmp_path / "other" / "a.pt")
    summary = ingest(tmp_path / "other", tmp_path / "s", model=MODEL, recipe=tmp_path / "mine.toml")
    assert "5 tensors {layer:int}, expected 4" in summary.refused[0].reason


def test_the_position_itself_can_be_the_layer(tmp_path: Path) -> None:
    torch.save(hidden_states().hidden_states, tmp_path / "p.pt")
    options: dict[str, Any] = {"model": MODEL, "site": "resid_pre", "layer_from": "key1"}
    ingest(tmp_path / "p.pt", tmp_path / "s", **options, example_from="name")
    assert {*columns(tmp_path / "s", "site", "layer")} == {("resid_pre", n) for n in range(4)}


def test_a_stack_of_hidden_states_names_the_option_that_shifts_it(tmp_path: Path) -> None:
    states = torch.stack(hidden_states().hidden_states).squeeze(1)
    torch.save({"hidden_states": states, "input_ids": torch.arange(5)}, tmp_path / "p.pt")
    with pytest.raises(UsageError, match="--layer-from axis0-1"):
        ingest(tmp_path / "p.pt", tmp_path / "s", model=MODEL)
    source, store = tmp_path / "p.pt", tmp_path / "s"
    ingest(source, store, model=MODEL, layer_from="axis0-1", example_from="name")
    assert {*columns(tmp_path / "s", "layer")} == {(-1,), (0,), (1,), (2,)}


def test_a_list_of_chosen_layers(tmp_path: Path) -> None:
    write("speculators", tmp_path / "f")
    ingest(tmp_path / "f", tmp_path / "s", model=MODEL, layer_from="key1=2,14,24")
    assert {*columns(tmp_path / "s", "layer")} == {(2,), (14,), (24,)}
    with pytest.raises(UsageError, match="2 layers for 3 positions"):
        ingest(tmp_path / "f", tmp_path / "t", model=MODEL, layer_from="key1=2,14")


@contextmanager
def library(module: str, name: str) -> Iterator[type]:
    """A class as a library that is not installed would have it."""
    parts = module.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    kind = type(name, (), {"__module__": module})
    for each in names:
        sys.modules[each] = types.ModuleType(each)
    setattr(sys.modules[module], name, kind)
    try:
        yield kind
    finally:
        for each in names:
            del sys.modules[each]


@pytest.mark.parametrize(
    ("module", "name", "advice"),
    [
        ("transformer_lens.ActivationCache", "ActivationCache", "dict(cache.items())"),
        ("nnsight.intervention.cache", "CacheView", "cache.keys()"),
    ],
)
def test_a_cache_object_is_refused_with_how_to_save_it(
    tmp_path: Path, module: str, name: str, advice: str
) -> None:
    with library(module, name) as kind:
        cache = kind()
        cache.cache_dict = {"blocks.0.hook_resid_post": draw(1, 3, WIDTH)}
        torch.save(cache, tmp_path / "cache.pt")
    with pytest.raises(RecipeError) as caught:
        ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert advice in str(caught.value)
    assert "torch.save(" in str(caught.value)


def test_a_model_output_is_refused_with_how_to_save_it(tmp_path: Path) -> None:
    torch.save(hidden_states(), tmp_path / "output.pt")
    with pytest.raises(RecipeError, match=r"output\.hidden_states"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_a_table_is_joined_by_the_examples_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        torch.save({"layer_3": draw(WIDTH)}, tmp_path / f"{name}.pt")
    (tmp_path / "meta.csv").write_text("file,label,group\na,x,1\nb,y,2\nc,x,3\nd,y,4\n")
    ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert columns(tmp_path / "s", "example_id", "label", "extra") == [
        ("a", "x", '{"group": "1"}'),
        ("b", "y", '{"group": "2"}'),
        ("c", "x", '{"group": "3"}'),
    ]


def test_a_table_as_long_as_both_axes_is_a_guess(tmp_path: Path) -> None:
    torch.save(draw(4, 4, WIDTH), tmp_path / "acts.pt")
    (tmp_path / "rows.csv").write_text("id\na\nb\nc\nd\n")
    with pytest.raises(UsageError, match=r"example = axis0 .*and so is axis1"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)
    ingest(tmp_path, tmp_path / "s", model=MODEL, example_from="axis1", layer_from="axis0")
    tensor = torch.load(tmp_path / "acts.pt")
    for row in stored_rows(tmp_path / "s"):
        expected = tensor[row["layer"], "abcd".index(row["example_id"])].numpy()
        assert row["activation"].tobytes() == expected.tobytes()


def test_of_two_tables_that_fit_one_is_a_guess(tmp_path: Path) -> None:
    torch.save({"layer_3": draw(4, WIDTH)}, tmp_path / "acts.pt")
    (tmp_path / "a.csv").write_text("label\nx\ny\nx\ny\n")
    (tmp_path / "b.csv").write_text("label\ny\ny\nx\ny\n")
    with pytest.raises(UsageError, match=r"table = a\.csv \(4 rows in order, as a\.csv, b\.csv"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_a_square_matrix_is_a_guess_even_with_labels(tmp_path: Path) -> None:
    document = {"acts": draw(WIDTH, WIDTH), "labels": torch.arange(WIDTH)}
    torch.save(document, tmp_path / "a.pt")
    with pytest.raises(UsageError, match="as long as the vectors"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_vectors_along_another_axis_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        torch.save({"layer_1": draw(WIDTH, 3 + number)}, tmp_path / f"p{number}.pt")
    with pytest.raises(RecipeError, match="save the tensors transposed"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    for number in range(2):
        document = {
            "layer_0": draw(3, WIDTH),
            "logits": draw(3, 20),
            "attentions": (draw(1, 2, 3, 3),),
            "centre": draw(WIDTH),
            "scores": draw(3, 1),
            "note": "hello",
        }
        torch.save(document, tmp_path / f"p{number}.pt")
    torch.save({"step": 3}, tmp_path / "state.pt")
    summary = ingest(tmp_path, tmp_path / "s", model=MODEL, dry_run=True)
    assert summary.mapping is not None
    left_out = dict(summary.mapping.left_out)
    assert {"logits", "attentions.{…}", "centre", "state.pt"} <= left_out.keys()
    assert left_out["scores"] == "[3, 1]: single numbers, no vectors"
    assert summary.rows_written == 6
    assert len(summary.sample_rows) == 3
    assert summary.sample_rows[0]["extra"] == '{"note": "hello"}'
    assert (summary.sample_rows[1]["position"], summary.sample_rows[2]["position"]) == (1, 2)


def test_weights_are_no_activations(tmp_path: Path) -> None:
    model = torch.nn.Linear(WIDTH, WIDTH)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(RecipeError, match=r"no recipe fits.*by its name no activations"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_guesses_can_be_asked_about(tmp_path: Path) -> None:
    write("bare matrices", tmp_path / "f")
    asked: list[FolderMapping] = []

    def answer(value: bool) -> Any:
        def ask(mapping: FolderMapping) -> bool:
            asked.append(mapping)
            return value

        return ask

    with pytest.raises(UsageError, match="--yes"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, confirm=answer(False))
    assert not (tmp_path / "s").exists()
    summary = ingest(tmp_path / "f", tmp_path / "s", model=MODEL, confirm=answer(True))
    assert [mapping.guessed() for mapping in asked] == [("example = axis0",)] * 2
    assert summary.mapping is not None
    assert summary.mapping.confirmed_by == "asked"
    assert "guessed, and confirmed by asked: example = axis0" in summary.notes


def test_an_option_takes_the_place_of_a_guess(tmp_path: Path) -> None:
    write("bare matrices", tmp_path / "f")
    ingest(tmp_path / "f", tmp_path / "rows", model=MODEL, example_from="axis0")
    summary = ingest(tmp_path / "f", tmp_path / "tokens", model=MODEL, example_from="name")
    assert summary.mapping is not None
    assert not summary.mapping.guesses
    assert {*columns(tmp_path / "rows", "example_id", "position")} == {
        (str(n), None) for n in range(4)
    }
    assert {*columns(tmp_path / "tokens", "example_id", "position")} == {
        (name, n) for name in ("layer_02", "layer_05") for n in range(4)
    }


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    write("vector per layer", tmp_path / "f")
    with pytest.raises(UsageError, match=r"--layer-from key2: .*key1, name"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, layer_from="key2")
    with pytest.raises(UsageError, match=r"--example-from 'keys': expected name"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, example_from="keys")
    with pytest.raises(UsageError, match="leave them out, or --recipe"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, example_from="name", recipe="amber")


def test_a_known_layout_can_be_read_by_its_shape(tmp_path: Path) -> None:
    for number in range(2):
        torch.save({"activations": {0: draw(WIDTH)}}, tmp_path / f"sample_{number}.pt")
    assert ingest(tmp_path, tmp_path / "a", model=MODEL).recipe == "amber"
    ingest(tmp_path, tmp_path / "s", model=MODEL, recipe="folder", yes=True)
    assert columns(tmp_path / "s", "example_id", "site") == [
        ("sample_0", "unknown"),
        ("sample_1", "unknown"),
    ]


def test_matrices_of_numpy_stay_rows_of_examples(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    np.savez(folder / "a.npz", acts=draw(3, WIDTH).numpy())
    summary = ingest(folder, tmp_path / "s", model=MODEL)
    assert summary.recipe == "numpy"
    np.savez(folder / "a.npz", acts=draw(2, 3, WIDTH).numpy())
    with pytest.raises(UsageError, match="axis1"):
        ingest(folder, tmp_path / "s", model=MODEL)
    assert ingest(folder, tmp_path / "t", model=MODEL, recipe="numpy").rows_written == 6


def test_caches_in_folders_are_data_sets(tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        for number in range(2):
            torch.save({"L1": draw(WIDTH)}, tmp_path / name / f"p{number}.pt")
    summary = ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert summary.datasets == {"north": 2, "south": 2}
    assert summary.mapping is not None
    assert ("dataset", "folder1") in {(e.role, e.place) for e in summary.mapping.assignments}


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    write("vector per layer", tmp_path / "f")
    (tmp_path / "f" / "prompt_1.pt").write_bytes(b"PK damaged")
    torch.save({"L3": draw(WIDTH)}, tmp_path / "f" / "prompt_9.pt")
    summary = ingest(tmp_path / "f", tmp_path / "s", model=MODEL)
    assert [each.path for each in summary.refused] == ["prompt_1.pt"]
    assert summary.rows_written == 5


def test_an_odd_key_is_no_template(tmp_path: Path) -> None:
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump({"acts {of} *": {"layer_1": draw(WIDTH).numpy()}}, file)
    ingest(tmp_path, tmp_path / "s", model=MODEL, site="resid_post")
    assert columns(tmp_path / "s", "example_id", "layer") == [("a", 1)]


@pytest.mark.parametrize(
    ("acts", "ids", "guess"),
    [
        ((5, 5, WIDTH), (5,), r"token = axis1 .*and so is axis0"),
        ((4, WIDTH), (4, 4), r"token = axis0 .*as many lists"),
    ],
)
def test_token_ids_of_more_than_one_fit_are_a_guess(
    tmp_path: Path, acts: tuple[int, ...], ids: tuple[int, ...], guess: str
) -> None:
    torch.save({"acts": draw(*acts), "input_ids": torch.zeros(ids).long()}, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=guess):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_vectors_of_many_prompts_are_not_their_tokens(tmp_path: Path) -> None:
    document = {"acts": draw(5, WIDTH), "input_ids": torch.zeros(5, 4).long()}
    torch.save(document, tmp_path / "a.pt")
    ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert columns(tmp_path / "s", "example_id", "position") == [(f"a:{n}", None) for n in range(5)]


def test_a_pooling_in_a_key_is_that_of_its_rows(tmp_path: Path) -> None:
    torch.save({"mean_pooled": {"layer_3": draw(4, WIDTH)}}, tmp_path / "acts.pt")
    ingest(tmp_path, tmp_path / "s", model=MODEL, yes=True)
    assert columns(tmp_path / "s", "layer", "pooling") == [(3, "mean")] * 4


def test_a_table_that_does_not_fit_is_named(tmp_path: Path) -> None:
    torch.save({"acts": draw(5, WIDTH), "labels": torch.arange(5)}, tmp_path / "a.pt")
    (tmp_path / "scores.csv").write_text("a\n1\n2\n")
    summary = ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert summary.mapping is not None
    ((path, reason),) = summary.mapping.left_out
    assert path == "scores.csv"
    assert reason.startswith("2 rows")


def test_first_k_counts_what_keys_and_entries_name(tmp_path: Path) -> None:
    write("list of dicts", tmp_path / "entries")
    write("examples by key", tmp_path / "keys")
    ingest(tmp_path / "entries", tmp_path / "s", model=MODEL, first_k=2)
    assert {row["example_id"] for row in stored_rows(tmp_path / "s")} == {"x0", "x1"}
    ingest(tmp_path / "keys", tmp_path / "t", model=MODEL, first_k=2, yes=True)
    assert columns(tmp_path / "t", "example_id") == [("a cat",), ("a dog",)]


def test_tensors_beside_matrices_of_numpy_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "layer_1.npy", draw(3, WIDTH).numpy())
    torch.save(draw(3, WIDTH), tmp_path / "f" / "layer_2.pt")
    summary = ingest(tmp_path / "f", tmp_path / "s", model=MODEL, example_from="axis0")
    assert summary.layers == (1, 2)
    with pytest.raises(UsageError, match="--yes"):
        ingest(tmp_path / "f", tmp_path / "t", model=MODEL)


def test_names_that_anybody_gives_are_not_taken_for_a_known_layout(tmp_path: Path) -> None:
    """Recipes whose files are told by names alone fill in what these folders do not say."""
    for layer in (0, 1):
        (tmp_path / "layers" / f"layer_{layer}").mkdir(parents=True)
        torch.save(draw(4, WIDTH), tmp_path / "layers" / f"layer_{layer}" / "activations.pt")
    (tmp_path / "prompts").mkdir()
    for number in range(2):
        document = {"prompt": "Why?", "activations": {"layer_0": draw(WIDTH)}}
        torch.save(document, tmp_path / "prompts" / f"{number}.pt")
    ingest(tmp_path / "layers", tmp_path / "s", model=MODEL, example_from="axis0")
    found = ingest(tmp_path / "layers", tmp_path / "t", model=MODEL, dry_run=True)
    assert found.recipe == "folder"
    assert {*columns(tmp_path / "s", "site", "pooling", "region")} == {("unknown", "unknown", None)}
    assert ingest(tmp_path / "prompts", tmp_path / "u", model=MODEL).recipe == "folder"
    assert columns(tmp_path / "u", "pooling", "question") == [("unknown", "Why?")] * 2


def test_weights_in_safetensors_are_no_activations(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {f"model.layers.{n}.mlp.up_proj.weight": draw(WIDTH, WIDTH) for n in range(2)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match=r"by its name no activations.*--recipe safetensors"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)


def test_layers_behind_the_tokens(tmp_path: Path) -> None:
    for number in range(2):
        states = draw(4 + number, 3, WIDTH)
        document = {"states": states, "token_ids": torch.arange(4 + number)}
        torch.save(document, tmp_path / f"p{number}.pt")
    ingest(tmp_path, tmp_path / "s", model=MODEL, yes=True)
    for row in stored_rows(tmp_path / "s"):
        states = torch.load(tmp_path / f"{row['example_id']}.pt")["states"]
        expected = states[row["position"], row["layer"]].numpy()
        assert row["activation"].tobytes() == expected.tobytes()
        assert row["token_id"] == row["position"]


def test_ids_by_which_a_table_is_joined_stay_the_files_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.save({"layer_3": draw(WIDTH)}, tmp_path / f"{name}.pt")
    (tmp_path / "meta.csv").write_text("id,label\nb,x\na,y\nc,z\n")
    ingest(tmp_path, tmp_path / "s", model=MODEL)
    assert columns(tmp_path / "s", "example_id", "label") == [("a", "y"), ("b", "x")]


def test_depths_that_would_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f" / "deep").mkdir(parents=True)
    for number in range(3):
        torch.save(draw(5 + number, WIDTH), tmp_path / "f" / f"p{number}.pt")
        torch.save(draw(5, WIDTH), tmp_path / "f" / "deep" / f"p{number}.pt")
    with pytest.raises(RecipeError, match=r"\[token, hidden\].*\[layer, hidden\]|one by one"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, yes=True)


@pytest.mark.parametrize("first", [0, 1])
def test_a_table_can_be_joined_by_the_files_numbers(tmp_path: Path, first: int) -> None:
    for number in range(first, first + 3):
        torch.save({"layer_3": draw(WIDTH)}, tmp_path / f"prompt_{number:03d}.pt")
    (tmp_path / "prompts.csv").write_text("question,label\nQ0,x\nQ1,y\nQ2,z\n")
    with pytest.raises(UsageError, match=f"table = prompts.csv .*files' numbers, from {first}"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)
    ingest(tmp_path, tmp_path / "s", model=MODEL, yes=True)
    assert columns(tmp_path / "s", "example_id", "question", "label") == [
        (f"prompt_{first + at:03d}", f"Q{at}", "xyz"[at]) for at in range(3)
    ]


@pytest.mark.parametrize("first", [0, 1, 5])
def test_keys_that_number_examples_are_joined_from_their_first(tmp_path: Path, first: int) -> None:
    vectors = {f"prompt_{number}": draw(WIDTH) for number in range(first, first + 3)}
    torch.save({"layer_3": vectors}, tmp_path / "a.pt")
    (tmp_path / "rows.csv").write_text("label\nx\ny\nz\n")
    summary = ingest(tmp_path, tmp_path / "s", model=MODEL)
    labels = [label for (label,) in columns(tmp_path / "s", "label")]
    assert labels == (["x", "y", "z"] if first < 2 else [None] * 3)
    assert summary.mapping is not None
    assert bool(summary.mapping.left_out) == (first == 5)


def saved(folder: Path, *names: str, **beside: Any) -> Path:
    folder.mkdir()
    for name in names:
        torch.save({"L3": draw(WIDTH), **beside}, folder / f"{name}.pt")
    return folder


def test_a_class_in_the_files_names_can_be_declined(tmp_path: Path) -> None:
    folder = saved(tmp_path / "f", "q1_correct", "q1_incorrect")
    with pytest.raises(UsageError, match="correct or incorrect in the file's name"):
        ingest(folder, tmp_path / "s", model=MODEL)
    ingest(folder, tmp_path / "s", model=MODEL, example_from="name")
    assert columns(tmp_path / "s", "example_id", "variant", "label") == [
        ("q1_correct", None, None),
        ("q1_incorrect", None, None),
    ]


@pytest.mark.parametrize(
    "names",
    [("q1_true", "q2_true"), ("q1_true", "q1-false"), ("q1_yes", "q2"), ("q1_up", "q1_down")],
    ids="_".join,
)
def test_what_is_not_one_of_two_classes_stays_in_the_name(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    ingest(saved(tmp_path / "f", *names), tmp_path / "s", model=MODEL)
    assert {*columns(tmp_path / "s", "example_id", "label")} == {(name, None) for name in names}


def test_a_label_that_the_file_or_a_table_holds_comes_before_its_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "f", "q1_true", "q1_false", label="mine")
    ingest(folder, tmp_path / "s", model=MODEL, yes=True)
    assert {*columns(tmp_path / "s", "example_id", "variant", "label")} == {
        ("q1", "true", "mine"),
        ("q1", "false", "mine"),
    }
    beside = saved(tmp_path / "g", "q1_true", "q1_false")
    (beside / "rows.csv").write_text("id,label\nq1_true,A\nq1_false,B\n")
    ingest(beside, tmp_path / "t", model=MODEL)
    found = columns(tmp_path / "t", "example_id", "label")
    assert sorted(found) == [("q1_false", "B"), ("q1_true", "A")]
