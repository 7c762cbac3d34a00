"""Plain hooks of the self-check's own: what modules take and return, seen a second time.

They share nothing with the tap: no pooling, no bookkeeping, no way to find a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from actstore.errors import SelfCheckError
from actstore.models.blocks import Anatomy, HookPoint

Keep = Callable[[list[torch.Tensor]], None]
"""Takes the tensors that a module was given, or returned; the states come first."""
Watch = tuple[nn.Module, Literal["input", "output"], Keep]


@contextmanager
def watching(watches: Sequence[Watch]) -> Iterator[None]:
    """Let each watch see its module's tensors, while the block lasts."""
    handles = []
    try:
        for module, take, keep in watches:
            handles.append(
                module.register_forward_pre_hook(_before(keep), with_kwargs=True)
                if take == "input"
                else module.register_forward_hook(_after(keep))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(keep: Keep) -> Any:
    def before(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        named = dict(kwargs)
        given = [*args, *([named.pop("hidden_states")] if "hidden_states" in named else [])]
        keep([each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)])

    return before


def _after(keep: Keep) -> Any:
    def after(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Mapping):
            output = tuple(output.values())
        found = [output] if isinstance(output, torch.Tensor) else list(output)
        keep([each for each in found if isinstance(each, torch.Tensor)])

    return after


def expected_module(anatomy: Anatomy, point: HookPoint) -> nn.Module:
    """Return the module that a point's site and layer mean, whatever module the point has.

    Raises:
        SelfCheckError: the point's path is in another block, or in none.
    """
    site, layer = point.site, point.layer
    if site == "final_norm" or layer is None:
        return anatomy.final_norm if anatomy.final_norm is not None else point.module
    block = anatomy.blocks[max(layer, 0)]
    if site in ("resid_post", "resid_pre", "embeddings"):
        found = block
    else:
        prefix = f"{anatomy.blocks_path}.{layer}."
        try:
            found = block.get_submodule(point.path.removeprefix(prefix))
        except AttributeError:
            found = anatomy.model
    if found is not point.module:
        raise SelfCheckError(
            f"the self-check failed before the run: the hook for {site} of layer {layer} is at "
            f"{point.path}, which is not in block {max(layer, 0)} of {anatomy.blocks_path}"
        )
    return found


def shaped(states: torch.Tensor, batch: int, width: int) -> torch.Tensor | None:
    """Return states as ``[B, T, width]``, also those of modules that see tokens in one row."""
    if states.ndim == 3 and tuple(states.shape[:2]) == (batch, width):
        return states.detach()
    if states.ndim == 2 and len(states) == batch * width:
        return states.detach().reshape(batch, width, -1)
    return None
