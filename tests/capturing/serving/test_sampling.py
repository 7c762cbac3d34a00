"""What vLLM is told to generate by, and what is refused before it is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from actstore.capturing.forward.generation import settle_config
from actstore.capturing.run.options import CaptureSettings
from actstore.capturing.run.parts import check_served_options
from actstore.capturing.serving import loading
from actstore.capturing.serving.sampling import sampling_options
from actstore.capturing.serving.schedule import Schedule
from actstore.errors import HookError, MissingExtraError, ModelError, UsageError


def told(position: int = 3, seed: int = 7, **options: Any) -> dict[str, Any]:
    defaults = GenerationConfig(
        eos_token_id=[2, 5], repetition_penalty=1.05, do_sample=True, temperature=0.6, top_k=20
    )
    return sampling_options(settle_config(defaults, 0, 40, options), seed, position)


def test_the_checkpoints_settings_hold_but_nothing_is_drawn() -> None:
    assert told() == {
        "temperature": 0.0,
        "ignore_eos": True,
        "detokenize": False,
        "max_tokens": 40,
        "stop_token_ids": [2, 5],
        "repetition_penalty": 1.05,
    }


def test_drawing_is_asked_for_by_name_and_has_a_seed_of_each_example() -> None:
    drawn = told(do_sample=True, temperature=0.7, min_new_tokens=2)
    assert {name: drawn[name] for name in ("temperature", "top_k", "min_tokens")} == {
        "temperature": 0.7,
        "top_k": 20,
        "min_tokens": 2,
    }
    seeds = [told(at, seed, do_sample=True)["seed"] for at in range(50) for seed in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= each < 1 << 63 for each in seeds)
    assert told(do_sample=True)["temperature"] == 0.6


def test_without_generation_one_token_is_written_that_nobody_reads() -> None:
    assert sampling_options(None, 0, 0)["max_tokens"] == 1


@pytest.mark.parametrize(
    "options", [{"no_repeat_ngram_size": 2}, {"stop_strings": ["x"]}, {"typical_p": 0.5}]
)
def test_settings_of_transformers_alone_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"generates without {next(iter(options))}"):
        told(**options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": "attn_pattern"}, "never computes its weights"),
        ({"blocks": "model.layers"}, "whose blocks it names itself"),
        ({"padding_side": "left"}, "pads nothing"),
        ({"pool": "image.mean"}, "texts alone"),
    ],
)
def test_what_is_not_served_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_served_options(CaptureSettings(**settings))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tensor_parallel_size", 2, "a part of every state"),
        ("enable_prefix_caching", True, "never computed"),
        ("speculative_config", {}, "taken back"),
        ("quantization", "fp8", "another model"),
        ("max_model_length", 9, "no option 'max_model_length'.*max_model_len"),
    ],
)
def test_options_that_hooks_could_not_follow_are_refused(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        loading.check_options({name: value})


def test_one_gpu_may_be_said_in_words() -> None:
    loading.check_options({"tensor_parallel_size": 1, "max_model_len": 100})
    with pytest.raises(UsageError, match="another model"):  # nor does it let others pass
        loading.check_options({"tensor_parallel_size": 1, "quantization": "fp8"})


def test_without_vllm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'actstore\[vllm\]'"):
        loading.load("nowhere")


class Runner:
    """Keeps its batch as vLLM's runner does, in an order of its own."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=list[str]())

    def execute_model(self, output: Any, order: list[str]) -> str:
        self.input_batch.req_ids = order
        return "done"


def test_requests_of_a_step_come_in_the_order_of_the_runners_batch() -> None:
    runner = Runner()
    schedule = Schedule(runner, "0.32.0")
    schedule.begin()
    names = [f"{schedule.request(row)}-ab12cd34" for row in range(3)]
    chosen = SimpleNamespace(num_scheduled_tokens={names[0]: 4, names[2]: 1})
    # One more is in the batch that was not chosen for this step.
    assert runner.execute_model(chosen, [names[2], names[1], names[0]]) == "done"
    assert schedule() == [(2, 1), (0, 4)]


def test_requests_of_somebody_else_or_of_an_earlier_batch_are_refused() -> None:
    schedule = Schedule(Runner(), "0.32.0")
    schedule.begin()
    earlier = schedule.request(0)
    schedule.begin()
    for request in (earlier, "0-ab12cd34", "chat-1-2"):
        with pytest.raises(HookError, match="none of this batch"):
            schedule.row(request)


def test_a_step_with_requests_that_the_batch_does_not_have_is_refused() -> None:
    runner = Runner()
    schedule = Schedule(runner, "0.32.0")
    schedule.begin()
    chosen = SimpleNamespace(num_scheduled_tokens={schedule.request(0): 4})
    runner.execute_model(chosen, [])
    with pytest.raises(HookError, match="other requests than its scheduler chose"):
        schedule()


def test_a_version_that_keeps_its_batches_elsewhere_is_refused() -> None:
    with pytest.raises(ModelError, match=r"vLLM 9\.9 keeps its batches in another way"):
        Schedule(SimpleNamespace(execute_model=None), "9.9")
