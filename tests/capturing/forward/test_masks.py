"""Padding is told from attention masks of every shape, or the call is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from actstore.capturing.forward.masks import real_tokens
from actstore.errors import HookError
from tests.capturing import families

LENGTHS = (2, 5, 1, 4)
WIDTH = 5
IDS = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.long)


def padding(side: str) -> torch.Tensor:
    at = torch.arange(WIDTH)
    rows = [at < n if side == "right" else at >= WIDTH - n for n in LENGTHS]
    return torch.stack(rows)


def four(real: torch.Tensor) -> torch.Tensor:
    """Return the causal mask ``[B, 1, T, T]``: no token sees padding."""
    causal = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
    return (causal & real[:, None, :])[:, None]


def added(mask: torch.Tensor, low: float) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, low)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_masks_of_transformers(side: str, attn: str) -> None:
    real = padding(side)
    config = families.build("mistral", attn=attn).config
    options = {
        "config": config,
        "inputs_embeds": torch.zeros(len(LENGTHS), WIDTH, 0),
        "attention_mask": real,
        "past_key_values": None,
    }
    full, window = create_causal_mask(**options), create_sliding_window_causal_mask(**options)
    for mask in (full, window, {"full": full, "window": window}):
        found = real_tokens(mask, IDS, 0)
        assert found is not None
        assert found.tolist() == real.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_masks_that_people_write(side: str) -> None:
    real = padding(side)
    mask = four(real)
    both = mask & real[:, None, :, None]
    lenient = mask | ~mask.any(dim=3, keepdim=True)  # no query is left without a key
    cached = torch.cat([torch.ones(len(LENGTHS), 1, WIDTH, 3, dtype=torch.bool), mask], dim=3)
    static = torch.cat([cached, torch.zeros_like(cached)], dim=3)
    for each, held in (
        *((real, 0), (real.long(), 0), (real.float(), None)),
        *((mask, 0), (mask[:, 0], 0), (mask.expand(-1, 4, -1, -1), None), (both, 0), (lenient, 0)),
        *((added(mask, low), 0) for low in (-torch.inf, -1e9, -1e4)),
        *((cached, 3), (cached, None), (static, 3)),
    ):
        found = real_tokens(each, IDS, held)
        assert found is not None
        assert found.tolist() == real.tolist(), (each.shape, held)
    assert real_tokens(None, IDS, 0) is None
    assert real_tokens({"full": None}, IDS, 0) is None


def test_texts_that_see_everything_are_no_padding() -> None:
    every = torch.ones(1, 1, WIDTH, WIDTH, dtype=torch.bool)
    packed = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).bool().tril()[None, None]  # type: ignore[no-untyped-call]
    for mask in (every, packed):
        found = real_tokens(mask, IDS, 0)
        assert found is not None
        assert found.shape == IDS.shape
        assert found.all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_does_not_tell_is_refused(side: str) -> None:
    mask = four(padding(side))
    see_themselves = mask | torch.eye(WIDTH, dtype=torch.bool)
    for each in (see_themselves, mask.long(), mask[:, :, :3], mask[:2], GenerationConfig()):
        with pytest.raises(HookError, match="does not tell which of 4 x 5 tokens are padding"):
            real_tokens(each, IDS, 0)
