"""What hooked vectors are compared with: states seen by plain hooks or reported by the model.

They share nothing with the tap: no pooling, no bookkeeping, no way to find a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from actstore.capturing.forward.pooling import Pool
from actstore.errors import SelfCheckError
from actstore.models.blocks import Anatomy, HookPoint, Take

Keep = Callable[[list[torch.Tensor]], None]
"""Takes the tensors that a module was given, or returned; the states come first."""
Watch = tuple[nn.Module, Take, Keep]


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


def plain_pattern(
    tensors: Sequence[torch.Tensor], real: torch.Tensor, keys: int
) -> torch.Tensor | None:
    """Return attention weights among ``tensors`` as ``[B, T, heads * keys]``, example by example.

    Zero at pads, and beyond an example's own tokens, of which ``real`` ``[B, T]`` are none.
    """
    batch, width = real.shape
    for weights in tensors:
        if weights.ndim == 4 and (len(weights), *weights.shape[2:]) == (batch, width, width):
            found = weights.new_zeros(batch, width, weights.shape[1], keys)
            for row, mask in enumerate(real.to(weights.device)):
                own = weights[row][:, :, mask]
                found[row, :, :, : own.shape[2]] = own.permute(1, 0, 2)
            return found.flatten(2)
    return None


class States(NamedTuple):
    """What the model itself reports of one pass."""

    states: tuple[torch.Tensor, ...]
    """``hidden_states``: one or two more than there are blocks."""
    logits: torch.Tensor | None
    shift: int | None
    """Entry of block i's output less i: 1 as a rule, 0 in some families; None: neither."""
    attentions: tuple[torch.Tensor, ...] = ()
    """Attention weights, of the blocks that have any; nothing unless patterns are captured."""


class Pair(NamedTuple):
    """A vector that hooks kept, and what it should be."""

    name: str
    found: np.ndarray
    expected: np.ndarray

    @property
    def error(self) -> float:
        """Distance relative to what it should be; infinite where the shapes differ."""
        if self.found.shape != self.expected.shape:
            return math.inf
        expected = self.expected.astype(np.float64)
        size = float(np.linalg.norm(expected))
        distance = float(np.linalg.norm(self.found.astype(np.float64) - expected))
        if not math.isfinite(distance):
            return math.inf
        return distance / size if size else (0.0 if distance == 0 else math.inf)


def pooled_plainly(
    pool: Pool, states: torch.Tensor, mask: torch.Tensor, left_out: torch.Tensor | None
) -> np.ndarray:
    """Pool states ``[T, width]`` in the plainest way; ``[n, width]``, n = 0 for nothing."""
    rows = as_numpy(states[mask.to(states.device)])
    if pool.offset is not None:
        at = pool.offset if pool.offset >= 0 else len(rows) + pool.offset
        chosen: np.ndarray = rows[at : at + 1] if 0 <= at < len(rows) else rows[:0]
        return chosen
    if pool.picks:
        return rows
    kept = mask if left_out is None else mask & ~left_out[0]
    rows = as_numpy(states[kept.to(states.device)])
    if not len(rows):
        return rows
    mean = pool.pool == "mean"
    pooled: np.ndarray = rows.mean(0, dtype=np.float64) if mean else rows.max(0)
    return pooled[None]


def at_columns(states: torch.Tensor, column: torch.Tensor) -> np.ndarray:
    rows = torch.arange(len(states), device=states.device)
    return as_numpy(states[rows, column.to(states.device)])


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().cpu().numpy()
    return array


def same_values(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and one.shape == other.shape and torch.equal(one.to(other.device), other)


def scaled_logits(text: Any, logits: torch.Tensor) -> torch.Tensor:
    """Do what some families do to logits after the head."""
    if scaling := getattr(text, "logits_scaling", None):
        logits = logits / scaling
    if scale := getattr(text, "logit_scale", None):
        logits = logits * scale
    if cap := getattr(text, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def advice(dtype: str) -> str:
    """Return what to do about values that are not finite."""
    if dtype == "float16":
        return (
            "; float16 ends at 65504, which the residual streams of many models exceed: load the "
            "model in bfloat16 or float32 (--dtype)"
        )
    return "; check the weights, and the attention implementation (--attn eager)"
