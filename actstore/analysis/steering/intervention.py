"""Adds a steering vector to what a model computes, for as long as a block lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import MismatchError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextlib.contextmanager
def steering(
    model: nn.Module,
    vector: torch.Tensor | np.ndarray | Sequence[float],
    layer: int,
    scale: float = 1.0,
    *,
    site: str = "resid_post",
    blocks: str | None = None,
) -> Iterator[None]:
    """Add ``scale * vector`` to the states at ``layer`` while the block runs.

    It is added at every position, of the prompt and of what is generated. The model is as
    it was afterwards, whatever happens inside. Several of these may be nested.

    Args:
        model: a transformers model, or any with a list of decoder blocks.
        vector: ``[width]`` or ``[1, width]``; cast to the states' own type.
        layer: 0-based number of the block; negative counts from the end.
        scale: how much of it; negative steers away.
        site: where in the block: ``resid_post``, ``resid_pre``, ``attn_out``, ``mlp_out``.
        blocks: dotted path of the list of blocks, where it is not found.

    Raises:
        MismatchError: the states have another width.
        HookError: of a call of a compiled model, where nothing might be added: call that inside.
        ModelError: the model's blocks are not found.
        UsageError: there is no such layer, or the vector is not one finite vector.
    """
    import torch

    from actstore.models.blocks import find, parse_layers, points
    from actstore.models.wrappers import uncompiled

    anatomy = find(model, blocks=blocks)
    (number,) = parse_layers(layer, len(anatomy.blocks))
    found = points(anatomy, [site], [number])
    if len(found) != 1 or found[0].layer != number:
        raise UsageError(f"site {site!r} is not inside a block: steer at resid_post or resid_pre")
    point = found[0]
    given = vector if isinstance(vector, torch.Tensor) else torch.as_tensor(np.asarray(vector))
    values = given.detach().float().reshape(-1)
    if not values.numel() or given.numel() != given.shape[-1] or not values.isfinite().all():
        raise UsageError(f"one finite vector is needed, got shape {list(given.shape)}")
    added = values * scale

    def steered(states: Any) -> Any:
        if states.shape[-1] != added.numel():
            raise MismatchError(
                f"the vector has {added.numel()} values, the states at {point.path} of "
                f"{type(model).__name__} have {states.shape[-1]}: it was made for another model"
            )
        return states + added.to(device=states.device, dtype=states.dtype)

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (steered(output[0]), *output[1:])
        if isinstance(output, list):
            return [steered(output[0]), *output[1:]]
        return steered(output)

    def before(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if inputs:
            return (steered(inputs[0]), *inputs[1:]), named
        return inputs, {**named, "hidden_states": steered(named["hidden_states"])}

    # Ahead of other hooks, such as those that collect hidden states: they see what is passed on.
    if point.take == "output":
        hook = point.module.register_forward_hook(after, prepend=True)
    else:
        hook = point.module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
    try:
        with uncompiled(model, lambda: True):
            yield
    finally:
        hook.remove()
