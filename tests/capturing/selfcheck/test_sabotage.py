"""The self-check is broken into in every way it claims to notice, in every family.

Every day each family takes a share of the ways, and some families take them all; all take them
all where ``ACTSTORE_TORTURE`` asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from actstore.capturing.forward import generation
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.pooling import parse_pools
from actstore.capturing.prompts.encode import Prompter
from actstore.capturing.prompts.example import Example, from_dict
from actstore.capturing.selfcheck import check
from actstore.errors import SelfCheckError
from actstore.models.blocks import SITES, find
from tests.capturing import families, odd_families, references, sabotage, vision_families
from tests.capturing.sabotage import Break
from tests.torture.effort import TORTURE

# PaliGemma's processor makes labels for training with an old way into NumPy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
QUESTIONS = ("yes", "which is larger 1 2 3 ? a or b")
SIZES = ((16, 16), (32, 16))
PROMPT_POOLS = "prompt.last,prompt.mean,prompt.tokens"
RESPONSE_POOLS = "prompt.last,response.mean,response.tokens,all.last"


def engine(
    model: Any,
    processor: Any,
    pools: str,
    sites: Sequence[str],
    *,
    tokens: int = 0,
    side: Any = None,
) -> Engine:
    anatomy = find(model)
    prompter = Prompter(model, processor)
    return Engine(
        anatomy,
        prompter,
        sabotage.points_of(anatomy, sites),
        parse_pools(pools),
        generation=generation.settle(
            model, prompter.pad_id, tokens, {"min_new_tokens": tokens} if tokens else None
        ),
        padding_side=side,
    )


SHARES = 3
"""A family takes every third way to break it, the next family the ways after those."""
WHOLE = ("gemma3", "deepseek_v3", "qwen3_moe", "jamba", *odd_families.ODD)
"""Families that take all: plain and mixtures of experts, a hybrid, and blocks that are odd."""
READS_PADS = ("recurrent_gemma",)
"""Families that compute something else beside pads: the self-check says so by itself."""


def places(name: str) -> Counter[str]:
    """Return how many layers of a family have each site, as it is written out by hand."""
    found = {site: len(layers) for site, layers in references.sites(name).items() if site in SITES}
    return Counter(found | {"embeddings": 1, "final_norm": 1})


def share(breaks: Sequence[str], name: str) -> Sequence[str]:
    """Return which ways a family takes: with its number among all the families it goes round."""
    if TORTURE or name in WHOLE:
        return breaks
    number = [*families.LANGUAGE, *vision_families.VISION].index(name)
    return breaks[number % SHARES :: SHARES]


def hold_to_account(model: Any, processor: Any, examples: list[Example], name: str) -> None:
    right = engine(model, processor, PROMPT_POOLS, SITES, side="right")
    ends = engine(model, processor, "prompt.last", ("resid_post",), side="right")
    left = engine(model, processor, "prompt.last", ("resid_post",), side="left")
    answering = engine(model, processor, RESPONSE_POOLS, ("attn_out", "resid_post"), tokens=3)
    there = Counter(point.site for point in right.points)
    if name not in odd_families.ODD:
        assert there == places(name)
    engines = [(right, sabotage.PROMPT), (ends, sabotage.RIGHT)]
    if name in READS_PADS:
        with pytest.raises(SelfCheckError, match=r"\(alone\)"):
            check.check(left, examples)
    else:
        engines += [(left, sabotage.LEFT), (answering, sabotage.RESPONSE)]
    for running, breaks in engines:
        assert check.check(running, examples)["passed"]
        tried = share(relevant(breaks, there), name)
        assert [each for each in tried if not caught(running, examples, breaks[each])] == []


def relevant(breaks: Mapping[str, Break], there: Counter[str]) -> list[str]:
    """Leave out what changes nothing: sites and norms that a family does not have."""
    skipped = {
        name
        for name in breaks
        for site in SITES
        if name.endswith(f" at {site}") and not there[site]
    }
    # A hybrid may have one attention only: there is none below it.
    skipped |= {f"the layer below at {site}" for site in SITES if there[site] < 2}
    if not there["final_norm"]:
        skipped |= {name for name in breaks if "final norm" in name}
    return [name for name in breaks if name not in skipped]


def caught(running: Engine, examples: list[Example], broken: Break) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        broken(patch, running)
        try:
            check.check(running, examples)
        except SelfCheckError:
            return True
    return False


def test_every_day_each_way_to_break_it_is_tried_in_several_families() -> None:
    several = [*families.LANGUAGE, *vision_families.VISION]
    for breaks in (sabotage.PROMPT, sabotage.RIGHT, sabotage.LEFT, sabotage.RESPONSE):
        tried = Counter(each for name in several for each in share(list(breaks), name))
        assert min(tried[each] for each in breaks) > len(several) // (SHARES + 1)


@pytest.mark.parametrize("name", families.LANGUAGE)
def test_everything_broken_is_caught_in_language_families(name: str) -> None:
    examples = [Example(id=str(n), question=text) for n, text in enumerate(QUESTIONS)]
    hold_to_account(families.build(name), families.tokenizer(), examples, name)


@pytest.mark.parametrize("name", ["llama", "gemma3", "deepseek_v3"])
def test_everything_broken_is_caught_in_heads_and_patterns(name: str) -> None:
    examples = [Example(id=str(n), question=text) for n, text in enumerate(QUESTIONS)]
    model, tokenizer = families.build(name, attn="eager"), families.tokenizer()
    heads = engine(model, tokenizer, PROMPT_POOLS, ("head_out",), side="left")
    pattern = engine(model, tokenizer, "prompt.last,prompt.tokens", ("attn_pattern",), side="left")
    for running, breaks, what in (
        (heads, sabotage.HEADS, "head_out"),
        (pattern, sabotage.PATTERN, "attentions"),
    ):
        assert check.check(running, examples)[what] < 1e-6
        assert [name for name in breaks if not caught(running, examples, breaks[name])] == []


@pytest.mark.parametrize("name", odd_families.ODD)
def test_everything_broken_is_caught_in_families_with_odd_blocks(name: str) -> None:
    examples = [Example(id=str(n), question=text) for n, text in enumerate(QUESTIONS)]
    hold_to_account(odd_families.build(name), families.tokenizer(), examples, name)


@pytest.mark.parametrize("name", vision_families.VISION)
def test_everything_broken_is_caught_in_vision_families(name: str, tmp_path: Path) -> None:
    model, processor = families.build_vlm(name)
    examples = []
    for number, (text, (width, height)) in enumerate(zip(QUESTIONS, SIZES, strict=True)):
        path = tmp_path / f"{number}.png"
        vision_families.picture(number, width=width, height=height).save(path)
        examples.append(from_dict({"id": number, "question": text, "image": str(path)}))
    hold_to_account(model, processor, examples, name)
