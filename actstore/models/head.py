"""What a model says of a state: its own final norm and head, and all it does to logits.

The model itself is run on one token per state, and the states are put in the place of what its
last block (or its final norm) returned. Whatever a family does from there on (norms, projections,
scales, soft caps) is so its own code, and none of it is written here a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from actstore.errors import MismatchError, ModelError
from actstore.models.blocks import find, points

After = Literal["block", "final_norm"]
"""What returned a state: a block of the decoder, or the norm behind the last one."""
_VALUES = 1 << 24
"""Logits that are held at a time: 64 MiB of float32."""
_STATES = 256


def logits(
    model: nn.Module, states: torch.Tensor, *, after: After = "block", token: int = 0
) -> Iterator[torch.Tensor]:
    """Yield the logits of the next token for each state, float32 ``[n, vocabulary]``, in order.

    Args:
        model: a transformers model with a head.
        states: ``[rows, width]``, cast to the type of the model's own.
        after: what they are states of.
        token: an id that the model is run on; its own states are thrown away.

    Raises:
        MismatchError: the model's states have another width.
        ModelError: the model has no head, or no final norm for states of one.
    """
    anatomy = find(model)
    if anatomy.head is None:
        raise ModelError(
            f"{type(anatomy.model).__name__} has no head that turns states into tokens: load it as "
            "a causal language model"
        )
    site = "resid_post" if after == "block" else "final_norm"
    (point,) = points(anatomy, [site], [len(anatomy.blocks) - 1])
    given: list[torch.Tensor] = []

    def put(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        own = output if isinstance(output, torch.Tensor) else output[0]
        if own.shape[-1] != states.shape[-1]:
            raise MismatchError(
                f"the states have {states.shape[-1]} values, those at {point.path} of "
                f"{type(anatomy.model).__name__} have {own.shape[-1]}: they are of another model"
            )
        placed = given[0].to(device=own.device, dtype=own.dtype).reshape(own.shape)
        if isinstance(output, torch.Tensor):
            return placed
        return [placed, *output[1:]] if isinstance(output, list) else (placed, *output[1:])

    hook = point.module.register_forward_hook(put)
    step = max(1, min(_STATES, _VALUES // max(1, _vocabulary(anatomy.head))))
    device = next(anatomy.model.parameters()).device
    try:
        for start in range(0, len(states), step):
            part = states[start : start + step]
            given[:] = [part]
            ids = torch.full((len(part), 1), token, device=device)
            with torch.inference_mode():
                found = anatomy.model(
                    input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
                )
            yield found.logits[:, -1].float()
    finally:
        hook.remove()


def _vocabulary(head: nn.Module) -> int:
    weight = getattr(head, "weight", None)
    return int(weight.shape[0]) if weight is not None else _VALUES
