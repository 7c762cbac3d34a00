"""Captured while vLLM serves, equal to what transformers computes; runs by `make test-vllm`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import actstore
from actstore import cli
from actstore.capturing.run import parts
from actstore.capturing.run.options import CaptureOptions, CaptureSettings
from actstore.capturing.run.summary import CaptureProgress, CaptureSummary
from actstore.capturing.serving import tap
from actstore.capturing.serving.engine import ServingEngine
from actstore.capturing.serving.loading import ServedModel, load
from actstore.errors import MixedRunError, ModelError, SelfCheckError, UsageError
from actstore.storage import manifest
from tests.capturing.serving import small_models

pytest.importorskip("vllm")
pytestmark = pytest.mark.filterwarnings("default")  # vLLM and what it imports have many

CLOSE = 5e-6
"""Tolerated in float32 on a CPU, where next to nothing is rounded otherwise."""
POOLS = (
    "prompt.last,prompt.mean,prompt.max,prompt.tokens,question.last,response.first,response.last,"
    "response.mean,response.max,response.tokens,all.mean,all.-2"
)
SITES = "resid_post,resid_pre,mlp_in,mlp_out,attn_out,head_out,embeddings,final_norm"
Loader = Callable[..., ServedModel]


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = small_models.save(family, tmp_path_factory.mktemp(family) / "tiny")
        return made[family]

    return folder


@pytest.fixture(scope="module")
def llama(folders: Callable[[str], Path]) -> ServedModel:
    """One for the tests that follow each other here: a later `load` ends it."""
    return load(folders("llama"))


def examples(count: int = 12) -> list[dict[str, Any]]:
    """Questions of several lengths, two of them the same."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        digits = generator.integers(0, 10, int(generator.integers(1, 40))).tolist()
        asked = f"which is larger {digits} ?"
        found.append({"id": f"q{number}", "question": asked, "oracle": "1"})
    return [*found, {**found[0], "id": "again"}]


def rows(store: Path) -> pl.DataFrame:
    keys = ["example_id", "site", "layer", "region", "pooling", "position", "prediction"]
    found = actstore.open(store).select().to_polars([*keys, "token_count"])
    return found.sort(keys, nulls_last=True)


def worst(one: pl.DataFrame, other: pl.DataFrame) -> float:
    """Return the largest relative distance of two frames' vectors, whose other columns agree."""
    names = [name for name in one.columns if name not in ("activation", "row_id")]
    assert one.select(names).equals(other.select(names))
    apart = 0.0
    for mine, theirs in zip(one["activation"], other["activation"], strict=True):
        mine, theirs = mine.to_numpy().astype(float), theirs.to_numpy().astype(float)
        apart = max(apart, float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return apart


def both(
    served: ServedModel, asked: list[dict[str, Any]], folder: Path, options: CaptureOptions
) -> tuple[pl.DataFrame, pl.DataFrame, CaptureSummary]:
    """Capture by both engines; return their rows, and what vLLM's capture told."""
    loaded = served.reference()
    actstore.capture(loaded.model, loaded.processor, asked, store=folder / "local", **options)
    serving: CaptureOptions = {**options, "engine": "vllm"}
    summary = actstore.capture(served, None, asked, store=folder / "served", **serving)
    return rows(folder / "served"), rows(folder / "local"), summary


def test_the_prompt_alone(llama: ServedModel, tmp_path: Path) -> None:
    options: CaptureOptions = {"pool": "prompt.last,prompt.mean,all.tokens", "layers": "0,-1"}
    mine, theirs, _ = both(llama, examples(), tmp_path, options)
    assert worst(mine, theirs) < CLOSE
    assert mine["prediction"].null_count() == len(mine)


def engines(
    served: ServedModel, options: CaptureOptions
) -> tuple[ServingEngine, Callable[[], Any]]:
    """Return vLLM's engine, and what runs the same examples through transformers."""
    chosen = CaptureSettings(**options)
    made = parts.served(served, chosen)
    assert isinstance(made.engine, ServingEngine)
    loaded = served.reference()
    return made.engine, partial(parts.local, loaded.model, loaded.processor, chosen)


def compared(served: ServedModel, count: int, options: CaptureOptions) -> ServingEngine:
    """Run a batch through both engines, and hold one against the other."""
    from actstore.capturing.prompts.example import stream

    engine, local = engines(served, options)
    asked = list(stream(iter(examples(count))))
    with engine:
        mine = engine.run(asked, range(len(asked)))
    plain = local().engine
    with plain:
        theirs = plain.run(asked, range(len(asked)))
    assert mine.predictions == theirs.predictions
    assert mine.responses == theirs.responses
    for place, kept in theirs.pooled.vectors.items():
        for pool, vectors in kept.items():
            one, other = mine.pooled.rows[pool], theirs.pooled.rows[pool]
            np.testing.assert_array_equal(one.example, other.example)
            if one.position is not None:
                np.testing.assert_array_equal(one.position, other.position)
            np.testing.assert_array_equal(one.token_count, other.token_count)
            apart = np.linalg.norm(mine.pooled.vectors[place][pool] - vectors, axis=1)
            assert (apart / np.linalg.norm(vectors, axis=1)).max() < CLOSE, (place, pool)
    return engine


WHOLE: CaptureOptions = {"sites": "resid_post,mlp_out", "pool": POOLS, "max_new_tokens": 24}


def test_ends_and_penalties_are_those_of_transformers(llama: ServedModel, tmp_path: Path) -> None:
    options: CaptureOptions = {
        "pool": "response.tokens,response.mean,answer.mean,answer.last",
        "layers": "1",
        "max_new_tokens": 12,
        "grade": "contains",
        "batch_size": 1,  # the penalty of transformers counts pads as if the model had said them
        "generation": {
            "eos_token_id": list(range(2, 20)),
            "repetition_penalty": 1.3,
            "min_new_tokens": 2,
        },
    }
    mine, theirs, _ = both(llama, examples(40), tmp_path, options)
    assert worst(mine, theirs) < CLOSE
    tokens = mine.filter(region="response", pooling="none").group_by("example_id").len()["len"]
    assert tokens.min() == 2
    assert 2 < tokens.n_unique() < 12
    assert mine.filter(region="answer", pooling="mean").height > 0


def test_a_dry_run_says_what_it_takes(llama: ServedModel, tmp_path: Path) -> None:
    summary = actstore.capture(
        llama,
        None,
        examples(),
        store=tmp_path / "s",
        engine="vllm",
        max_new_tokens=4,
        pool="prompt.last,response.mean",
        dry_run=True,
    )
    assert summary.estimate is not None
    assert summary.estimate.examples == 13
    assert not (tmp_path / "s").exists()


def test_many_requests_at_once(llama: ServedModel, tmp_path: Path) -> None:
    options: CaptureOptions = {"max_new_tokens": 5, "batch_size": "auto", "layers": "1"}
    options["pool"] = "prompt.last,response.mean,all.last"
    mine, theirs, summary = both(llama, examples(600), tmp_path, options)
    assert summary.batches >= 3
    assert worst(mine, theirs) < CLOSE


def test_drawn_tokens_hang_on_seed_and_example_alone(llama: ServedModel, tmp_path: Path) -> None:
    def predictions(name: str, count: int, seed: int) -> dict[str, str]:
        actstore.capture(
            llama,
            None,
            examples(count)[:-1],
            store=tmp_path / name,
            engine="vllm",
            max_new_tokens=6,
            generation={"do_sample": True, "temperature": 1.5, "top_p": 0.9},
            seed=seed,
            layers="0",
            self_check=False,
        )
        found = rows(tmp_path / name)
        return dict(zip(found["example_id"], found["prediction"], strict=True))

    few = predictions("few", 6, 1)
    more = predictions("more", 12, 1)
    assert {name: more[name] for name in few} == few
    assert predictions("other", 12, 2) != more


def test_a_capture_that_was_broken_off_goes_on(llama: ServedModel, tmp_path: Path) -> None:
    asked = examples(400)
    options: CaptureOptions = {"engine": "vllm", "batch_size": 16, "layers": "0"}

    def stop(done: CaptureProgress) -> None:
        if done.examples > 256:  # in the second window
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        actstore.capture(llama, None, asked, store=tmp_path / "s", progress=stop, **options)
    assert not llama.llm.llm_engine.has_unfinished_requests()
    summary = actstore.capture(llama, None, asked, store=tmp_path / "s", **options)
    assert summary.resumed
    assert len(rows(tmp_path / "s")) == len(asked)


def test_rows_of_both_engines_are_not_mixed_unasked(llama: ServedModel, tmp_path: Path) -> None:
    loaded = llama.reference()
    options: CaptureOptions = {"model_name": "tiny", "layers": "0"}
    actstore.capture(loaded.model, loaded.processor, examples(3), store=tmp_path, **options)
    serving: CaptureOptions = {**options, "engine": "vllm", "self_check": False}
    with pytest.raises(MixedRunError, match="engine null → vllm"):
        actstore.capture(llama, None, examples(3), store=tmp_path, **serving)


def test_half_of_the_residual_stream_is_refused_before_the_first_row(
    llama: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(states: torch.Tensor | None, residual: torch.Tensor | None = None) -> Any:
        return states

    monkeypatch.setattr(tap, "_summed", half)
    with pytest.raises(SelfCheckError, match="served"):
        actstore.capture(llama, None, examples(3), store=tmp_path / "s", engine="vllm")
    assert not (tmp_path / "s").exists()


def test_a_model_that_was_never_measured_is_checked_in_any_case(
    llama: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MEASURED", ())
    with pytest.raises(ModelError, match="LlamaForCausalLM was never held against"):
        actstore.capture(llama, None, examples(3), store=tmp_path, engine="vllm", self_check=False)


def test_matrices_that_vllm_fuses_are_refused_by_name(llama: ServedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"self_attn\.q_proj"):
        actstore.capture(
            llama, None, examples(3), store=tmp_path, engine="vllm", sites="self_attn.q_proj"
        )


def test_generation_that_vllm_does_otherwise_is_refused(llama: ServedModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="generates without no_repeat_ngram_size"):
        actstore.capture(
            llama,
            None,
            examples(3),
            store=tmp_path,
            engine="vllm",
            max_new_tokens=3,
            generation={"no_repeat_ngram_size": 2},
        )


@pytest.mark.parametrize("family", small_models.FAMILIES)
def test_rows_are_those_of_transformers(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    served = load(folders(family))
    mine, theirs, summary = both(
        served, examples(), tmp_path, {"sites": SITES, "pool": POOLS, "max_new_tokens": 9}
    )
    assert len(mine) > 2000
    assert worst(mine, theirs) < CLOSE
    assert summary.self_check is not None
    assert summary.self_check["served"] < CLOSE
    assert summary.self_check["response"] < CLOSE
    (run,) = manifest.latest(tmp_path / "served").runs
    assert run.settings["engine"]["name"] == "vllm"
    assert run.settings["engine"]["version"] == served.version


def test_prompts_in_pieces(folders: Callable[[str], Path]) -> None:
    served = load(folders("llama"), options={"max_num_batched_tokens": 16, "max_num_seqs": 5})
    engine = compared(served, 12, WHOLE)
    assert engine.pieces > 2 * 13
    assert engine.repeated == 0


def test_texts_that_lose_their_cache_and_are_computed_again(
    folders: Callable[[str], Path],
) -> None:
    options = {
        "block_size": 32,
        "num_gpu_blocks_override": 9,
        "max_model_len": 128,
        "max_num_batched_tokens": 32,
        "max_num_seqs": 8,
    }
    engine = compared(load(folders("llama"), options=options), 12, WHOLE)
    assert engine.repeated > 100


def test_the_command(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "q.jsonl"
    data.write_text("\n".join(map(json.dumps, examples(4))))
    given = ["capture", "--model", str(folders("llama")), "--data", str(data), "--json"]
    given += ["--store", str(tmp_path / "s"), "--engine", "vllm", "--max-new-tokens", "4"]
    given += ["--engine-option", "max_model_len=200", "--grade", "contains"]
    assert cli.run(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["examples"] == 5
    assert told["self_check"]["served"] < CLOSE
    assert cli.run(given) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["rows"], again["skipped"]) == (0, 5)
