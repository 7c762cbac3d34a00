"""Activations in memory become rows: bits kept, tokens pooled or told apart, all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import (
    ConflictError,
    LayoutError,
    NonFiniteError,
    PrecisionError,
    StoreError,
    UsageError,
)
from actstore.ingestion.memory import write
from actstore.storage.snapshot import open_snapshot
from tests.ingestion.storing import stored_rows
from tests.ingestion.tiny import IDS, MODEL, hooked, tiny_model


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def meta(count: int, **more: Any) -> dict[str, Any]:
    return {"example_id": [f"e{number}" for number in range(count)], **more}


def test_a_new_store_is_made_and_is_open_at_what_was_written(tmp_path: Path) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    assert (store.commit, store.rows, store.models, store.labels) == (0, 0, [], {})
    assert store.sql("SELECT count(*) FROM activations").fetchall() == [(0,)]
    acts = values(3, 4)
    done = store.write(
        {"blocks.2.hook_resid_post": acts, ("mlp_out", 2): acts.half()},
        meta(3, label=["yes", "no", None], question="Què?", score=[0.5, 1, 2]),
        model=MODEL,
        dataset="data",
        pool="prompt.last",
    )
    assert (done.commit, done.rows_written, done.rows_present, done.examples) == (1, 6, 0, 3)
    assert (store.commit, store.rows) == (1, 6)
    found = store.select(site="resid_post", layer=2)
    np.testing.assert_array_equal(found.numpy(), acts.numpy())
    half = store.select(site="mlp_out").numpy()
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, acts.half().numpy())
    row = stored_rows(tmp_path / "s")[-1]
    assert (row["pooling"], row["region"]) == ("last", "prompt")
    assert (row["model"], row["dataset"], row["question"]) == (MODEL, "data", "Què?")
    assert row["source"] == "blocks.2.hook_resid_post"
    assert row["example_id"] == "e2"
    assert row["label"] is None
    assert json.loads(row["extra"]) == {"score": 2}
    run = open_snapshot(tmp_path / "s").manifest.runs[0]
    assert (run.kind, run.settings["pool"]) == ("write", "prompt.last")
    assert run.settings["names"] == ["blocks.2.hook_resid_post", "mlp_out, layer 2"]


def test_a_store_that_is_there_is_opened_by_create(tmp_path: Path) -> None:
    write(tmp_path / "s", {("resid_post", 0): values(1, 4)}, meta(1), model=MODEL)
    store = actstore.open(tmp_path / "s", create=True)
    assert store.rows == 1
    with pytest.raises(UsageError, match="without a commit"):
        actstore.open(tmp_path / "s", 1, create=True)
    with pytest.raises(UsageError, match="in a folder"):
        actstore.open("hf://datasets/org/name", create=True)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StoreError, match="is no store and not empty"):
        actstore.open(tmp_path, create=True)


def test_what_is_there_is_skipped_and_what_differs_refused_as_a_whole(tmp_path: Path) -> None:
    store = actstore.open(tmp_path / "s", create=True)
    acts = values(3, 4)
    store.write({("resid_post", 0): acts[:2]}, meta(2), model=MODEL)
    more = store.write({("resid_post", 0): acts}, meta(3), model=MODEL)
    assert (more.rows_written, more.rows_present, more.commit) == (1, 2, 2)
    same = store.write({("resid_post", 0): acts}, meta(3, label="new"), model=MODEL)
    assert (same.rows_written, same.rows_present, same.rows_differing) == (0, 3, 3)
    assert same.commit is None
    changed = acts.clone()
    changed[1, 0] += 1
    with pytest.raises(ConflictError, match="example_id=e1"):
        store.write({("mlp_out", 0): acts, ("resid_post", 0): changed}, meta(3), model=MODEL)
    assert actstore.open(tmp_path / "s").sites == ["resid_post"]
    assert store.commit == 2


def test_bfloat16_is_exact_and_float64_only_where_it_is(tmp_path: Path) -> None:
    brief = values(2, 8).bfloat16()
    write(tmp_path / "s", {("resid_post", 0): brief}, meta(2), model=MODEL)
    found = actstore.open(tmp_path / "s").select().numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, brief.float().numpy())
    double = np.array([[1 / 3, 1.0]])
    with pytest.raises(PrecisionError, match="resid_post, layer 1, example e0"):
        write(tmp_path / "s", {("resid_post", 1): double}, meta(1), model=MODEL)
    write(
        tmp_path / "s",
        {("resid_post", 1): double},
        meta(1),
        model=MODEL,
        storage_dtype="float32",
        allow_rounding=True,
    )


def test_nan_is_refused_with_its_place(tmp_path: Path) -> None:
    acts = values(2, 4)
    acts[1, 2] = float("nan")
    with pytest.raises(NonFiniteError, match="example e1, column 2"):
        write(tmp_path / "s", {("resid_post", 0): acts}, meta(2), model=MODEL)
    write(tmp_path / "s", {("resid_post", 0): acts}, meta(2), model=MODEL, allow_nonfinite=True)
    assert actstore.open(tmp_path / "s").rows == 2


def test_tokens_are_rows_with_their_position_id_and_role(tmp_path: Path) -> None:
    acts = values(2, 4, 3)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    ids = torch.arange(8).reshape(2, 4) + 100
    roles: list[list[str | None]] = [
        [None, None, "bos", "user"],
        ["bos", "user", "user", "generated"],
    ]
    write(
        tmp_path / "s",
        {("resid_post", 0): acts},
        meta(2),
        model=MODEL,
        pool="all.tokens",
        mask=mask,
        token_ids=ids,
        token_roles=roles,
    )
    rows = stored_rows(tmp_path / "s")
    found = [
        (row["example_id"], row["position"], row["token_id"], row["token_role"]) for row in rows
    ]
    assert found == [
        ("e0", 0, 102, "bos"),
        ("e0", 1, 103, "user"),
        ("e1", 0, 104, "bos"),
        ("e1", 1, 105, "user"),
        ("e1", 2, 106, "user"),
        ("e1", 3, 107, "generated"),
    ]
    assert {(row["pooling"], row["region"]) for row in rows} == {("none", "all")}
    np.testing.assert_array_equal(rows[0]["activation"], acts[0, 2].numpy())
    np.testing.assert_array_equal(rows[5]["activation"], acts[1, 3].numpy())


@pytest.mark.parametrize("pool", ["last", "first", "mean", "max"])
def test_tokens_are_pooled_over_the_mask(tmp_path: Path, pool: str) -> None:
    acts = values(2, 4, 3)
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0]])
    write(
        tmp_path / "s",
        {("mlp_in", 0): acts},
        meta(2),
        model=MODEL,
        pool=f"prompt.{pool}",
        mask=mask,
    )
    kept = [acts[0, 2:].numpy(), acts[1, :3].numpy()]
    by_hand = {
        "last": [each[-1] for each in kept],
        "first": [each[0] for each in kept],
        "mean": [each.mean(axis=0) for each in kept],
        "max": [each.max(axis=0) for each in kept],
    }
    rows = stored_rows(tmp_path / "s")
    assert [row["token_count"] for row in rows] == [2, 3]
    assert {(row["pooling"], row["region"], row["position"]) for row in rows} == {
        (pool, "prompt", None)
    }
    found = np.stack([row["activation"] for row in rows])
    np.testing.assert_allclose(found, np.stack(by_hand[pool]), rtol=1e-6)


def test_examples_of_different_lengths(tmp_path: Path) -> None:
    ragged = [values(3, 4), values(1, 4, seed=1)]
    write(
        tmp_path / "s",
        {("resid_post", 0): ragged, ("resid_post", 1): [each.numpy() for each in ragged]},
        meta(2),
        model=MODEL,
        token_ids=[[5, 6, 7], [8]],
    )
    rows = stored_rows(tmp_path / "s")
    found = [(row["layer"], row["example_id"], row["position"], row["token_id"]) for row in rows]
    one = [("e0", 0, 5), ("e0", 1, 6), ("e0", 2, 7), ("e1", 0, 8)]
    assert found == [(layer, *row) for layer in (0, 1) for row in one]
    write(tmp_path / "t", {("resid_post", 0): ragged}, meta(2), model=MODEL, pool="mean")
    pooled = actstore.open(tmp_path / "t").select().numpy()
    np.testing.assert_allclose(pooled[0], ragged[0].mean(0).numpy(), rtol=1e-6)
    one_each = [values(4), values(4, seed=1)]
    write(tmp_path / "u", {("resid_post", 0): one_each}, meta(2), model=MODEL)
    vectors = actstore.open(tmp_path / "u").select().numpy()
    np.testing.assert_array_equal(vectors, torch.stack(one_each).numpy())


def test_one_example_of_one_token(tmp_path: Path) -> None:
    write(tmp_path / "s", {("resid_post", 0): values(1, 1, 4)}, meta(1), model=MODEL)
    (row,) = stored_rows(tmp_path / "s")
    assert (row["position"], row["pooling"], row["region"]) == (0, "none", None)


def test_rows_of_several_models_and_poolings(tmp_path: Path) -> None:
    write(
        tmp_path / "s",
        {("resid_post", 0): values(2, 4)},
        meta(2, model=["a/one", "b/two"], pooling=["last", "mean"], region=["prompt", None]),
    )
    rows = stored_rows(tmp_path / "s")
    assert [(row["model"], row["pooling"], row["region"]) for row in rows] == [
        ("a/one", "last", "prompt"),
        ("b/two", "mean", None),
    ]


ONE = {("resid_post", 0): values(2, 4)}
THREE = {("resid_post", 0): values(2, 3, 4)}


@pytest.mark.parametrize(
    ("activations", "options", "message"),
    [
        (ONE, {"metadata": meta(2)}, "the model is not known"),
        (ONE, {"metadata": None, "model": MODEL}, "the examples need ids"),
        (ONE, {"metadata": meta(3), "model": MODEL}, "3 values for 2 examples"),
        (ONE, {"metadata": meta(2, model="a/b"), "model": MODEL}, "a column 'model'"),
        (ONE, {"metadata": meta(2, layer=3), "model": MODEL}, "a column 'layer'"),
        (
            ONE,
            {"metadata": meta(2, pooling="last"), "model": MODEL, "pool": "mean"},
            "a column 'pooling'",
        ),
        (ONE, {"metadata": meta(2), "model": MODEL, "pool": "prompt.median"}, "pool 'prompt.med"),
        (ONE, {"metadata": meta(2), "model": MODEL, "pool": "poem.last"}, "region 'poem'"),
        (ONE, {"metadata": meta(2, pooling="median"), "model": MODEL}, "pooling 'median'"),
        (
            {**ONE, ("resid_post", 1): values(3, 4)},
            {"metadata": meta(2), "model": MODEL},
            "layer 1 has 3 examples, resid_post, layer 0 2",
        ),
        (
            THREE,
            {"metadata": meta(2, position=[1, 2]), "model": MODEL},
            "a column 'position', and resid_post, layer 0 whole sequences",
        ),
        (
            THREE,
            {"metadata": meta(2), "model": MODEL, "mask": torch.ones(2, 5)},
            "has 3 tokens, the mask 5",
        ),
        (THREE, {"metadata": meta(2), "model": MODEL, "mask": torch.ones(3)}, "one row of tokens"),
        (
            THREE,
            {"metadata": meta(2), "model": MODEL, "token_ids": [[1], [2]]},
            "token_ids do not cover",
        ),
    ],
)
def test_arguments_that_cannot_work(
    tmp_path: Path, activations: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "s", activations, **options)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (values(2), "expected"),
        (values(2, 3, 4, 5), "expected"),
        (values(0, 4), "holds no values"),
        (np.array([["a"], ["b"]]), "are no vector"),
    ],
)
def test_arrays_of_another_shape_or_kind(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        write(tmp_path / "s", {("resid_post", 0): value}, meta(2), model=MODEL)


def test_a_mask_that_leaves_nothing_of_an_example(tmp_path: Path) -> None:
    mask = [[1, 1, 1], [0, 0, 0]]
    with pytest.raises(LayoutError, match="the mask leaves no token"):
        write(tmp_path / "s", THREE, meta(2), model=MODEL, mask=mask, pool="mean")
    write(tmp_path / "s", THREE, meta(2), model=MODEL, mask=mask)
    assert [row["example_id"] for row in stored_rows(tmp_path / "s")] == ["e0"] * 3


def assert_holds(store: actstore.Store, seen: dict[tuple[str, int | None], np.ndarray]) -> None:
    for (site, layer), expected in seen.items():
        found = store.select(site=site, layer=layer).numpy().reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def lens_bridge(folder: Path, model: Any) -> Any:
    """Return a model in TransformerLens' bridge, with a tokenizer of words that adds no BOS."""
    lens = pytest.importorskip(
        "transformer_lens.model_bridge", reason="TransformerLens is not installed"
    )
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(30)}, "w29"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="w29", pad_token="w0", bos_token="w1", eos_token="w2"
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lens.TransformerBridge.boot_transformers(
        str(folder), hf_model=model, tokenizer=tokenizer
    )


@pytest.mark.filterwarnings("ignore")
def test_a_cache_of_transformer_lens_itself(tmp_path: Path) -> None:
    model = tiny_model()
    seen = hooked(model, IDS)
    bridge = lens_bridge(tmp_path / "tokenizer", model)
    _, cache = bridge.run_with_cache(IDS)
    store = actstore.open(tmp_path / "s", create=True)
    done = store.write(cache, {"id": ["a", "b"]}, model=MODEL, token_ids=IDS)
    assert done.rows_written > 0
    assert done.notes == ()
    assert "blocks.0.attn.hook_pattern" in done.skipped
    assert "resid_mid" in store.sites
    assert_holds(store, seen)
    _, one = bridge.run_with_cache(IDS[:1], remove_batch_dim=True)
    again = store.write(one, {"id": ["c"]}, model=MODEL, sites=["resid_post"], layers=[1])
    assert again.rows_written == 4


@pytest.mark.filterwarnings("ignore")
def test_the_bos_of_transformer_lens_is_told(tmp_path: Path) -> None:
    model = tiny_model()
    bridge = lens_bridge(tmp_path / "tokenizer", model)
    text = "w5 w6 w7"
    ids = torch.tensor([[5, 6, 7]])  # the tokenizer as it was saved; the bridge's adds a BOS
    with torch.no_grad():
        states = model(ids, output_hidden_states=True)
    store = actstore.open(tmp_path / "s", create=True)
    store.write(states, {"id": ["a"]}, model=MODEL, token_ids=ids)

    tokens = bridge.to_tokens(text)
    assert tokens.tolist() == [[1, 5, 6, 7]]
    _, cache = bridge.run_with_cache(text)
    wanted = {"model": MODEL, "token_ids": tokens}
    done = store.write(cache, {"id": ["a"]}, sites=["mlp_out"], **wanted)
    assert "begin with one more token (id 1)" in done.notes[0]
    with pytest.raises(ConflictError, match="begin with one more token"):
        store.write(cache, {"id": ["a"]}, sites=["resid_post"], layers=[0], **wanted)

    tokens = bridge.to_tokens(text, prepend_bos=False)
    _, cache = bridge.run_with_cache(tokens)
    wanted = {"model": MODEL, "token_ids": tokens}
    again = actstore.open(tmp_path / "again", create=True)
    again.write(states, {"id": ["a"]}, model=MODEL, token_ids=ids)
    done = again.write(cache, {"id": ["a"]}, sites=["mlp_out"], **wanted)
    assert done.notes == ()


@pytest.mark.filterwarnings("ignore")
def test_a_cache_of_nnsight_itself(tmp_path: Path) -> None:
    nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed")
    model = tiny_model()
    seen = hooked(model, IDS)
    traced = nnsight.NNsight(model)
    with traced.trace(IDS) as tracer:
        cache = tracer.cache(include_inputs=True)
    store = actstore.open(tmp_path / "s", create=True)
    done = store.write(
        cache,
        {"id": ["a", "b"]},
        model=MODEL,
        sites=["resid_post", "mlp_out", "mlp_in", "attn_out", "final_norm"],
    )
    assert done.rows_written == 4 * 3 * 8 + 8
    assert_holds(store, seen)
