"""A block's own parts: how families name attention, MLP and what stands in their place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

# As families call them, over every causal class of transformers 5.23. The first found counts.
ATTENTION = (
    "self_attn", "attn", "attention", "self_attention", "linear_attn", "mixer", "temporal_block",
    "rel_attn", "self_att", "multi_head_attention",
)  # fmt: skip
MLP = (
    "mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block", "feedforward", "ff",
    "shared_mlp", "mixer",
)  # fmt: skip
_RECURRENT = ("mamba", "conv", "short_conv", "mixer", "temporal_block", "mlstm_layer")
"""What stands in attention's place without being one: state spaces, convolutions, recurrences."""
_ANY_KIND = ("mixer", "temporal_block")
"""Names for attention, recurrence and MLP alike (NemotronH, RecurrentGemma): the class tells."""
_OF_ATTENTION = ("attn_out", "head_out", "attn_pattern")
ATTENTION_CLASS = re.compile(r"att(entio)?n", re.IGNORECASE)
MLP_CLASS = re.compile(r"mlp|moe|feed_?forward|experts", re.IGNORECASE)
_SEVERAL_MLPS = re.compile(r"(^|_)(mlps?|ffns?|feed_?forward|moe|experts)$")
"""Children of a block that each write to its residual stream as an MLP."""
MLP_PAIRS = (("fc1", "fc2"), ("linear1", "linear2"))


def lack(block: nn.Module, site: str) -> str:
    """Say what a block has in place of a site, and how that is captured."""
    of_mlp = site in ("mlp_in", "mlp_out")
    several = several_mlps(block) if of_mlp else several_mixers(block)
    if several and (of_mlp or site == "attn_out"):
        paths = [name + ".input" * (site == "mlp_in") for name in several]
        return (
            f"has {' and '.join(several)} side by side, so no one module's state is the block's "
            f"{'MLP' if of_mlp else 'attention'}: capture each by its path ({', '.join(paths)})"
        )
    found = f"has no such module among {', '.join(name for name, _ in block.named_children())}"
    if of_mlp or site in _OF_ATTENTION:
        names, kind = (MLP, MLP_CLASS) if of_mlp else (ATTENTION, ATTENTION_CLASS)
        for child, _ in block.named_children():
            path = child_path(block, names, kind, inside=f"{child}.")
            if path is not None:
                return f"{found}: it is inside {child}, captured as site {path!r}"
    path = child_path(block, _RECURRENT) if site in _OF_ATTENTION else None
    kinds = type(block.get_submodule(path)).__name__ if path else ""
    if path is None or (path in _ANY_KIND and MLP_CLASS.search(kinds)):
        return found
    return f"{found}: in attention's place stands {path} ({kinds}), captured as site {path!r}"


def several_mixers(block: nn.Module) -> list[str]:
    """Return attention and recurrence side by side in one block, as in Falcon-H1."""
    attention = child_path(block, ATTENTION, ATTENTION_CLASS)
    other = child_path(block, [name for name in _RECURRENT if name not in _ANY_KIND])
    return [attention, other] if attention and other else []


def several_mlps(block: nn.Module) -> list[str]:
    """Return the MLPs side by side in one block; none where there are not at least two."""
    found = [
        name
        for name, child in block.named_children()
        if _SEVERAL_MLPS.search(name) and "norm" not in type(child).__name__.lower()
    ]
    return found if len(found) > 1 else []


def child_path(
    block: nn.Module,
    names: Sequence[str],
    kind: re.Pattern[str] | None = None,
    *,
    inside: str = "",
) -> str | None:
    """Return the path of the first of ``names`` among a block's own parts, or ``inside`` one.

    Only its own parts write to its residual stream. ``kind`` is what the class of a module
    has to be called whose name may stand for any kind.
    """
    for name in names:
        found = module_at(block, inside + name)
        if found is None:
            continue
        if kind is None or name not in _ANY_KIND or kind.search(type(found).__name__):
            return inside + name
    return None


def module_at(module: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule there, if it is one that runs: a list of modules does not."""
    try:
        found = module.get_submodule(path) if path else None
    except AttributeError:
        return None
    return None if isinstance(found, nn.ModuleList | nn.ModuleDict) else found
