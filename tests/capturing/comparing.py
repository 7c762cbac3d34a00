"""Batches of texts, and what a tap should keep of them, worked out from each text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actstore.capturing.forward.pooling import Pool, PooledBatch
from tests.capturing import families, references

LENGTHS = (9, 1, 6, 3)


def texts(seed: int = 0, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(20, families.VOCAB, length).tolist() for length in lengths]


def padded(prompts: Sequence[Sequence[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask ``[B, T]``."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), families.PAD)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if side == "left" else slice(0, len(prompt))
        ids[row, place] = torch.tensor(prompt)
        mask[row, place] = True
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def regions(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The question is what stands from each prompt's second token on."""
    place = positions(mask)
    return {"prompt": mask, "all": mask, "question": mask & (place >= 1)}


def first_tokens(mask: torch.Tensor) -> torch.Tensor:
    return mask & (positions(mask) == 0)


def pick(states: np.ndarray, pool: Pool, *, start: int, stop: int, skip: Sequence[int]) -> Any:
    """Pool one text's states over the tokens from start to stop; None if there are none."""
    part = states[start:stop]
    if pool.pool in ("mean", "max"):
        places = [place for place in range(start, stop) if place not in skip]
        if not places:
            return None
        kept = states[places]
        return kept.mean(axis=0) if pool.pool == "mean" else kept.max(axis=0)
    if pool.pool == "tokens":
        return part if len(part) else None
    number = {"first": 0, "last": -1}.get(pool.pool)
    number = int(pool.pool) if number is None else number
    return part[number] if -len(part) <= number < len(part) else None


def distances(
    pooled: PooledBatch,
    expected: Sequence[references.States],
    spans: Sequence[Mapping[str, tuple[int, int] | list[int]]],
    *,
    skip: Sequence[int] = (),
) -> np.ndarray:
    """Return the relative distances of all vectors; fail where rows are missing or too many.

    ``spans`` says for each text where its regions lie, from where to where or token by token,
    ``skip`` which tokens means leave out.
    """
    found: list[np.ndarray] = []
    assert pooled.vectors.keys() == expected[0].keys()
    for key, by_pool in pooled.vectors.items():
        for pool, vectors in by_pool.items():
            rows = pooled.rows[pool]
            assert len(vectors) == len(rows.example) == len(rows.token_count)
            assert vectors.dtype == np.float32
            for example, states in enumerate(expected):
                span = spans[example][pool.region]
                if isinstance(span, tuple):
                    wanted = pick(states[key], pool, start=span[0], stop=span[1], skip=skip)
                else:
                    wanted = pick(states[key][span], pool, start=0, stop=len(span), skip=())
                chosen = vectors[rows.example == example]
                if wanted is None:
                    assert len(chosen) == 0, (key, pool, example)
                else:
                    found.append(references.distances(chosen, wanted))
    return np.concatenate(found)


def prompt_spans(prompts: Sequence[Sequence[int]]) -> list[dict[str, tuple[int, int]]]:
    return [{"prompt": (0, len(p)), "all": (0, len(p)), "question": (1, len(p))} for p in prompts]
