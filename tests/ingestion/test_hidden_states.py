"""transformers' hidden states: each entry under the site and layer that hooks see it at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import actstore
from actstore.errors import LayoutError, NotInStoreError, UsageError
from actstore.ingestion.hidden_states import hidden_states
from actstore.models import blocks
from tests.capturing import families
from tests.ingestion.storing import stored_rows
from tests.ingestion.tiny import IDS, MODEL, hooked, tiny_model

BATCH = {"id": ["a", "b"]}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture
def store(tmp_path: Path) -> actstore.Store:
    return actstore.open(tmp_path / "s", create=True)


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


def run(model: Any, ids: torch.Tensor, states: bool | list[int] = True) -> Any:
    with torch.no_grad():
        return model(ids, output_hidden_states=states)


def test_entries_are_what_hooks_see_and_the_last_one_is_final_norm(
    model: Any, store: actstore.Store
) -> None:
    output = run(model, IDS)
    done = store.write(output, BATCH, model=MODEL, token_ids=IDS)
    seen = hooked(model, IDS)
    assert store.sites == ["embeddings", "final_norm", "resid_post"]
    assert store.select(site="resid_post", layer=[0, 1]).shape == (16, 16)
    for layer in (0, 1):
        found = store.select(site="resid_post", layer=layer).numpy().reshape(2, 4, 16)
        np.testing.assert_array_equal(found, seen["resid_post", layer])
    last = store.select(site="final_norm").numpy().reshape(2, 4, 16)
    np.testing.assert_array_equal(last, seen["final_norm", None])
    first = store.select(site="embeddings", layer=-1).numpy().reshape(2, 4, 16)
    np.testing.assert_array_equal(first, model.model.embed_tokens(IDS).detach().numpy())
    # Nothing claims to be what leaves block 2: it is not among the states.
    assert store.sql("SELECT count(*) FROM activations WHERE layer = 2").fetchall() == [(0,)]
    assert "hidden_states[3], the last one, is stored as final_norm" in done.notes[0]
    assert "logits" in done.skipped
    assert {row["source"] for row in stored_rows(store.path)} == {
        f"hidden_states[{number}]" for number in range(4)
    }


def test_tuple_output_and_dict_say_the_same(model: Any, store: actstore.Store) -> None:
    output = run(model, IDS)
    store.write(output.hidden_states, BATCH, model=MODEL)
    for same in (output, dict(output), {"hidden_states": output.hidden_states}):
        again = store.write(same, BATCH, model=MODEL)
        assert (again.rows_written, again.rows_present) == (0, 4 * 8)


def test_the_base_model_says_itself_what_its_last_state_is(
    model: Any, store: actstore.Store
) -> None:
    output = run(model.model, IDS)
    assert store.write(output, BATCH, model=MODEL).rows_written == 4 * 8
    output.hidden_states = (*output.hidden_states[:-1], output.hidden_states[-1] + 1)
    with pytest.raises(UsageError, match="is not last_hidden_state"):
        store.write(output, BATCH, model=MODEL)


def test_vectors_of_examples_are_taken_as_they_are(model: Any, store: actstore.Store) -> None:
    last = tuple(states[:, -1] for states in run(model, IDS).hidden_states)
    store.write(last, BATCH, model=MODEL, pool="prompt.last")
    found = store.select(site="resid_post", layer=1)
    assert (
        found.table(["pooling", "region"]).to_pylist()
        == [{"pooling": "last", "region": "prompt"}] * 2
    )
    np.testing.assert_array_equal(found.numpy(), last[2].numpy())


def test_states_that_were_not_asked_for_are_left_out(model: Any, store: actstore.Store) -> None:
    output = run(model, IDS, [1, 2])
    done = store.write(output, BATCH, model=MODEL)
    assert (store.sites, store.layers, done.notes) == (["resid_post"], [0, 1], ())
    np.testing.assert_array_equal(
        store.select(layer=1).numpy().reshape(2, 4, 16), hooked(model, IDS)["resid_post", 1]
    )


def generated(model: Any, **options: Any) -> Any:
    return model.generate(
        IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=3,
        min_new_tokens=3,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
        **options,
    )


def test_the_steps_of_a_generation_are_one_sequence(model: Any, store: actstore.Store) -> None:
    output = generated(model)
    done = store.write(output, BATCH, model=MODEL)
    whole = output.sequences[:, :-1]
    seen = hooked(model, whole)
    for layer in (0, 1):
        found = store.select(site="resid_post", layer=layer)
        np.testing.assert_allclose(
            found.numpy().reshape(2, 6, 16), seen["resid_post", layer], rtol=1e-5, atol=1e-6
        )
        rows = found.table(["example_id", "position", "token_id"]).to_pylist()
        assert [row["token_id"] for row in rows] == whole.flatten().tolist()
        assert [row["position"] for row in rows] == [*range(6), *range(6)]
    np.testing.assert_allclose(
        store.select(site="final_norm").numpy().reshape(2, 6, 16),
        seen["final_norm", None],
        rtol=1e-5,
        atol=1e-6,
    )
    assert "sequences" in done.skipped
    assert "no mask was given" in done.notes[1]
    bare = store.write(output.hidden_states, BATCH, model=MODEL, mask=torch.ones(2, 6))
    assert (bare.rows_written, bare.rows_present) == (0, 4 * 12)
    assert len(bare.notes) == 1


def test_generations_that_repeat_or_reorder_tokens_are_refused(
    model: Any, store: actstore.Store
) -> None:
    with pytest.raises(LayoutError, match="step 1 of the generation holds states of 5 tokens"):
        store.write(generated(model, use_cache=False), BATCH, model=MODEL)
    with pytest.raises(UsageError, match="states of beams"):
        store.write(generated(model, num_beams=2), BATCH, model=MODEL)
    assert store.commit == 0


def test_the_last_blocks_output_cannot_be_asked_for(model: Any, store: actstore.Store) -> None:
    states = run(model, IDS).hidden_states
    with pytest.raises(NotInStoreError, match=r"no layer 2: .* after the final norm"):
        store.write(states, BATCH, model=MODEL, layers=[1, 2])
    done = store.write(states, BATCH, model=MODEL, sites=["resid_post"], layers=[1])
    assert (done.rows_written, done.notes) == (8, ())


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "jamba"])
def test_the_rule_holds_in_families(family: str) -> None:
    """Measured with hooks, in families that add positions, scale embeddings or mix blocks."""
    model = families.build(family).eval()
    anatomy = blocks.find(model)
    assert anatomy.final_norm is not None
    seen: dict[tuple[str, int | None], torch.Tensor] = {}

    def keep(site: str, layer: int | None, value: Any) -> None:
        seen[site, layer] = (value if isinstance(value, torch.Tensor) else value[0]).clone()

    def before(_: Any, args: Any, named: Any) -> None:
        keep("embeddings", -1, args or named["hidden_states"])

    anatomy.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    for number, block in enumerate(anatomy.blocks):
        block.register_forward_hook(
            lambda _, __, out, number=number: keep("resid_post", number, out)
        )
    anatomy.final_norm.register_forward_hook(lambda _, __, out: keep("final_norm", None, out))
    found = hidden_states(run(model, torch.arange(5, 17)[None]))
    assert found is not None
    assert len(found.entries) == len(anatomy.blocks) + 1
    for entry in found.entries:
        assert torch.equal(entry.value, seen[entry.site, entry.layer]), entry.name


def test_states_that_begin_after_block_0(store: actstore.Store) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 30, "state_size": 4}
    mamba = MambaForCausalLM(MambaConfig(**sizes)).eval()
    seen: dict[int, np.ndarray] = {}
    for number, block in enumerate(mamba.backbone.layers):
        block.register_forward_hook(
            lambda _, __, out, number=number: seen.update({number: out.detach().numpy().copy()})
        )
    output = run(mamba, IDS)
    store.write(output, BATCH, model="org/mamba")
    assert store.sites == ["final_norm", "resid_post"]
    for layer in range(3):
        found = store.select(site="resid_post", layer=layer).numpy().reshape(2, 4, 16)
        np.testing.assert_array_equal(found, seen[layer])
    for bare in (output.hidden_states, dict(output)):
        with pytest.raises(UsageError, match="may begin after block 0"):
            store.write(bare, BATCH, model="org/mamba")
        with pytest.raises(UsageError, match="may begin after block 0"):
            store.write(bare, {**BATCH, "model": ["org/rwkv", "org/rwkv"]})


def encoder_decoder() -> Any:
    from transformers.modeling_outputs import Seq2SeqLMOutput

    states = (ones(1, 2, 4), ones(1, 2, 4))
    return Seq2SeqLMOutput(encoder_hidden_states=states, decoder_hidden_states=states)


def without_states() -> Any:
    from transformers.modeling_outputs import CausalLMOutput

    return CausalLMOutput(logits=ones(1, 2, 4))


@pytest.mark.parametrize(
    ("activations", "error", "message"),
    [
        (without_states(), UsageError, "call the model with output_hidden_states=True"),
        (encoder_decoder(), UsageError, "encoder_hidden_states and decoder_hidden_states"),
        ((), UsageError, "this one holds nothing"),
        ((ones(2, 4),), UsageError, "this one holds Tensor"),
        ((None, None), UsageError, "this one holds NoneType"),
        ((ones(2, 4), "text"), UsageError, "this one holds Tensor, str"),
        ((ones(2, 3, 4), ones(2, 4)), LayoutError, r"several shapes, \[2, 3, 4\], \[2, 4\]"),
        (
            ((ones(1, 2, 4),) * 3, (ones(1, 1, 4),) * 2),
            LayoutError,
            "different numbers of hidden states: 3, 2",
        ),
        (((ones(1, 2, 4),) * 3, ones(1, 1, 4)), LayoutError, "hidden states: 3, 0"),
    ],
)
def test_what_is_no_hidden_states(activations: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hidden_states(activations)


def test_other_things_are_left_to_others() -> None:
    named = {("resid_post", 0): (ones(2, 3, 4), None), "hidden_states": ones(2, 4)}
    assert hidden_states(named) is None
    assert hidden_states([ones(2, 4)]) is None
