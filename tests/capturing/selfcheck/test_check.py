"""The self-check passes what is right, in every family, and catches what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import actstore
from actstore.capturing.forward import engine as engines
from actstore.capturing.forward import generation, hooks
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example
from actstore.capturing.selfcheck import check, stepwise
from actstore.capturing.selfcheck.subject import Subject
from actstore.errors import SelfCheckError
from actstore.models import blocks
from actstore.models.blocks import HookPoint, find, points
from actstore.storage.snapshot import open_snapshot
from tests.capturing import families, odd_families, sabotage, tokenizers
from tests.ingestion.storing import stored_rows

EXAMPLES = [
    Example(id=str(number), question="which is larger " + "1 2 3 " * number)
    for number in (1, 4, 2, 6)
]
_STATE = hooks._state
SITES = ("embeddings", "resid_pre", "attn_out", "mlp_out", "resid_post", "final_norm")


def engine(
    name: str, *, sites: Any = SITES, pools: str = "prompt.last,prompt.mean", **options: Any
) -> Engine:
    source: Any = odd_families if name in odd_families.NAMES else families
    model = source.build(name, dtype=options.pop("dtype", torch.float32))
    if "gain" in options:
        families.enliven(model, 0, gain=options.pop("gain"))
    anatomy = find(model)
    prompter = Prompter(model, families.tokenizer())
    tokens = options.pop("max_new_tokens", 0)
    return Engine(
        anatomy,
        prompter,
        points(anatomy, sites, range(len(anatomy.blocks))),
        parse_pools(pools),
        generation=generation.settle(model, prompter.pad_id, tokens),
        **options,
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "falcon", "qwen3_moe"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_right_captures_pass(name: str, side: Any) -> None:
    found = check.check(engine(name, padding_side=side), EXAMPLES)
    assert found["passed"]
    assert found["hidden_states"] == 0.0
    assert found["last_block"]["final_norm"] < 1e-6
    assert found["last_block"]["logits"] < 1e-5
    assert found["alone"] < 1e-5


def test_a_family_that_counts_hidden_states_otherwise_passes() -> None:
    running = engine("mamba", sites=("resid_post", "final_norm"))
    found = check.check(running, EXAMPLES)
    assert found["hidden_states"] == 0.0
    assert found["last_block"]["final_norm"] == 0.0


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_generated_tokens_are_checked_against_one_pass(name: str) -> None:
    pools = "prompt.last,response.mean,response.tokens,all.max"
    found = check.check(engine(name, pools=pools, max_new_tokens=6), EXAMPLES)
    assert found["response"] < 1e-5


def test_positions_that_the_model_does_not_count_so_are_caught() -> None:
    """Those of real tokens from 0 on are no model's own where these begin after the pad's id."""
    options: dict[str, Any] = {"sites": ("embeddings", "resid_post"), "pools": "prompt.last"}
    assert check.check(engine("roberta", **options), EXAMPLES)["alone"] < 1e-5
    with pytest.raises(SelfCheckError, match="other vectors in a batch than alone"):
        check.check(engine("roberta", padding_side="left", **options), EXAMPLES)
    answering = check.check(engine("roberta", max_new_tokens=2, **options), EXAMPLES)
    assert answering["alone"] < 1e-5
    assert any("other positions than it counts by itself" in each for each in answering["notes"])


STEPS: dict[str, Any] = {"pools": "response.mean,response.tokens,all.last", "max_new_tokens": 6}


@pytest.mark.parametrize("name", ["zamba2", "nemotron_h"])
def test_a_model_whose_steps_differ_from_its_passes_is_held_against_steps(name: str) -> None:
    """Mamba 2's smallest time step holds in a pass alone: with larger weights that is 2e-2."""
    found = check.check(engine(name, sites=("resid_post",), gain=2.0, **STEPS), EXAMPLES)
    assert found["response"] < 1e-4
    assert any("token by token" in note for note in found["notes"])


@pytest.mark.parametrize("broken", sabotage.RESPONSE)
def test_responses_that_are_held_against_steps_are_still_held(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = engine("zamba2", sites=("resid_post",), gain=2.0, **STEPS)
    sabotage.RESPONSE[broken](monkeypatch, running)
    with pytest.raises(SelfCheckError):
        check.check(running, EXAMPLES)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "jamba", "gpt_oss"])
def test_steps_over_each_text_alone_are_what_generation_computed(name: str) -> None:
    running = engine(name, sites=("resid_post", "resid_pre"), **STEPS)
    subject = Subject(running, EXAMPLES[:2])
    with running:
        captured = running.forward(running.prompter.batch(EXAMPLES[:2], "left"), [0, 1])
    for row, example in enumerate(EXAMPLES[:2]):
        single = running.prompter.batch([example], "right")
        fed = captured.responses[row][: int(captured.pooled.response_tokens[row])]
        with torch.no_grad():
            states = stepwise.fed_in_steps(subject, single, fed)
        for place, kept in captured.pooled.vectors.items():
            tokens = kept[running.pools[1]][captured.pooled.rows[running.pools[1]].example == row]
            assert len(fed) == len(tokens) > 0
            torch.testing.assert_close(
                torch.from_numpy(tokens), states[place][-len(fed) :], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    ("name", "holds"), [("llama", True), ("gpt2", True), ("gemma2", False), ("granite", False)]
)
def test_whether_the_modules_add_up_is_measured(name: str, holds: bool) -> None:
    found = check.check(engine(name, sites=("resid_post",)), EXAMPLES)
    assert found["adds_up"]["holds"] is holds


def test_a_module_that_returns_the_stream_is_refused_where_it_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As modules of unknown models are that take the residual under another name."""
    monkeypatch.setattr(blocks, "own_part", lambda block, path: path)
    found = check.check(engine("bloom", sites=("resid_post",)), EXAMPLES)
    assert "residual stream with its own part added" in found["adds_up"]["refused"]["attn_out"]
    with pytest.raises(SelfCheckError, match=r"attn_out of layer 0 .*Leave attn_out out"):
        check.check(engine("bloom", sites=("attn_out",)), EXAMPLES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_within_its_noise(dtype: torch.dtype) -> None:
    found = check.check(engine("llama", dtype=dtype), EXAMPLES)
    assert found["hidden_states"] == 0.0
    assert 0 < found["alone"] <= found["tolerance"]["between batches"] < 0.1


def shifted(found: Engine, site: str) -> Engine:
    """Hook the block below for every layer of a site."""
    blocks = {point.layer: point for point in found.points if point.site == site}
    found.points = tuple(
        HookPoint(
            site, point.layer, point.path, point.take, blocks[max((point.layer or 0) - 1, 0)].module
        )
        if point.site == site
        else point
        for point in found.points
    )
    found._tap.points = found.points
    return found


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_a_hook_on_the_wrong_block_is_caught(site: str) -> None:
    with pytest.raises(SelfCheckError, match=rf"{site} of layer 1 is at .* not in block 1"):
        check.check(shifted(engine("llama"), site), EXAMPLES)


def test_blocks_in_the_wrong_order_are_caught_by_their_values() -> None:
    found = engine("llama", sites=("resid_post",))
    blocks = found.anatomy.blocks
    swapped = (blocks[1], blocks[0], blocks[2])
    object.__setattr__(found.anatomy, "blocks", swapped)
    found.points = tuple(point._replace(module=swapped[point.layer or 0]) for point in found.points)
    with pytest.raises(
        SelfCheckError, match=r"layer 1 is what the model reports as hidden_states\[1\]"
    ):
        check.check(found, EXAMPLES)


def test_a_last_block_that_is_not_the_last_is_caught() -> None:
    found = engine("llama", sites=("resid_post",))
    object.__setattr__(found.anatomy, "blocks", found.anatomy.blocks[:2])
    found.points = found.points[:2]
    with pytest.raises(SelfCheckError, match="last block"):
        check.check(found, EXAMPLES)


def first_row(value: Any) -> Any:
    """Take what a block returns for a tuple, as scripts written for older versions do."""
    return value[0] if isinstance(value, torch.Tensor) else _STATE(value)


def test_the_first_row_of_a_tensor_taken_for_the_states_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hooks, "_state", first_row)
    with pytest.raises(SelfCheckError, match=r"of model\.layers\.\d.* expected \[4, "):
        check.check(engine("llama", sites=("resid_post",)), EXAMPLES)


def test_missing_positions_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_counts_positions", lambda self: False)
    with pytest.raises(SelfCheckError, match=r"\(alone\).*positions, padding"):
        check.check(engine("gpt2", padding_side="left"), EXAMPLES)


def test_zeros_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = hooks._state
    monkeypatch.setattr(hooks, "_state", lambda value: torch.zeros_like(plain(value)))  # type: ignore[arg-type]
    with pytest.raises(SelfCheckError, match="is zero in all 4 examples"):
        check.check(engine("llama"), EXAMPLES)


def test_an_overflow_is_caught_with_advice() -> None:
    found = engine("llama", dtype=torch.float16)
    block: Any = found.anatomy.blocks[1]
    with torch.no_grad():
        block.mlp.down_proj.weight.fill_(60000)
    with pytest.raises(SelfCheckError, match=r"NaN or infinity; float16 ends at 65504.*bfloat16"):
        check.check(found, EXAMPLES)


def test_pads_that_are_not_masked_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Engine.inputs

    def without_mask(self: Engine, batch: Any) -> dict[str, Any]:
        found = plain(self, batch)
        found["attention_mask"] = torch.ones_like(found["attention_mask"])
        return found

    monkeypatch.setattr(engines.Engine, "inputs", without_mask)
    with pytest.raises(SelfCheckError, match=r"\(alone\)"):
        check.check(engine("llama", padding_side="left"), EXAMPLES)


def test_examples_of_different_lengths_are_chosen() -> None:
    given = [Example(id=str(number), question="?") for number in range(9)]
    lengths = [7, 7, 7, 3, 7, 7, 9, 5000, 7]
    chosen = [int(example.id) for example in check.choose(given, lengths)]
    assert {3, 6} < set(chosen)
    assert 7 not in chosen
    assert check.choose(given[:1], [5000]) == given[:1]
    assert check.choose([], []) == []


def test_the_numbers_are_kept_with_the_run_and_nothing_is_stored_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.build("llama")
    options: dict[str, Any] = {"store": tmp_path / "s", "model_name": "tiny", "layers": "last"}
    with monkeypatch.context() as patch:
        patch.setattr(hooks, "_state", first_row)
        with pytest.raises(SelfCheckError):
            actstore.capture(model, families.tokenizer(), EXAMPLES, **options)
    assert not (tmp_path / "s").exists()
    summary = actstore.capture(model, families.tokenizer(), EXAMPLES, **options)
    snapshot = open_snapshot(tmp_path / "s")
    (run,) = snapshot.manifest.runs
    snapshot.close()
    assert run.settings["self_check"] == summary.self_check
    assert run.settings["self_check"]["tolerance"]["between batches"] == 1e-3


def test_pads_that_are_end_tokens_after_a_text_that_stops_are_no_end(tmp_path: Path) -> None:
    tokenizer = tokenizers.tokenizer()
    model = families.build("llama")
    model.resize_token_embeddings(len(tokenizer))
    families.enliven(model, 0)
    model.generation_config.pad_token_id = model.generation_config.eos_token_id
    asked = [
        {"id": n, "question": word}
        for n, word in enumerate(("Hi", "Why?", "Where is it?", "No", "Is it?"))
    ]

    def captured(name: str, **more: Any) -> list[tuple[str, int]]:
        options: Any = {"max_new_tokens": 6, "generation": {"min_new_tokens": 1, **more}}
        options |= {"model_name": "m", "layers": 0, "pool": "response.tokens"}
        actstore.capture(model, tokenizer, asked, store=tmp_path / name, **options)
        rows = stored_rows(tmp_path / name)
        return [(row["example_id"], row["token_id"]) for row in rows]

    free = captured("free")
    firsts = {example: token for example, token in reversed(free)}
    texts = {example: tokenizer.decode([token]) for example, token in firsts.items()}
    example, stop = next(each for each in texts.items() if each[1].isascii() and each[1].strip())
    stopped = captured("stopped", stop_strings=[stop])
    assert stopped
    assert set(stopped) <= {row for row in free if row[0] != example}
