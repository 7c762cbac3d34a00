"""What the tap promises beyond values: counts, refusals, early stops, and leaving no trace."""

from __future__ import annotations

import gc
import importlib
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import Pool, parse_pools
from actstore.errors import HookError, UsageError
from actstore.models import blocks
from tests.capturing import comparing, families, references


def tap_on(
    model: Any,
    pools: str = "prompt.last",
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] = (0, 1, 2),
    stop_early: bool = False,
) -> Tap:
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, sites, layers)
    return Tap(wanted, parse_pools(pools), anatomy=anatomy, stop_early=stop_early)


def inputs_of(prompts: Sequence[Sequence[int]]) -> tuple[dict[str, Any], torch.Tensor]:
    ids, mask = comparing.padded(prompts, "left")
    inputs = {
        "input_ids": ids,
        "attention_mask": mask.long(),
        "position_ids": comparing.positions(mask),
    }
    return inputs, mask


def hooks_on(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


@pytest.fixture
def model() -> Any:
    return families.build("llama")


def test_rows_say_where_their_tokens_stand(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts(lengths=(4, 2)))
    pools = "prompt.tokens,prompt.last,prompt.-2,prompt.3,prompt.mean,question.mean,image.mean"
    with torch.inference_mode(), tap_on(model, pools) as tap:
        tap.begin(comparing.regions(mask), comparing.first_tokens(mask))
        tap.call(tap.anatomy.base, **inputs)
        rows = {pool.text: found for pool, found in tap.end().rows.items()}

    def columns(text: str) -> list[list[int] | None]:
        return [None if column is None else column.tolist() for column in rows[text]]

    assert columns("prompt.tokens") == [
        [0, 0, 0, 0, 1, 1],
        [0, 1, 2, 3, 0, 1],
        [0, 1, 2, 3, 2, 3],
        [1] * 6,
    ]
    assert columns("prompt.last") == [[0, 1], [3, 1], [3, 3], [4, 2]]
    assert columns("prompt.-2") == [[0, 1], [2, 0], [2, 2], [1, 1]]
    assert columns("prompt.3") == [[0], [3], [3], [1]]
    assert columns("prompt.mean") == [[0, 1], None, None, [3, 1]]
    assert columns("question.mean") == [[0, 1], None, None, [3, 1]]
    assert columns("image.mean") == [[], None, None, []]
    assert rows["prompt.last"].position is not None
    assert rows["prompt.last"].position.dtype == np.int32
    assert rows["prompt.last"].token_count.dtype == np.int32


def test_an_answer_in_the_response_is_found_afterwards(model: Any) -> None:
    model.generation_config.eos_token_id = None
    prompts = comparing.texts(lengths=(5, 3, 4))
    inputs, mask = inputs_of(prompts)
    del inputs["position_ids"]
    pools = "answer.last,answer.mean,answer.max,answer.tokens,answer.first,response.tokens"
    with torch.inference_mode(), tap_on(model, pools) as tap:
        tap.begin(comparing.regions(mask))
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        answer = torch.zeros(3, 6, dtype=torch.bool)
        answer[0, 1:4] = True
        answer[1, 4:] = True  # the last token of all has no state
        pooled = tap.end(answer)
    spans = []
    for row, (start, stop) in enumerate([(1, 4), (4, 5), (0, 0)]):
        length = len(prompts[row])
        spans.append({"answer": (length + start, length + stop), "response": (length, length + 5)})
    expected = []
    for prompt, response in zip(prompts, output[:, mask.shape[1] :].tolist(), strict=True):
        text = {"input_ids": torch.tensor([[*prompt, *response[:5]]])}
        states = references.alone("llama", model, text)
        expected.append({key: states[key] for key in pooled.vectors})
    assert comparing.distances(pooled, expected, spans).max() < 1e-5
    assert pooled.rows[Pool("answer", "mean")].example.tolist() == [0, 1]


def test_a_forced_answer_is_part_of_the_pass(model: Any) -> None:
    prompts = comparing.texts(lengths=(6, 4))
    inputs, mask = inputs_of(prompts)
    answer = mask.clone()
    answer[:, :-2] = False
    regions = {"prompt": mask & ~answer, "answer": answer, "all": mask}
    with torch.inference_mode(), tap_on(model, "answer.mean,answer.last,prompt.last") as tap:
        tap.begin(regions)
        tap.call(tap.anatomy.base, **inputs)
        pooled = tap.end()
    expected, spans = [], []
    for prompt in prompts:
        states = references.alone("llama", model, {"input_ids": torch.tensor([prompt])})
        expected.append({key: states[key] for key in pooled.vectors})
        cut = len(prompt) - 2
        spans.append({"prompt": (0, cut), "answer": (cut, len(prompt))})
    assert comparing.distances(pooled, expected, spans).max() < 1e-5
    last = pooled.rows[Pool("answer", "last")]
    assert last.position is not None
    assert last.position.tolist() == [5, 3]


def test_special_tokens_are_left_out_of_means_of_a_response(model: Any) -> None:
    model.generation_config.eos_token_id = None
    inputs, mask = inputs_of(comparing.texts(lengths=(5, 3)))
    del inputs["position_ids"]
    pools = "response.mean,response.tokens,response.max"
    with torch.inference_mode(), tap_on(model, pools) as tap:
        tap.begin(comparing.regions(mask))
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, mask.shape[1] :]
        special = int(output[0, 2])
        tap.begin(comparing.regions(mask), special_ids=frozenset([special]))
        again = model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, mask.shape[1] :]
        pooled = tap.end()
    assert torch.equal(again, output)
    tokens = pooled.vectors["resid_post", 1][Pool("response", "tokens")].reshape(2, 5, -1)
    for row in range(2):
        kept = tokens[row][output[row, :5].numpy() != special]
        assert len(kept) == pooled.rows[Pool("response", "mean")].token_count[row]
        found = pooled.vectors["resid_post", 1]
        np.testing.assert_allclose(
            found[Pool("response", "mean")][row], kept.mean(axis=0), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(found[Pool("response", "max")][row], kept.max(axis=0))
    assert pooled.rows[Pool("response", "mean")].token_count[0] < 5


def test_float16_is_kept_where_tokens_are_picked(model: Any) -> None:
    half = model.to(torch.float16)
    half.generation_config.eos_token_id = None
    inputs, mask = inputs_of(comparing.texts(lengths=(5, 3)))
    del inputs["position_ids"]
    pools = "prompt.last,prompt.mean,prompt.max,response.last,response.tokens,response.mean"
    with torch.inference_mode(), tap_on(half, pools) as tap:
        tap.begin(comparing.regions(mask))
        half.generate(**inputs, max_new_tokens=4, do_sample=False)
        found = tap.end().vectors["resid_post", 2]
    types = {pool.text: vectors.dtype.name for pool, vectors in found.items()}
    assert types == {
        "prompt.last": "float16",
        "prompt.mean": "float32",
        "prompt.max": "float32",
        "response.last": "float16",
        "response.tokens": "float16",
        "response.mean": "float32",
    }
    tokens = found[Pool("response", "tokens")].astype(np.float32).reshape(2, 3, -1)
    np.testing.assert_allclose(found[Pool("response", "mean")], tokens.mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(found[Pool("response", "last")], tokens[:, -1].astype(np.half))


def test_pads_that_are_not_numbers_do_not_reach_means(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts(lengths=(5, 2)))

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where(mask[..., None], output, torch.nan)

    handle = model.model.layers[2].register_forward_hook(spoil)
    pools = "prompt.mean,prompt.max,prompt.last,prompt.tokens"
    with torch.inference_mode(), tap_on(model, pools, layers=[2]) as tap:
        tap.begin(comparing.regions(mask))
        tap.call(tap.anatomy.base, **inputs)
        found = tap.end().vectors["resid_post", 2]
    handle.remove()
    assert all(np.isfinite(vectors).all() for vectors in found.values())


def test_the_pass_ends_after_the_last_wanted_state(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    ran: list[int] = []
    counting = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(model.model.layers)
    ]
    with torch.inference_mode():
        whole = model(**inputs).logits
        ran.clear()
        with tap_on(model, "prompt.tokens", layers=[0, 1], stop_early=True) as tap:
            for _ in range(2):
                tap.begin(comparing.regions(mask))
                assert tap.call(tap.anatomy.base, **inputs) is None
                early = tap.end()
        assert ran == [0, 1, 0, 1]
        with tap_on(model, "prompt.tokens", layers=[0, 1]) as tap:
            tap.begin(comparing.regions(mask))
            assert tap.call(tap.anatomy.base, **inputs) is not None
            full = tap.end()
        again = model(**inputs, output_hidden_states=True)
    for handle in counting:
        handle.remove()
    for key, vectors in full.vectors.items():
        for pool in vectors:
            assert np.array_equal(early.vectors[key][pool], vectors[pool])
    assert torch.equal(again.logits, whole)
    assert len(again.hidden_states) == families.BLOCKS + 1


def test_only_a_call_through_the_tap_ends_early(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    with (
        torch.inference_mode(),
        tap_on(model, "prompt.last", layers=[0], stop_early=True) as tap,
    ):
        tap.begin(comparing.regions(mask))
        tap.call(tap.anatomy.base, **inputs)
        early = tap.end()
        # The model called by itself runs to its end, after an early one too.
        tap.begin(comparing.regions(mask))
        assert model(**inputs).logits.shape[0] == 4
        whole = tap.end()
        # Nor is it ended early after a call that failed.
        broken = model.model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
        tap.begin(comparing.regions(mask))
        with pytest.raises(ZeroDivisionError):
            tap.call(tap.anatomy.base, **inputs)
        broken.remove()
        tap.begin(comparing.regions(mask))
        assert model(**inputs).logits.shape[0] == 4
        tap.drop()
    for key, vectors in whole.vectors.items():
        for pool in vectors:
            assert np.array_equal(early.vectors[key][pool], vectors[pool])


def test_nothing_is_left_behind_and_nothing_is_changed(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    before = hooks_on(model)
    with torch.inference_mode():
        plain = model(**inputs).logits
        with tap_on(model, "prompt.mean", sites=blocks.SITES) as tap:
            assert hooks_on(model) > before
            idle = model(**inputs).logits
            tap.begin(comparing.regions(mask))
            watched = tap.call(model, **inputs).logits
            tap.end()
    assert torch.equal(plain, idle)
    assert torch.equal(plain, watched)
    assert hooks_on(model) == before
    tap = tap_on(model)
    with pytest.raises(RuntimeError, match="out of order"), tap:
        raise RuntimeError("out of order")
    assert hooks_on(model) == before


def test_no_state_is_kept_alive_by_a_view(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    outputs: list[Any] = []
    model.model.layers[1].register_forward_hook(lambda *a: outputs.append(weakref.ref(a[2])))
    pools = "prompt.last,prompt.mean,prompt.max,prompt.tokens,prompt.first"
    with torch.inference_mode(), tap_on(model, pools) as tap:
        tap.begin(comparing.regions(mask))
        tap.call(tap.anatomy.base, **inputs)
        gc.collect()
        assert [reference() for reference in outputs] == [None]
        kept = tap.end()
    assert kept.vectors["resid_post", 1][Pool("prompt", "last")].shape == (4, families.WIDTH)


def test_gradients_may_be_on(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    with tap_on(model, "prompt.mean,prompt.last") as tap:
        tap.begin(comparing.regions(mask))
        loss = tap.call(model, **inputs).logits.sum()
        assert np.isfinite(tap.end().vectors["resid_post", 0][Pool("prompt", "mean")]).all()
    loss.backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_generation_that_changes_the_rows_is_refused(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    del inputs["position_ids"]
    for options in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with torch.inference_mode(), tap_on(model) as tap:
            tap.begin(comparing.regions(mask))
            with pytest.raises(HookError, match="8 rows where the batch has 4: beams"):
                model.generate(**inputs, max_new_tokens=3, **options)
    with torch.inference_mode(), tap_on(model) as tap:
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match="4 tokens where the masks have 9: a prefill in chunks"):
            model.generate(**inputs, max_new_tokens=3, prefill_chunk_size=4)
    # No token comes twice in the prompt, so nothing is proposed; then the first new one does, and
    # what follows it in the prompt is tried at one go, to be taken back where it is wrong.
    inputs, mask = inputs_of([[*range(1, families.VOCAB)]])
    del inputs["position_ids"]
    with torch.inference_mode(), tap_on(model, "response.tokens") as tap:
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match=r"decode step 1 has 3 tokens; one is .*: assisted"):
            model.generate(**inputs, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=3)


def test_a_model_prepared_by_accelerate(model: Any) -> None:
    accelerate = importlib.import_module("accelerate")
    inputs, mask = inputs_of(comparing.texts())
    expected = []
    prepared = model
    for prepare in (lambda found: found, accelerate.Accelerator(cpu=True).prepare):
        prepared = prepare(prepared)
        with torch.inference_mode(), tap_on(prepared, "response.mean,prompt.last") as tap:
            tap.begin(comparing.regions(mask))
            prepared.generate(
                inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=3
            )
            expected.append(tap.end().vectors)
    for key, vectors in expected[0].items():
        for pool in vectors:
            assert np.array_equal(expected[1][key][pool], vectors[pool])


def test_generation_without_a_cache_is_followed(model: Any) -> None:
    model.generation_config.eos_token_id = None
    inputs, mask = inputs_of(comparing.texts())
    del inputs["position_ids"]
    found = []
    for cached in (True, False):
        with torch.inference_mode(), tap_on(model, "response.tokens,all.mean") as tap:
            tap.begin(comparing.regions(mask))
            model.generate(**inputs, max_new_tokens=5, do_sample=False, use_cache=cached)
            found.append(tap.end().vectors["resid_post", 2])
    for pool, vectors in found[0].items():
        assert references.distances(found[1][pool], vectors).max() < 1e-5


def test_a_silent_hook_is_refused(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, ["resid_post"], [0, 1, 2])
    model.model.layers = model.model.layers[:2]
    with torch.inference_mode(), Tap(wanted, parse_pools("prompt.last"), anatomy=anatomy) as tap:
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match=r"1 of 3 hooks did not fire.* at model\.layers\.2"):
            tap.call(anatomy.base, **inputs)


def test_a_module_that_runs_twice_is_refused(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    anatomy = blocks.find(model)
    wanted = blocks.points(anatomy, ["resid_post"], [0, 1])
    model.model.layers[2] = model.model.layers[1]
    with torch.inference_mode(), Tap(wanted, parse_pools("prompt.last"), anatomy=anatomy) as tap:
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match=r"layers\.1 ran 2 times in one pass"):
            tap.call(anatomy.base, **inputs, use_cache=False)


class Plain(torch.nn.Module):
    """A model of three layers, small enough to be compiled in a test."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(families.VOCAB, 8)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8) for _ in range(3)])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.table(input_ids)
        for layer in self.layers:
            states = layer(states)
        return states


def test_a_compiled_model_that_is_called_by_mistake_is_noticed() -> None:
    ids, mask = comparing.padded(comparing.texts(), "left")
    compiled: Any = torch.compile(Plain(), backend="eager")
    with torch.inference_mode():
        compiled(input_ids=ids)
        anatomy = blocks.find(compiled, blocks="layers")
        wanted = blocks.points(anatomy, ["resid_post"], [0, 1, 2])
        with Tap(wanted, parse_pools("prompt.last"), anatomy=anatomy) as tap:
            tap.begin(comparing.regions(mask))
            with pytest.raises(HookError, match=r"3 of 3 hooks did not fire.*compiled code"):
                compiled(input_ids=ids)
            tap.begin(comparing.regions(mask))
            states = tap.call(anatomy.base, input_ids=ids)
            found = tap.end().vectors["resid_post", 2][Pool("prompt", "last")]
    np.testing.assert_array_equal(found, states[:, -1])
    torch._dynamo.reset()


def test_states_of_another_shape_are_refused(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    model.model.layers[1].register_forward_hook(lambda *a: a[2][:, None])
    with torch.inference_mode(), tap_on(model, layers=[1]) as tap:
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match=r"a tensor \[4, 1, 9, 32\], expected \[4, 9, width\]"):
            tap.call(tap.anatomy.base, **inputs)


def test_wrong_order_and_wrong_masks_are_refused(model: Any) -> None:
    inputs, mask = inputs_of(comparing.texts())
    with torch.inference_mode(), tap_on(model) as tap:
        with pytest.raises(HookError, match="before begin"):
            tap.end()
        with pytest.raises(UsageError, match=r"prompt int64\[4, 9\]"):
            tap.begin({"prompt": mask.long()})
        with pytest.raises(UsageError, match="of one shape"):
            tap.begin({"prompt": mask, "question": mask[:, 1:]})
        with pytest.raises(UsageError, match="got none"):
            tap.begin({})
        tap.begin(comparing.regions(mask))
        with pytest.raises(HookError, match="did not run"):
            tap.end()
        tap.begin(comparing.regions(mask[:2]))
        with pytest.raises(HookError, match="4 rows where the batch has 2"):
            tap.call(tap.anatomy.base, **inputs)


def test_models_that_accelerate_keeps_on_disk(model: Any, tmp_path: Path) -> None:
    accelerate = importlib.import_module("accelerate")  # it comes without types
    inputs, mask = inputs_of(comparing.texts())
    pools = "prompt.last,prompt.mean"
    sites = ("resid_post", "mlp_out", "embeddings")

    def run(stop_early: bool) -> Any:
        tap = tap_on(model, pools, sites=sites, layers=[0, 1], stop_early=stop_early)
        with torch.inference_mode(), tap:
            tap.begin(comparing.regions(mask))
            tap.call(tap.anatomy.base, **inputs)
            return tap.end().vectors

    plain = run(False)
    accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    for stop_early in (True, False, True):
        found = run(stop_early)
        for key, vectors in plain.items():
            for pool in vectors:
                assert np.array_equal(found[key][pool], vectors[pool])
        assert next(model.model.layers[1].parameters()).device.type == "meta"
