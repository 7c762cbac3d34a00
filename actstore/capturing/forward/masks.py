"""Which tokens of a call are no padding, as its attention mask says, whatever its shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from actstore.errors import HookError

_MASKED = -1e4
"""From here on down a number that is added to attention's scores leaves a token out."""


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """Return the cache that a call is given; None if it has none."""
    return kwargs.get("past_key_values", kwargs.get("cache_params"))


def held_by(cache: Any) -> int | None:
    """Return how many tokens a cache holds; None if it does not say."""
    length = getattr(cache, "get_seq_length", None)
    if length is None:
        return 0 if cache is None else None
    try:
        return int(length())
    except ValueError:  # of recurrent models: their caches hold no tokens
        return None


def left_out(kwargs: Mapping[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """Return in which rows the last token of a call is padding, bool ``[B]`` beside the tokens."""
    real = real_tokens(kwargs.get("attention_mask"), ids, held_by(cache_of(kwargs)))
    if real is None:
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    return ~real[:, -1].to(ids.device)


def real_tokens(mask: Any, ids: torch.Tensor, held: int | None) -> torch.Tensor | None:
    """Return which tokens are no padding, bool ``[B, T]`` on the mask's device.

    A mask of two dimensions says so itself. One of three or four says which keys each query sees:
    a token that does not even see itself is padding.

    Args:
        mask: what the call is given as ``attention_mask``; also one for each kind of layer.
        ids: the call's tokens, ``[B, T]``.
        held: tokens that the cache holds, with which a mask begins; None if it does not say.

    Returns:
        None where there is no mask.

    Raises:
        HookError: the mask does not tell.
    """
    if isinstance(mask, Mapping):
        found = [real_tokens(each, ids, held) for each in mask.values()]
        told = [each for each in found if each is not None]
        return torch.stack(told).all(dim=0) if told else None
    if mask is None:
        return None
    batch, width = ids.shape
    real = None
    if isinstance(mask, torch.Tensor) and mask.ndim > 1 and len(mask) in (1, batch):
        there = mask.shape[-1]
        # A mask of a window alone ends with the call's tokens; one of a static cache goes on.
        start = held if held is not None and held + width <= there else there - width
        if start >= 0:
            keys = slice(start, start + width)
            real = mask[:, keys] != 0 if mask.ndim == 2 else _seeing_themselves(mask, keys)
    if real is None:
        kind = f"{mask.dtype} {list(mask.shape)}" if hasattr(mask, "dtype") else type(mask).__name__
        raise HookError(
            f"the attention mask ({kind}) does not tell which of {batch} x {width} tokens are "
            "padding: give 1 and 0 as [batch, tokens]; or bool or float [batch, heads, queries, "
            "keys] where padding sees nothing or every key, and nothing sees padding"
        )
    return real.expand(batch, width)


def _seeing_themselves(mask: torch.Tensor, keys: slice) -> torch.Tensor | None:
    """Return which of the tokens at ``keys`` see themselves, bool ``[B, T]``.

    None where that does not tell: padding may see itself, too, so a token that nobody else sees is
    believed only at the end of a text, which whatever follows does not look back into.
    """
    width = keys.stop - keys.start
    if mask.shape[-2] != width or not (mask.dtype is torch.bool or mask.is_floating_point()):
        return None
    sees = mask if mask.dtype is torch.bool else mask > _MASKED
    sees = sees.reshape(len(mask), -1, width, mask.shape[-1]).any(dim=1)
    # Padding may be let see every key, lest there be none; so may texts, but then all of one does.
    every = sees.all(dim=2)
    aside = every & ~every.all(dim=1, keepdim=True)
    aside[:, -1] = False
    sees = sees & ~aside[:, :, None]
    own = sees[:, :, keys]
    real = own.diagonal(dim1=1, dim2=2)
    same = torch.eye(width, dtype=torch.bool, device=mask.device)
    by_others = (own & ~same).any(dim=1)
    columns = torch.arange(mask.shape[-1], device=mask.device)
    nothing = len(columns)
    earliest = torch.where(sees, columns, nothing).amin(dim=2)
    following = earliest.flip(1).cummin(dim=1).values.flip(1)
    following = torch.nn.functional.pad(following[:, 1:], (0, 1), value=nothing)
    looked_past = following < columns[keys]
    alone = (sees.sum(dim=2) == 1) & (following < nothing)
    unsure = real & ~by_others & (looked_past | alone)
    return None if (unsure | by_others & ~real).any() else real
