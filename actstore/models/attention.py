"""A block's attention by head: where heads leave it, how many there are and how wide each is."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from actstore.errors import ModelError
from actstore.models.block_parts import ATTENTION, ATTENTION_CLASS, child_path, module_at

# As families call it, over every causal class of transformers 5.23. The first found counts.
_PROJECTIONS = (
    "o_proj", "out_proj", "c_proj", "dense", "Wo", "wo", "output.dense", "attention.out_proj",
    "self_attention.attention_out",
)  # fmt: skip
_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_WIDTHS = ("v_head_dim", "head_dim", "head_size")
_DIFFERENTIAL = "lambda_init"
"""What differential attention has, which subtracts heads from each other."""
_LINEAR = "linear_attn"


class HeadShape(NamedTuple):
    """What a vector by head is made of: reshape it to these two."""

    heads: int
    """Query heads: keys and values that several of them share count no less."""
    width: int
    """Values of each head; of an attention pattern, keys."""


def attention_path(block: nn.Module) -> str | None:
    """Return the path of a block's attention; None where something else stands in its place."""
    path = child_path(block, ATTENTION, ATTENTION_CLASS)
    if path == _LINEAR and not ATTENTION_CLASS.search(_class(block, path)):
        return None
    return path


def projection_path(block: nn.Module) -> str | None:
    """Return the path of the matrix that a block's attention ends with, which mixes its heads."""
    path = attention_path(block)
    if path is None or hasattr(block.get_submodule(path), _DIFFERENTIAL):
        return None
    return _projection(block, path)


def _projection(block: nn.Module, path: str) -> str | None:
    for name in _PROJECTIONS:
        if module_at(block, f"{path}.{name}") is not None:
            return f"{path}.{name}"
    return None


def head_count(block: nn.Module, config: Any) -> int | None:
    """Return how many query heads a block's attention has; None where nothing says so."""
    path = attention_path(block)
    if path is None:
        return None
    module = block.get_submodule(path)
    own = getattr(module, "config", None)  # of its layer, where layers differ
    for owner in (module, own, config):
        for name in _COUNTS:
            value = _asked(owner, name)
            if isinstance(value, int) and value > 0:
                return value
    return None


def head_shape(block: nn.Module, config: Any) -> HeadShape | None:
    """Return the shape of what goes into the output projection; None if it is not by head.

    The width is the projection's own: with latent attention, values are not as wide as keys.
    """
    path, heads = projection_path(block), head_count(block, config)
    width = _taken(block.get_submodule(path)) if path else None
    if heads is None or width is None or width % heads:
        return None
    module = block.get_submodule(attention_path(block) or "")
    for name in _WIDTHS:
        each = _asked(module, name)
        if isinstance(each, int):
            return HeadShape(heads, each) if heads * each == width else None
    return HeadShape(heads, width // heads)


def pattern_shape(block: nn.Module, config: Any, keys: int) -> HeadShape | None:
    """Return the shape of a row of an attention pattern; None where a block has no attention."""
    heads = head_count(block, config)
    return None if heads is None else HeadShape(heads, keys)


def check_eager(model: nn.Module, config: Any) -> None:
    """Refuse a model that does not compute its attention weights as such.

    Raises:
        ModelError: says how to load it.
    """
    used = getattr(config, "_attn_implementation", None)
    if used not in (None, "eager"):
        raise ModelError(
            f"site 'attn_pattern': {type(model).__name__} runs {used} attention, which never "
            "computes the pattern as such: load the model with --attn eager (in Python, "
            "from_pretrained(…, attn_implementation='eager'))"
        )


def lack_of_heads(block: nn.Module) -> str | None:
    """Say why a block has no heads though there is an attention, or what is called one."""
    path = child_path(block, ATTENTION, ATTENTION_CLASS)
    if path is None:
        for name, _ in block.named_children():
            inner = child_path(block, ATTENTION, ATTENTION_CLASS, inside=f"{name}.")
            found = _projection(block, inner) if inner else None
            if found is not None:
                return (
                    f"has no attention of its own: that inside {name} is captured by the path of "
                    f"what its output projection takes, {found}.input"
                )
        return None
    module, kind = block.get_submodule(path), _class(block, path)
    if attention_path(block) is None or module_at(block, f"{path}.output") is not None:
        return f"has no attention heads: in attention's place stands {path} ({kind})"
    if hasattr(module, _DIFFERENTIAL):
        return (
            f"has an attention ({kind}) that subtracts heads from each other before its output "
            f"projection, so that no single head is left there: capture {path}.o_proj.input"
        )
    if projection_path(block) is None:
        return f"has an attention ({path}, {kind}) without an output projection of its own"
    return (
        f"has an attention ({path}, {kind}) whose output projection does not take its heads side "
        f"by side: capture what it takes by its path, {projection_path(block)}.input"
    )


def _class(block: nn.Module, path: str) -> str:
    return type(block.get_submodule(path)).__name__


def _asked(owner: Any, name: str) -> Any:
    """Read an attribute; configurations whose layers differ refuse to answer for all of them."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def _taken(module: nn.Module) -> int | None:
    """Return how wide a matrix's input is; wrappers hold it one level down."""
    for each in module.modules():
        for name in ("in_features", "input_size"):  # vLLM's have the second
            found = getattr(each, name, None)
            if isinstance(found, int):
                return found
        weight = getattr(each, "weight", None)
        if weight is not None and weight.ndim == 2:
            return int(weight.shape[0])  # GPT-2's, which lie the other way round
    return None
