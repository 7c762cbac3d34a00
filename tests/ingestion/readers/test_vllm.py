"""vLLM's hidden states: layers by vLLM's numbers, tokens or pools, cached prefixes refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from actstore.errors import RefusedError, UsageError
from actstore.ingestion.run import ingest
from tests.ingestion.storing import assert_rows, round_trip, stored_rows
from tests.layouts import vllm as layout


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = layout.write(tmp_path / "source", dtype=dtype)
    summary = round_trip(tmp_path / "source", tmp_path / "store", expected, model=layout.MODEL)
    assert (summary.recipe, summary.files_read) == ("vllm", 3)
    assert summary.layers == (-1, 1, 3)
    assert "layer numbers from speculative_config.json" in summary.notes


def test_the_layers_are_named_by_option(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source", layer_ids=False)
    with pytest.raises(UsageError, match=r"which 3 layers they hold: name them .* --map layer="):
        ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL)
    given = {"layer": "0, 2,4"}
    round_trip(tmp_path / "source", tmp_path / "store", expected, model=layout.MODEL, map=given)
    summary = ingest(
        tmp_path / "source", tmp_path / "other", model=layout.MODEL, map={"layer": "0,2"}
    )
    assert "hidden_states holds 3 layers, --map layer names 2: 0, 2" in summary.refused[0].reason
    for wrong, message in (("0,a,2", "expected vLLM's layer numbers"), ("1,1,2", "named twice")):
        with pytest.raises(UsageError, match=message):
            ingest(tmp_path / "source", tmp_path / "x", model="m", map={"layer": wrong})


def test_one_layer_may_be_named_as_a_block(tmp_path: Path) -> None:
    layout.write(tmp_path / "source", layers=[13], layer_ids=False)
    ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL, layer=12)
    assert {(row["site"], row["layer"]) for row in stored_rows(tmp_path / "store")} == {
        ("resid_post", 12)
    }


def test_the_layers_stand_in_a_file(tmp_path: Path) -> None:
    layout.write(tmp_path / "source", layer_ids=False)
    path = tmp_path / "ids.json"
    path.write_text("[0, 2, 4]")
    summary = ingest(
        tmp_path / "source",
        tmp_path / "store",
        model=layout.MODEL,
        sidecars={"layer-ids": path},
    )
    assert summary.layers == (-1, 1, 3)
    for text in ("{}", '["a"]', "[]", "no json"):
        path.write_text(text)
        with pytest.raises(RefusedError, match=r"ids\.json"):
            ingest(
                tmp_path / "source",
                tmp_path / "other",
                model=layout.MODEL,
                sidecars={"layer-ids": path},
                strict=True,
            )


def test_a_cached_prefix_is_refused_by_name(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source", missing=1)
    summary = ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL)
    (refusal,) = summary.refused
    assert refusal.path == "cmpl-0002-0.safetensors"
    assert "hidden_states has 3 tokens, token_ids 4" in refusal.reason
    assert "--no-enable-prefix-caching" in refusal.reason
    whole = [row for row in expected if row["example_id"] != "cmpl-0002-0"]
    assert_rows(stored_rows(tmp_path / "store"), whole)


def test_tokens_are_pooled(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source", dtype=torch.float32)
    ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL, pool="mean")
    rows = stored_rows(tmp_path / "store")
    assert len(rows) == 9
    for row in rows:
        tokens = [
            each["activation"]
            for each in expected
            if (each["example_id"], each["layer"]) == (row["example_id"], row["layer"])
        ]
        np.testing.assert_allclose(row["activation"], np.mean(tokens, axis=0), rtol=1e-5)
        assert (row["pooling"], row["token_count"]) == ("mean", len(tokens))


def test_a_table_of_requests_joins(tmp_path: Path) -> None:
    expected = layout.write(tmp_path / "source", table=True)
    summary = round_trip(tmp_path / "source", tmp_path / "store", expected, model=layout.MODEL)
    assert any("sidecar requests" in note and "joined 3 of 3" in note for note in summary.notes)
    ingest(tmp_path / "source", tmp_path / "pooled", model=layout.MODEL, pool="last")
    assert {row["region"] for row in stored_rows(tmp_path / "pooled")} == {"all"}
    line = json.loads((tmp_path / "source" / "requests.jsonl").read_text().splitlines()[0])
    (tmp_path / "source" / "requests.jsonl").write_text(json.dumps({**line, "prompt_tokens": 9}))
    summary = ingest(tmp_path / "source", tmp_path / "wrong", model=layout.MODEL)
    assert "prompt_tokens = 9, the file has 2 tokens" in summary.refused[0].reason


def test_first_k_counts_requests(tmp_path: Path) -> None:
    layout.write(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL, first_k=2)
    rows = stored_rows(tmp_path / "store")
    assert {row["example_id"] for row in rows} == {"cmpl-0000-0", "cmpl-0001-0"}


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    layout.write(tmp_path / "source")
    save_file(
        {"hidden_states": torch.zeros(3, 8), "token_ids": torch.arange(3)},
        tmp_path / "source" / "flat.safetensors",
    )
    summary = ingest(tmp_path / "source", tmp_path / "store", model=layout.MODEL)
    (refusal,) = summary.refused
    assert "hidden_states float32 [3, 8]" in refusal.reason


def test_the_model_must_be_named(tmp_path: Path) -> None:
    layout.write(tmp_path / "source")
    with pytest.raises(UsageError, match="--model"):
        ingest(tmp_path / "source", tmp_path / "store")
