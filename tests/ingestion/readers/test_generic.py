"""Folders of safetensors and NumPy files, and what any recipe can say without Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actstore.errors import RecipeError, UsageError
from actstore.ingestion.recipes import parse
from actstore.ingestion.run import ingest
from tests.ingestion.storing import Row, stored_rows

MODEL = "org/model"


def matrix(rows: int, width: int = 8, seed: int = 0, dtype: Any = np.float16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def columns(store: Path, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in stored_rows(store)]


def assert_vectors(store: Path, expected: np.ndarray) -> None:
    found = np.stack([row["activation"] for row in stored_rows(store)])
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_a_safetensors_file_named_by_hooks(tmp_path: Path) -> None:
    values = {
        "blocks.3.hook_resid_post": torch.from_numpy(matrix(4)),
        "model.layers.12": torch.from_numpy(matrix(4, seed=1)),
        "blocks.0.hook_resid_pre": torch.from_numpy(matrix(4, seed=2)).bfloat16(),
    }
    save_file(values, tmp_path / "run.safetensors")
    summary = ingest(tmp_path / "run.safetensors", tmp_path / "store", model=MODEL)
    assert (summary.recipe, summary.detected) == ("safetensors", True)
    assert columns(tmp_path / "store", "site", "layer", "example_id", "example_index") == [
        (site, layer, f"run:{row}", row)
        for site, layer in (("resid_post", 3), ("resid_post", 12), ("resid_pre", 0))
        for row in range(4)
    ]
    rows = stored_rows(tmp_path / "store")
    assert rows[8]["activation"].dtype == np.float32
    assert rows[8]["source"] == "run.safetensors#blocks.0.hook_resid_pre"
    assert {row["pooling"] for row in rows} == {"unknown"}


def test_a_file_per_layer_gives_an_example_one_id(tmp_path: Path) -> None:
    for layer in (2, 10):
        for name in ("pos", "neg"):
            path = tmp_path / "caches" / f"{name}_layer_{layer}.npz"
            path.parent.mkdir(exist_ok=True)
            np.savez(path, acts=matrix(3, seed=layer))
    summary = ingest(tmp_path / "caches", tmp_path / "store", model=MODEL, site="hook_resid_pre")
    assert summary.layers == (2, 10)
    assert columns(tmp_path / "store", "layer", "variant", "example_id", "site") == [
        (layer, name, str(row), "resid_pre")
        for layer in (2, 10)
        for name in ("neg", "pos")
        for row in range(3)
    ]


def test_a_vector_per_file_is_called_like_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    values = matrix(12, dtype=np.float32)
    for number, vector in enumerate(values):
        np.save(folder / f"prompt_{number}.npy", vector)
    summary = ingest(folder, tmp_path / "store", model=MODEL, site="resid_post", layer=5)
    assert summary.layers == (5,)
    names = [(f"prompt_{number}", f"prompt_{number}.npy") for number in range(12)]
    assert columns(tmp_path / "store", "example_id", "source") == names
    assert_vectors(tmp_path / "store", values)


def test_columns_of_the_schema_are_found_in_the_file(tmp_path: Path) -> None:
    values = matrix(4)
    np.savez(
        tmp_path / "a.npz",
        acts=values,
        example_id=np.array(["w", "x", "y", "z"]),
        label=np.array([1, 0, 1, 1]),
        model=np.array("from/file"),
        layer=np.array(7),
        score=np.array([0.5, np.nan, 1.5, 2.5], np.float32),
        seed=np.array(11),
    )
    ingest(tmp_path / "a.npz", tmp_path / "store")
    names = ("example_id", "label", "model", "layer", "extra")
    found = columns(tmp_path / "store", *names)
    assert found[1] == ("x", "0", "from/file", 7, '{"seed": 11, "score": "nan"}')
    assert [json.loads(row[4])["score"] for row in found] == [0.5, "nan", 1.5, 2.5]
    assert_vectors(tmp_path / "store", values)


def test_columns_can_be_mapped(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", acts=matrix(3), other=matrix(3, width=5), y=np.array([3, 1, 2]))
    ingest(
        tmp_path / "a.npz",
        tmp_path / "store",
        model=MODEL,
        map={"activation": "acts", "label": "y", "task": "{stem}", "variant": "{row}"},
    )
    assert columns(tmp_path / "store", "label", "task", "variant") == [
        ("3", "a", "0"),
        ("1", "a", "1"),
        ("2", "a", "2"),
    ]
    with pytest.raises(UsageError, match="--map labels"):
        ingest(tmp_path / "a.npz", tmp_path / "store", model=MODEL, map={"labels": "y"})


def test_what_is_not_recorded_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix(3))
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "a.npy", tmp_path / "store")
    summary = ingest(tmp_path / "a.npy", tmp_path / "store", model=MODEL)
    assert summary.sites == ("unknown",)
    assert any("--site" in note for note in summary.notes)


def test_folders_become_data_sets(tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / "caches" / name / "deep").mkdir(parents=True)
        np.save(tmp_path / "caches" / name / "deep" / "a.npy", matrix(2, seed=len(name)))
    summary = ingest(tmp_path / "caches", tmp_path / "store", model=MODEL, site="s")
    assert summary.datasets == {"north": 2, "south": 2}
    ingest(tmp_path / "caches/north", tmp_path / "other", model=MODEL, site="s", dataset="mine")
    assert columns(tmp_path / "other", "dataset") == [("mine",)] * 2


RECIPE = """
name = "mine"
title = "Sequences with token ids and a padding mask"
container = "numpy"
required = ["hidden_states"]
[[files]]
path = "{task}/{key}.npz"
[[tensors]]
key = "hidden_states"
axes = [
  ["token", "hidden"],
  ["example", "token", "hidden"],
  ["example", "layer", "token", "hidden"],
]
squeeze = false
mask = "{file.attention_mask}"
width = "{file.d_model}"
[columns]
example_id = "{path.key}-{row}"
task = "{path.task}"
model = "org/model"
site = "hook_resid_post"
pooling = "unknown"
layer = "{axis.layer}"
token_id = "{file.input_ids[token]}"
label = { from = "{file.correct[*]}", map = { "1" = "right", "0" = "wrong" } }
prediction = { from = "{file.response[*]}", pattern = "ANSWER: *(.+)", default = "none given" }
"""


def write_sequences(folder: Path, *, layers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    shape = (2, *([layers] if layers else []), 3, 4)
    states = np.random.default_rng(1).standard_normal(shape).astype(np.float16)
    ids = np.array([[5, 6, 7], [8, 9, 0]])
    (folder / "sums").mkdir(parents=True)
    np.savez(
        folder / "sums" / "b1.npz",
        hidden_states=states,
        input_ids=ids,
        attention_mask=np.array([[1, 1, 1], [1, 1, 0]]),
        correct=np.array([1, 0]),
        response=np.array(["ANSWER: 4", "dunno"]),
        d_model=np.array(4),
    )
    (folder / "mine.toml").write_text(RECIPE)
    return states, ids


def test_tokens_are_stored_one_by_one_without_padding(tmp_path: Path) -> None:
    states, _ = write_sequences(tmp_path)
    summary = ingest(tmp_path, tmp_path / "store", recipe=tmp_path / "mine.toml")
    names = ("example_id", "position", "token_id", "pooling", "label", "prediction", "site")
    assert columns(tmp_path / "store", *names) == [
        ("b1-0", 0, 5, "none", "right", "4", "resid_post"),
        ("b1-0", 1, 6, "none", "right", "4", "resid_post"),
        ("b1-0", 2, 7, "none", "right", "4", "resid_post"),
        ("b1-1", 0, 8, "none", "wrong", "none given", "resid_post"),
        ("b1-1", 1, 9, "none", "wrong", "none given", "resid_post"),
    ]
    assert_vectors(tmp_path / "store", np.concatenate([states[0], states[1, :2]]))
    assert summary.unmatched == ("mine.toml",)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("first", lambda states: states[:, 0]),
        ("last", lambda states: np.stack([states[0, 2], states[1, 1]])),
        ("max", lambda states: np.stack([states[0].max(axis=0), states[1, :2].max(axis=0)])),
        (
            "mean",
            lambda states: np.stack(
                [
                    states[0].astype(np.float32).sum(axis=0) / np.float32(3),
                    states[1, :2].astype(np.float32).sum(axis=0) / np.float32(2),
                ]
            ),
        ),
    ],
)
def test_tokens_are_pooled_without_padding(tmp_path: Path, pool: Any, expected: Any) -> None:
    states, _ = write_sequences(tmp_path)
    ingest(tmp_path, tmp_path / "store", recipe=tmp_path / "mine.toml", pool=pool)
    names = ("pooling", "token_count", "position", "token_id")
    assert columns(tmp_path / "store", *names) == [(pool, 3, None, None), (pool, 2, None, None)]
    assert_vectors(tmp_path / "store", expected(states))


def test_a_layer_axis_becomes_layers(tmp_path: Path) -> None:
    states, _ = write_sequences(tmp_path, layers=2)
    text = RECIPE.replace('mask = "{file.attention_mask}"\n', "")
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(text), pool="last")
    assert summary.layers == (0, 1)
    assert columns(tmp_path / "store", "layer", "example_id", "label") == [
        (0, "b1-0", "right"),
        (0, "b1-1", "wrong"),
        (1, "b1-0", "right"),
        (1, "b1-1", "wrong"),
    ]
    assert_vectors(tmp_path / "store", np.concatenate([states[:, 0, -1], states[:, 1, -1]]))


def test_first_k_counts_examples(tmp_path: Path) -> None:
    write_sequences(tmp_path)
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(RECIPE), first_k=1)
    assert summary.rows_written == 3
    assert {row["example_id"] for row in stored_rows(tmp_path / "store")} == {"b1-0"}


def test_a_rank_that_no_axes_describe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    np.savez(tmp_path / "t" / "a.npz", hidden_states=np.zeros(5, np.float32))
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(RECIPE))
    assert "shape [5]" in summary.refused[0].reason
    assert "[token, hidden]" in summary.refused[0].reason


REST = """
name = "rest"
container = "torch"
[[files]]
path = "{key}.pt"
[[tensors]]
key = "v"
axes = [["hidden"], ["example", "hidden"]]
[columns]
example_id = "{path.key}-{row}"
site = "s"
pooling = "last"
model = "m"
label = "{sidecar.answers.verdict}"
[[sidecars]]
name = "answers"
paths = ["answers.csv"]
row = "{row}"
"""


def test_what_no_column_takes_goes_to_extra(tmp_path: Path) -> None:
    document = {
        "v": torch.ones(2, 3),
        "prompt": "Why?",
        "scores": [0.5, 0.25],
        "meta": {"t": 0.7, "secret": 1},
        "other": torch.zeros(4),
    }
    torch.save(document, tmp_path / "a.pt")
    (tmp_path / "answers.csv").write_text("verdict\ngood\nbad\n")
    more = (
        '[extra]\ndrop = ["meta.secret"]\nadd = { from = "{name}", verdict = "{sidecar.answers}" }'
    )
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(REST + more))
    assert [
        (label, json.loads(extra)) for label, extra in columns(tmp_path / "store", "label", "extra")
    ] == [
        (
            verdict,
            {
                "prompt": "Why?",
                "meta": {"t": 0.7},
                "scores": score,
                "from": "a.pt",
                "verdict": {"verdict": verdict},
            },
        )
        for verdict, score in (("good", 0.5), ("bad", 0.25))
    ]
    assert summary.unmatched == ()
    assert "tensors 'other' that the recipe does not name, left out: 1" in summary.notes
    assert "sidecar answers: answers.csv, joined 2 of 2" in summary.notes
    ingest(tmp_path, tmp_path / "bare", recipe=parse(REST + "[extra]\nkeep = false"))
    assert columns(tmp_path / "bare", "extra") == [(None,), (None,)]


def test_a_table_that_is_needed_and_missing_refuses_the_file(tmp_path: Path) -> None:
    torch.save({"v": torch.ones(2, 3)}, tmp_path / "a.pt")
    recipe = parse(REST + "required = true\ncomplete = false")
    summary = ingest(tmp_path, tmp_path / "store", recipe=recipe)
    assert "sidecar answers is missing" in summary.refused[0].reason
    (tmp_path / "answers.csv").write_text("verdict\ngood\n")
    ingest(tmp_path, tmp_path / "store", recipe=recipe)
    assert columns(tmp_path / "store", "label") == [("good",), (None,)]


def test_two_generic_kinds_ask_for_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", matrix(2))
    save_file({"x": torch.zeros(2, 3)}, tmp_path / "b.safetensors")
    with pytest.raises(RecipeError, match=r"numpy, safetensors.*--recipe"):
        ingest(tmp_path, tmp_path / "store", model=MODEL)
    summary = ingest(tmp_path, tmp_path / "store", model=MODEL, recipe="numpy")
    assert summary.unmatched == ("b.safetensors",)


def test_large_matrices_come_in_pieces(tmp_path: Path) -> None:
    values = np.arange(5000 * 4096, dtype=np.float32).reshape(5000, 4096)
    np.save(tmp_path / "big.npy", values)
    ingest(tmp_path / "big.npy", tmp_path / "store", model=MODEL, site="s")
    rows: list[Row] = stored_rows(tmp_path / "store")
    assert [row["example_index"] for row in rows] == list(range(5000))
    for row in (0, 2047, 2048, 4999):
        assert rows[row]["activation"].tobytes() == values[row].tobytes()


def test_a_row_that_a_joined_table_lacks_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "layer_3.npy", matrix(6))
    lines = ["id", *(f"q{number}" for number in range(5))]
    (tmp_path / "in" / "rows.csv").write_text("\n".join(lines))
    recipe = parse("""
        name = "mine"
        title = "mine"
        container = "numpy"
        files = [{ path = "layer_{layer:int}.npy" }]
        tensors = [{ axes = [["example", "hidden"]] }]
        sidecars = [{ name = "rows", paths = ["rows.csv"], row = "{row}", complete = false }]
        [columns]
        example_id = "{sidecar.rows.id}"
        layer = "{path.layer}"
        site = "resid_post"
        pooling = "last"
    """)
    summary = ingest(tmp_path / "in", tmp_path / "s", model=MODEL, recipe=recipe)
    reason = summary.refused[0].reason
    assert "example_id, which every row needs, in 1 of 6 rows, the first of them number 5" in reason


def test_the_first_examples_of_a_matrix_keep_their_own_values(tmp_path: Path) -> None:
    values = matrix(5)
    known: dict[str, Any] = {"example_id": list("vwxyz"), "label": [0, 1, 1, 0, 1]}
    np.savez(tmp_path / "a.npz", acts=values, **known)
    torch.save({"hidden": torch.from_numpy(values)[:, None], **known}, tmp_path / "b.pt")
    for name in ("a.npz", "b.pt"):
        store = tmp_path / f"{name}.store"
        ingest(tmp_path / name, store, model=MODEL, layer=3, first_k=2, yes=True)
        assert columns(store, "example_id", "label") == [("v", "0"), ("w", "1")]
        assert_vectors(store, values[:2])


def test_a_mapped_name_that_is_not_there_is_said(tmp_path: Path) -> None:
    for layer in (3, 4):
        np.savez(tmp_path / f"layer_{layer}.npz", acts=matrix(2), y=[0, 1])
    wrong = ingest(tmp_path, tmp_path / "s", model=MODEL, map={"label": "z"}, dry_run=True)
    assert any("without 'z', so that --map label=z gives nothing: 2" in n for n in wrong.notes)
    right = ingest(tmp_path, tmp_path / "s", model=MODEL, map={"label": "y"})
    assert not any("gives nothing" in note for note in right.notes)


@pytest.mark.parametrize("values", [["a", "b"], ["a"], [], list("abcdefg"), torch.tensor([0, 1])])
def test_a_list_of_another_length_than_the_rows_is_refused(tmp_path: Path, values: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    torch.save({"acts": torch.ones(5, 4), "y": values}, folder / "layer_3.pt")
    counted = "1 value" if len(values) == 1 else f"{len(values)} values"
    for where in ("y", "{file.y[row]}"):
        summary = ingest(
            folder, tmp_path / "s", model=MODEL, site="mlp_out", map={"label": where}, yes=True
        )
        assert summary.rows_written == 0
        assert f"y holds {counted} for 5 rows" in summary.refused[0].reason


def test_a_list_that_all_rows_share_is_kept_whole(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Why?"}]
    torch.save({"acts": torch.ones(5, 4), "chat": chat, "tags": ["a", "b"]}, tmp_path / "a.pt")
    torch.save({"acts": torch.ones(1, 4), "tags": ["a", "b"]}, tmp_path / "b.pt")
    for name, where in (("a.pt", "chat"), ("a.pt", "{file.tags}"), ("b.pt", "tags")):
        store = tmp_path / f"{name}-{len(where)}.store"
        ingest(
            tmp_path / name,
            store,
            model=MODEL,
            site="mlp_out",
            layer=3,
            map={"question": where},
            yes=True,
        )
        shared = chat if where == "chat" else ["a", "b"]
        assert all(json.loads(text) == shared for (text,) in columns(store, "question"))


@pytest.mark.parametrize(("examples", "rows"), [(3, 2), (2, 3), (1, 2)])
def test_a_table_of_another_length_than_the_examples_is_not_joined_in_part(
    tmp_path: Path, examples: int, rows: int
) -> None:
    torch.save({"v": torch.rand(examples, 3)}, tmp_path / "a.pt")
    (tmp_path / "answers.csv").write_text("verdict\n" + "good\nbad\nodd\n"[: 5 * rows - 1] + "\n")
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(REST))
    (refused,) = summary.refused
    said = f"answers.csv has {rows} rows for {examples} example"
    assert said in refused.reason, refused.reason
    ingest(tmp_path, tmp_path / "part", recipe=parse(REST + "complete = false\n"))
    labels = ["good", "bad", "odd"][:rows] + [None] * 3
    assert columns(tmp_path / "part", "label") == [(each,) for each in labels[:examples]]


def test_a_row_that_a_table_does_not_have_is_refused_as_is_one_that_is_no_number(
    tmp_path: Path,
) -> None:
    by_name = REST.replace('row = "{row}"', 'row = "{path.key}"')
    for name in ("0", "1", "7", "1.5", "x"):
        torch.save({"v": torch.rand(3)}, tmp_path / f"{name}.pt")
    (tmp_path / "answers.csv").write_text("verdict\ngood\nbad\n")
    summary = ingest(tmp_path, tmp_path / "store", recipe=parse(by_name))
    assert columns(tmp_path / "store", "label") == [("good",), ("bad",)]
    reasons = {each.path: each.reason for each in summary.refused}
    assert reasons.keys() == {"1.5.pt", "7.pt", "x.pt"}
    assert "2 rows for row 7, from 0" in reasons["7.pt"]
    assert "row = {path.key} is 'x'; expected a whole number" in reasons["x.pt"]
    first_k = ingest(tmp_path / "0.pt", tmp_path / "s", recipe=parse(REST), first_k=1)
    assert "2 rows for 1 example" in first_k.refused[0].reason
