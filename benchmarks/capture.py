"""Point 13: capturing while a model runs, against the bare model and against other tools.

The model is a Llama of 8 layers with random weights (width 512, vocabulary 32,000), the prompts
are of mixed length. nnsight, TransformerLens and lmprobe take part where they are installed.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

import actstore
from actstore.capturing.forward.hooks import Tap
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.run.batching import form
from actstore.models import blocks
from benchmarks.corpus import Corpus
from benchmarks.measure import Outcome, Timings, check_same, interleaved

LAYERS = 8
BATCH = 8
NEW_TOKENS = 16
_WORDS = 31_990

Inputs = dict[str, torch.Tensor]


def run(corpus: Corpus) -> list[Outcome]:
    """Make the model and measure."""
    folder = corpus.folder / "capture"
    shutil.rmtree(folder, ignore_errors=True)
    model, tokenizer = make_model(folder / "model", small=corpus.quick)
    prompts = make_prompts(24 if corpus.quick else 128)
    rounds = 2 if corpus.quick else 5
    with torch.inference_mode():
        return [
            *_one_pass(model, tokenizer, prompts, rounds, folder),
            *_generation(model, tokenizer, prompts[:32], rounds),
            *_peers(model, tokenizer, prompts, rounds, folder),
            *(_memory(folder / "model", length) for length in (256, 1024)),
        ]


def make_model(folder: Path, *, small: bool) -> tuple[Any, Any]:
    """Return the model and its tokenizer, saved in ``folder`` too."""
    width = 64 if small else 512
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{n}": n + 3 for n in range(_WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = FastTokenizer(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return _load(folder)


def _load(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def make_prompts(count: int) -> list[str]:
    """Return texts of 20 to 64 tokens."""
    draw = np.random.default_rng(0)
    return [
        " ".join(f"w{n}" for n in draw.integers(0, _WORDS, draw.integers(20, 65)))
        for _ in range(count)
    ]


def batches(tokenizer: Any, prompts: list[str], side: str = "right") -> list[Inputs]:
    """Return the prompts in batches of like length, as `actstore.capture` forms them."""
    lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    return [
        tokenizer(
            [prompts[at] for at in chosen],
            return_tensors="pt",
            padding=True,
            padding_side=side,
            return_token_type_ids=False,
        )
        for chosen in form(lengths, batch_size=BATCH)
    ]


def _one_pass(
    model: Any, tokenizer: Any, prompts: list[str], rounds: int, folder: Path
) -> list[Outcome]:
    """Hooks during one pass of the base model, against the same passes without them."""
    given = batches(tokenizer, prompts)
    base = model.base_model

    def bare() -> None:
        for inputs in given:
            base(**inputs, use_cache=False)

    def all_states() -> np.ndarray:
        rows = []
        for inputs in given:
            states = base(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            last = inputs["attention_mask"].sum(1) - 1
            rows.append(states[LAYERS // 2 + 1][torch.arange(len(last)), last].numpy())
        return np.concatenate(rows)

    def tapped(layers: list[int], early: bool) -> Callable[[], np.ndarray]:
        return lambda: np.concatenate(list(_tapped(model, given, layers, early)))

    def stored() -> None:
        _capture(model, tokenizer, prompts, folder / "one-pass")

    every = list(range(LAYERS))
    check_same({"hidden_states": all_states(), "hooks": tapped(every, False)()})
    times = interleaved(
        {
            "bare": bare,
            "hooks": tapped(every, False),
            "one layer": tapped([LAYERS // 2 - 1], True),
            "stored": stored,
            "output_hidden_states": all_states,
        },
        rounds=rounds,
    )
    return [
        _against(times, "hooks", "bare", "all layers, last and mean / bare base model", 1.03),
        _against(times, "stored", "bare", "the same through actstore.capture, on disk", 1.05),
        _against(times, "one layer", "bare", "one middle layer / bare base model", 0.75),
        _against(times, "output_hidden_states", "bare", "output_hidden_states=True / bare", None),
    ]


def _tapped(
    model: Any, given: list[Inputs], layers: list[int], early: bool
) -> Iterator[np.ndarray]:
    """Yield the last token's state of the block in the middle, or of the only one, per batch."""
    pools = parse_pools(("prompt.last", "prompt.mean"))
    anatomy = blocks.find(model)
    points = blocks.points(anatomy, ("resid_post",), layers)
    shown = layers[len(layers) // 2]
    with Tap(points, pools, anatomy=anatomy, stop_early=early) as tap:
        for inputs in given:
            tap.begin({"prompt": inputs["attention_mask"].bool()})
            tap.call(anatomy.base, **inputs, use_cache=False)
            yield tap.end().vectors["resid_post", shown][pools[0]]


def _generation(model: Any, tokenizer: Any, prompts: list[str], rounds: int) -> list[Outcome]:
    """Hooks during generate(), against generate() alone."""
    given = batches(tokenizer, prompts, side="left")
    anatomy = blocks.find(model)
    points = blocks.points(anatomy, ("resid_post",), range(LAYERS))
    pools = parse_pools(("prompt.last", "prompt.mean", "response.mean"))
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}

    def alone() -> np.ndarray:
        return np.concatenate([model.generate(**each, **options)[:, -1].numpy() for each in given])

    def hooked() -> np.ndarray:
        found = []
        with Tap(points, pools, anatomy=anatomy) as tap:
            for each in given:
                tap.begin({"prompt": each["attention_mask"].bool()})
                found.append(model.generate(**each, **options)[:, -1].numpy())
                tap.end()
        return np.concatenate(found)

    check_same({"alone": alone(), "hooked": hooked()})
    times = interleaved({"generate": alone, "hooks": hooked}, rounds=rounds)
    return [_against(times, "hooks", "generate", "all layers during generate / generate()", 1.03)]


def _peers(
    model: Any, tokenizer: Any, prompts: list[str], rounds: int, folder: Path
) -> list[Outcome]:
    """End to end: from texts to stored, or at least kept, vectors of all layers."""
    candidates: dict[str, Callable[[], object]] = {
        "actstore": lambda: _capture(model, tokenizer, prompts, folder / "peers")
    }
    with ExitStack() as stack:
        for name, make in (
            ("lmprobe", _lmprobe),
            ("nnsight", _nnsight),
            ("TransformerLens", _transformer_lens),
        ):
            try:
                candidates[name] = make(model, tokenizer, prompts, folder)
            except ImportError:
                continue
        stack.enter_context(torch.inference_mode())
        times = interleaved(candidates, rounds=rounds)
    speed = len(prompts) / times.median("actstore")
    return [
        Outcome(
            point=13,
            what=f"examples/s, end to end: actstore / {peer}",
            value=times.ratio(peer, "actstore"),
            at_least=1,
            note=f"{speed:.3g} examples/s; {times.note('actstore', peer)}",
        )
        for peer in candidates
        if peer != "actstore"
    ]


def _memory(folder: Path, length: int) -> Outcome:
    """Peak memory of one batch with hooks, above that of the same batch without."""
    # Each tensor in memory of its own, given back at once: what glibc keeps for later varies
    # by more than is measured here.
    plain = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    children = ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1)
    with patch.dict(os.environ, plain), children:
        bare, hooked = (
            children.submit(_peak, folder, length, tapped).result() for tapped in (False, True)
        )
    return Outcome(
        point=13,
        what=f"peak memory above the bare pass, {BATCH} prompts of {length} tokens",
        value=(hooked - bare) / 1e6,
        unit=" MB",
        at_most=100,
        note=f"{bare / 1e6:.0f} MB without hooks, {hooked / 1e6:.0f} MB with them",
    )


def _peak(folder: Path, length: int, tapped: bool) -> int:
    torch.set_num_threads(1)
    model, _ = _load(folder)
    ids = torch.randint(3, _WORDS, (BATCH, length), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        if tapped:
            list(_tapped(model, [inputs], list(range(LAYERS)), False))
        else:
            model.base_model(**inputs, use_cache=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _capture(model: Any, tokenizer: Any, prompts: list[str], store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    actstore.capture(
        model,
        tokenizer,
        [{"id": str(number), "question": text} for number, text in enumerate(prompts)],
        store=store,
        pool=("prompt.last", "prompt.mean"),
        batch_size=BATCH,
        chat_template=False,
        self_check=False,
        model_name="bench/llama",
    )


def _lmprobe(model: Any, tokenizer: Any, prompts: list[str], folder: Path) -> Callable[[], object]:
    from lmprobe.extract import extract

    target = folder / "lmprobe"

    def work() -> object:
        shutil.rmtree(target, ignore_errors=True)
        return extract(
            str(folder / "model"),
            prompts,
            output_dir=str(target),
            batch_size=BATCH,
            remote=False,
            device="cpu",
            backend="local",
        )

    return work


def _nnsight(model: Any, tokenizer: Any, prompts: list[str], folder: Path) -> Callable[[], object]:
    from nnsight import NNsight, save

    wrapped = NNsight(model.base_model)
    given = [
        tokenizer(
            prompts[at : at + BATCH],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        for at in range(0, len(prompts), BATCH)
    ]

    def work() -> object:
        kept = []
        for inputs in given:
            last = inputs["attention_mask"].sum(1) - 1
            rows = torch.arange(len(last))
            with wrapped.trace(**inputs, use_cache=False):
                states = save([layer.output[rows, last] for layer in wrapped.layers])
            kept.append(states)
        return kept

    return work


def _transformer_lens(
    model: Any, tokenizer: Any, prompts: list[str], folder: Path
) -> Callable[[], object]:
    from transformer_lens.model_bridge import TransformerBridge

    own, tokenizer = _load(folder / "model")  # it changes the modules it wraps
    bridge = TransformerBridge.boot_transformers(
        str(folder / "model"), hf_model=own, tokenizer=tokenizer, device="cpu"
    )
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(LAYERS)]
    given = [
        tokenizer(
            prompts[at : at + BATCH],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        for at in range(0, len(prompts), BATCH)
    ]

    def work() -> object:
        kept = []
        for inputs in given:
            _, cache = bridge.run_with_cache(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                names_filter=lambda name: name in names,
            )
            last = inputs["attention_mask"].sum(1) - 1
            rows = torch.arange(len(last))
            kept.append([cache[name][rows, last] for name in names])
        return kept

    return work


def _against(times: Timings, one: str, other: str, what: str, at_most: float | None) -> Outcome:
    return Outcome(
        point=13, what=what, value=times.ratio(one, other), at_most=at_most,
        note=times.note(one, other),
    )  # fmt: skip
