"""The logit lens against the model's own next-token distribution, and whose states it reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import actstore
from actstore.analysis import lens, plots
from actstore.errors import MismatchError, MixedVectorsError, NotInStoreError, UsageError
from actstore.models.loading import LoadedModel
from tests.capturing import families
from tests.querying import stores

EXAMPLES = [
    {"id": "a", "question": "what is larger : 4 7 or 8 ?"},
    {"id": "b", "question": "answer yes or no"},
]


def cohere() -> Any:
    """Cohere's scale of the logits, which the families of the other tests do not have."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "cohere", vocab_size=families.VOCAB, logit_scale=0.25, **families._COMMON,
    )  # fmt: skip
    return families.enliven(AutoModelForCausalLM.from_config(config), 0)


def build(name: str, **settings: Any) -> LoadedModel:
    """A small model of a family; ``settings`` are of its configuration."""
    model = cohere() if name == "cohere" else families.build(name)
    for key, value in settings.items():
        assert hasattr(model.config, key)
        setattr(model.config, key, value)
        if hasattr(model, key):
            setattr(model, key, value)
    return LoadedModel(
        model=model, processor=families.tokenizer(), name="org/tiny", revision=None, is_vlm=False
    )


def captured(loaded: LoadedModel, root: Path, **options: Any) -> Path:
    actstore.capture(
        loaded.model,
        loaded.processor,
        EXAMPLES,
        store=root,
        chat_template=False,
        model_name=loaded.name,
        self_check=False,
        **{"sites": ["resid_post", "final_norm"], "pool": ["prompt.last"], **options},
    )
    return root


def own(loaded: LoadedModel, question: str) -> torch.Tensor:
    """The model's own probabilities of what follows each token of a question."""
    ids = loaded.processor(question, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(input_ids=ids).logits[0].float().softmax(dim=-1)
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("olmo2", {}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {}),
    ],
)
@pytest.mark.parametrize(("storage", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
def test_the_last_layer_is_what_the_model_says(
    name: str, settings: dict[str, Any], storage: str, tolerance: float, tmp_path: Path
) -> None:
    loaded = build(name, **settings)
    root = captured(loaded, tmp_path / "s", storage_dtype=storage)
    with actstore.open(root) as store:
        found = lens.read(store.select(), loaded, target="yes", top=families.VOCAB)
    word = loaded.processor.convert_tokens_to_ids("yes")
    assert len(found) == 2 * (families.BLOCKS + 1)
    for example in EXAMPLES:
        expected = own(loaded, example["question"])[-1]
        mine = [state for state in found.states if state.example_id == example["id"]]
        last, norm = mine[-2:]
        assert (last.layer, last.site, norm.site) == (
            families.BLOCKS - 1,
            "resid_post",
            "final_norm",
        )
        for state in (last, norm):
            ranked = expected.sort(descending=True).values.numpy()
            np.testing.assert_allclose(state.probabilities, ranked, rtol=tolerance, atol=1e-6)
            assert state.target_probability == pytest.approx(float(expected[word]), rel=tolerance)
        assert mine[0].top != last.top
        if storage == "float32":
            assert last.target_rank == 1 + int((expected > expected[word]).sum())


def test_tokens_are_read_at_each_position(tmp_path: Path) -> None:
    loaded = build("llama")
    root = captured(loaded, tmp_path / "s", sites=["resid_post"], pool=["prompt.tokens"])
    with actstore.open(root) as store:
        found = lens.read(store.select("example_id = 'b'"), loaded, top=1)
        figure = plots.lens(store.select(), loaded, examples=["b"], target="no")
        assert "example b" in figure.caption
        assert "probability of 'no'" in figure.caption
        texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        with pytest.raises(NotInStoreError, match="no such example"):
            plots.lens(store.select(), loaded, examples=["z"])
        cut = plots.lens(store.select(), loaded, columns=2)
    expected = own(loaded, EXAMPLES[1]["question"]).max(dim=-1).values
    last = [state for state in found.states if state.layer == families.BLOCKS - 1]
    assert [state.token for state in last] == ["<bos>", "answer", "yes", "or", "no"] == texts
    np.testing.assert_allclose([each.probabilities[0] for each in last], expected, rtol=1e-5)
    assert "example a of 2, the last 2 of 10 positions" in cut.caption


@pytest.mark.parametrize(
    ("column", "values"), [("variant", ["q1", "q2", "q1"]), ("example_index", [1, 2, 1])]
)
def test_versions_of_one_example_are_columns_of_their_own(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    loaded = build("llama")
    given: dict[str, Any] = {column: values}
    stores.add(
        tmp_path,
        stores.vectors(3, families.WIDTH, "float32", 0),
        model="org/tiny",
        example_id=["a", "a", "b"],
        **given,
    )
    with actstore.open(tmp_path) as store:
        figure = plots.lens(store.select(), loaded)
        frame = lens.read(store.select(), loaded).to_polars()
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == [f"a {values[0]}", f"a {values[1]}", f"b {values[2]}"]
    assert len(figure.hover_texts["lens"]) == 3
    assert frame[column].to_list() == values


def test_a_frame_and_dictionaries(tmp_path: Path) -> None:
    loaded = build("llama")
    with actstore.open(captured(loaded, tmp_path / "s")) as store:
        found = lens.read(store.select(), loaded, top=2)
    frame = found.to_polars()
    assert frame.schema["top"] == pl.List(pl.String)
    assert frame["layer"].to_list() == [0, 0, 1, 1, 2, 2, None, None]
    assert frame["target_rank"].null_count() == len(frame) == len(found.to_dicts())
    assert repr(found) == "LensReading('org/tiny', 8 states)"


def test_states_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    matrix = stores.vectors(3, families.WIDTH, "float32", 0)
    matrix[1, 4] = np.nan
    stores.add(tmp_path, matrix, model="org/tiny")
    with actstore.open(tmp_path) as store:
        found = lens.read(store.select(), build("llama"))
        assert (len(found), found.left_out) == (2, 1)
        figure = plots.lens(store.select(), build("llama"))
    assert "1 state not finite" in figure.caption


def test_another_model_is_refused(tmp_path: Path) -> None:
    loaded = build("llama")
    root = captured(loaded, tmp_path / "s")
    other = dataclasses.replace(loaded, model=families.build("llama", seed=1))
    with actstore.open(root) as store:
        with pytest.raises(MismatchError, match="is not the model that these rows were captured"):
            lens.read(store.select(), other)
        # What it is called does not matter where its weights are known.
        assert len(lens.read(store.select(), dataclasses.replace(loaded, name="elsewhere")))


def test_rows_without_a_record_go_by_name_and_width(tmp_path: Path) -> None:
    loaded = build("llama")
    stores.add(tmp_path / "s", stores.vectors(3, families.WIDTH, "float32", 0), model="tiny")
    stores.add(tmp_path / "t", stores.vectors(3, 8, "float32", 0), model="org/tiny")
    with actstore.open(tmp_path / "s") as store:
        assert len(lens.read(store.select(), loaded)) == 3
        with pytest.raises(MismatchError, match="actstore rename STORE"):
            lens.read(store.select(), dataclasses.replace(loaded, name="org/small"))
    with (
        actstore.open(tmp_path / "t") as store,
        pytest.raises(MismatchError, match="the states have 8 values"),
    ):
        lens.read(store.select(), loaded)


def test_what_the_head_cannot_read(tmp_path: Path) -> None:
    loaded = build("llama")
    matrix = stores.vectors(3, families.WIDTH, "float32", 0)
    stores.add(tmp_path, matrix, model="org/tiny", site="mlp_out")
    stores.add(tmp_path, matrix, model="org/tiny", pooling="mean")
    stores.add(tmp_path, matrix, model="org/tiny", pooling=["last", "first", "last"], layer=1)
    stores.add(tmp_path, matrix, model="org/other")
    with actstore.open(tmp_path) as store:
        for where, error, message in (
            ("site = 'mlp_out'", UsageError, "not mlp_out"),
            ("pooling = 'mean' AND site = 'resid_post'", UsageError, "pooled by mean"),
            ("site = 'resid_post' AND pooling = 'last'", MixedVectorsError, "2 models"),
        ):
            with pytest.raises(error, match=message):
                lens.read(store.select(where), loaded)
        with pytest.raises(MixedVectorsError, match=r"--pool prompt\.last"):
            plots.lens(store.select("layer = 1"), loaded)
        with pytest.raises(UsageError, match="2 tokens"):
            lens.read(store.select("layer = 1"), loaded, target="yes no")
