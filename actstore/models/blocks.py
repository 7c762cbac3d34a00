"""Finds the parts of a model to hook: decoder blocks, attention, MLP, final norm, head."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from actstore import schema
from actstore.errors import ModelError, UsageError
from actstore.models.attention import (
    HeadShape,
    attention_path,
    check_eager,
    head_shape,
    lack_of_heads,
    pattern_shape,
    projection_path,
)
from actstore.models.block_parts import (
    ATTENTION,
    ATTENTION_CLASS,
    MLP,
    MLP_CLASS,
    MLP_PAIRS,
    child_path,
    lack,
    module_at,
    several_mixers,
    several_mlps,
)
from actstore.models.wrappers import asked, unwrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The parts of a model that capture needs; paths are dotted, from ``model``."""

    model: nn.Module
    """The model itself, without what torch.compile, PEFT or data parallelism put around it."""
    base: nn.Module
    """Call this to run without head and logits; images are merged inside it."""
    decoder: nn.Module
    """The text decoder, which holds the blocks."""
    blocks: tuple[nn.Module, ...]
    blocks_path: str
    embeddings: nn.Module | None
    final_norm: nn.Module | None
    final_norm_path: str | None
    head: nn.Module | None


Take = Literal["input", "output", "weights"]
"""What is taken of a module: ``weights`` are the attention's, beside its output."""


class HookPoint(NamedTuple):
    """One place in the model whose states are captured."""

    site: str
    layer: int | None
    """0-based block; -1 for the embeddings, None for the final norm."""
    path: str
    """Dotted path of the module, from the model."""
    take: Take
    module: nn.Module
    shape: HeadShape | None = None
    """What a vector by head is made of; None of any other."""


SITES = (
    "resid_post", "resid_pre", "mlp_in", "mlp_out", "attn_out", "head_out", "embeddings",
    "final_norm",
)  # fmt: skip
"""States that can be captured by name. A path inside the block (``self_attn.q_proj``) is a site
too."""
PATTERN = "attn_pattern"
"""The site that is no state of a token, but how a token's heads attend to the others."""

_LISTS = ("layers", "h", "blocks", "block", "layer")
_NORMS = (
    "norm", "final_layernorm", "ln_f", "final_layer_norm", "norm_f", "final_norm", "layernorm",
    "layer_norm", "ln_out", "norm_final", "embedding_norm",
)  # fmt: skip
_STREAMS = {  # settings that give the residual stream one more axis
    "hc_mult": "hyper-connections keep several residual streams per token",
    "altup_num_inputs": "AltUp keeps several residual streams per token",
}
_STREAM_MODULES = re.compile(r"(^|_)hc$|hyper_connection|altup")
_TOWER = re.compile(r"vision|visual|image|audio|speech|talker|code2wav|token2wav|encoder|codec")
_RESIDUAL = re.compile(r"residual(_states|_tensor)?")
_LENGTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def find(model: nn.Module, *, blocks: str | None = None) -> Anatomy:
    """Find the parts of ``model``; ``blocks`` is the dotted path of its list of blocks.

    Wrappers of torch.compile (``OptimizedModule``), PEFT and data parallelism are taken
    off: hooks then work, on the model inside, which is ``Anatomy.model``.

    Raises:
        ModelError: no list of blocks was found, the model is compiled in place, is an
            encoder-decoder, or carries several residual streams.
    """
    model = unwrap(model)
    name = type(model).__name__
    _refuse_compiled(model, name)
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder: the prompt goes into its encoder, and what the decoder "
            "computes for it is no state of the prompt; capture a decoder-only model"
        )
    decoder = _decoder(model)
    path, found = _at(model, blocks) if blocks is not None else _blocks(model, decoder)
    if len({id(block) for block in found}) < len(found):
        raise ModelError(
            f"{name}: {path} lists the same module several times (weights are shared between "
            "layers), so its states cannot be told apart by hooks"
        )
    _refuse_streams(model, path, found)
    holder = model.get_submodule(path.rpartition(".")[0])
    norm_path, norm = _final_norm(model, holder, path)
    return Anatomy(
        model=model,
        base=_base(model, path),
        decoder=holder,
        blocks=found,
        blocks_path=path,
        embeddings=asked(model, "get_input_embeddings"),
        final_norm=norm,
        final_norm_path=norm_path,
        head=asked(model, "get_output_embeddings"),
    )


def parse_layers(spec: str | int | Sequence[int], count: int) -> list[int]:
    """Return the block numbers that ``spec`` names, ascending, of ``count`` blocks.

    ``all``, ``last``, ``every-6``, ``0,6,12``, ``0.25,0.5,0.75`` (fractions of the depth,
    0 the first block and 1 the last), or numbers; -1 counts from the end.

    Raises:
        UsageError: not one of these, or a block that the model does not have.
    """
    if isinstance(spec, str):
        parts = [part.strip() for part in spec.split(",") if part.strip()]
    else:
        parts = [str(part) for part in ([spec] if isinstance(spec, int) else spec)]
    if not parts:
        raise UsageError("no layers were named: use all, last, 0,6,12, every-6 or 0.25,0.5,0.75")
    found: set[int] = set()
    for part in parts:
        found.update(_layers_of(part, count))
    return sorted(found)


def _layers_of(part: str, count: int) -> Sequence[int]:
    if part == "all":
        return range(count)
    if part == "last":
        return (count - 1,)
    if match := re.fullmatch(r"every-([1-9]\d*)", part):
        return range(0, count, int(match[1]))
    if re.fullmatch(r"0?\.\d+|1\.0*|0\.", part):
        return (round(float(part) * (count - 1)),)
    if not re.fullmatch(r"-?\d+", part):
        raise UsageError(
            f"layers {part!r} is not understood: use all, last, 0,6,12, every-6 or 0.25,0.5,0.75"
        )
    number = int(part)
    if not -count <= number < count:
        raise UsageError(
            f"layer {number} does not exist: the model has {count} blocks, 0 to {count - 1} "
            f"(or -1 to -{count} from the end)"
        )
    return (number % count,)


def points(
    anatomy: Anatomy,
    sites: Sequence[str],
    layers: Sequence[int],
    *,
    pattern_length: int | None = None,
) -> list[HookPoint]:
    """Return where to hook for ``sites`` at ``layers``; embeddings and final norm come once.

    A site is a name of `SITES`, another tool's spelling of one (``blocks.3.hook_resid_post``
    then means that layer only), or a path inside the block, ``self_attn.o_proj`` for what
    that module returns and ``self_attn.o_proj.input`` for what goes into it. Attention patterns
    need ``pattern_length``, the keys that a row holds.

    Raises:
        ModelError: blocks have no such module; the message names them. Or patterns are wanted of
            a model that does not compute them.
        UsageError: the model has no such layer, or no length is given for patterns.
    """
    found: list[HookPoint] = []
    for name in sites:
        site, layer = schema.canonical_site(name)
        if site == "embeddings":
            found.append(
                HookPoint(site, -1, f"{anatomy.blocks_path}.0", "input", anatomy.blocks[0])
            )
        elif site == "final_norm":
            if anatomy.final_norm is None or anatomy.final_norm_path is None:
                raise ModelError(
                    f"{type(anatomy.model).__name__} has no final norm beside "
                    f"{anatomy.blocks_path}: leave out the site final_norm"
                )
            path = anatomy.final_norm_path
            found.append(HookPoint(site, None, path, "output", anatomy.final_norm))
        else:
            chosen = layers if layer is None else [layer]
            parse_layers(chosen, len(anatomy.blocks))
            found.extend(_site_points(anatomy, site, chosen, pattern_length))
    unique = {(point.site, point.layer): point for point in found}
    return list(unique.values())


def _site_points(
    anatomy: Anatomy, site: str, layers: Sequence[int], pattern_length: int | None
) -> Iterator[HookPoint]:
    inside = {layer: _inside(anatomy.blocks[layer], site) for layer in layers}
    shapes = _shapes(anatomy, site, layers, pattern_length)
    inside |= {layer: None for layer, shape in shapes.items() if shape is None}
    missing = [layer for layer in layers if inside[layer] is None]
    if missing:
        block = anatomy.blocks[missing[0]]
        having = [layer for layer in layers if inside[layer] is not None]
        advice = (
            f"the layers {','.join(map(str, having))} have one: name those"
            if having
            else f"sites are {', '.join((*SITES, PATTERN))} or a path inside the block, such as "
            "one of these"
        )
        why = (lack_of_heads(block) if shapes else None) or lack(block, site)
        raise ModelError(
            f"site {site!r}: {_lacking(missing, anatomy.blocks_path)} "
            f"({type(block).__name__}) {why}; {advice}"
        )
    if site == PATTERN:
        check_eager(anatomy.model, _text_config(getattr(anatomy.model, "config", None)))
    for layer in layers:
        path, take = inside[layer] or ("", "output")
        full = f"{anatomy.blocks_path}.{layer}" + (f".{path}" if path else "")
        module = anatomy.model.get_submodule(full)
        yield HookPoint(site, layer, full, take, module, shapes.get(layer))


def _shapes(
    anatomy: Anatomy, site: str, layers: Sequence[int], pattern_length: int | None
) -> dict[int, HeadShape | None]:
    """Return, by layer, what the vectors of a site by head are made of; nothing of other sites."""
    text = _text_config(getattr(anatomy.model, "config", None))
    if site == "head_out":
        return {layer: head_shape(anatomy.blocks[layer], text) for layer in layers}
    if site != PATTERN:
        return {}
    if pattern_length is None:
        raise UsageError(
            f"site {PATTERN!r} is captured by `actstore capture` and actstore.capture alone, which "
            "are told how many keys a row holds (--pattern-length)"
        )
    return {layer: pattern_shape(anatomy.blocks[layer], text, pattern_length) for layer in layers}


def _lacking(layers: Sequence[int], path: str) -> str:
    """Name blocks that lack a site, and the first of them, whose reason follows."""
    first, last = layers[0], layers[-1]
    if first == last:
        return f"block {first} of {path}"
    unbroken = last - first == len(layers) - 1
    named = f"{first} to {last}" if unbroken else ", ".join(map(str, layers))
    return f"blocks {named} of {path} lack it: block {first}"


def _inside(block: nn.Module, site: str) -> tuple[str, Take] | None:
    if site == "resid_post":
        return "", "output"
    if site == "resid_pre":
        return "", "input"
    if site == "attn_out":
        path = None if several_mixers(block) else child_path(block, ATTENTION, ATTENTION_CLASS)
        return (own_part(block, path), "output") if path else None
    if site == "head_out":
        path = projection_path(block)
        return (path, "input") if path else None
    if site == PATTERN:
        path = attention_path(block)
        return (path, "weights") if path else None
    if site in ("mlp_in", "mlp_out"):
        if several_mlps(block):
            return None
        take: Literal["input", "output"] = "input" if site == "mlp_in" else "output"
        path = child_path(block, MLP, MLP_CLASS)
        for first, second in () if path else MLP_PAIRS:
            if module_at(block, first) and module_at(block, second):
                path = first if take == "input" else second
        if path and take == "output":
            path = own_part(block, path)
        return (path, take) if path else None
    path, _, ending = site.rpartition(".")
    if ending == "input" and module_at(block, path) is not None:
        return path, "input"
    return (site, "output") if module_at(block, site) is not None else None


def own_part(block: nn.Module, path: str) -> str:
    """Return where a module's own part is before it adds the residual stream to it.

    Modules that are given the stream as an argument (``residual``) return the sum, as BLOOM's
    attention and MLP and MPT's MLP do: their part is what the last matrix inside returns.
    """
    module = block.get_submodule(path)
    if not adds_residual(module):
        return path
    inner = [name for name, child in module.named_children() if _has_matrix(child)]
    return f"{path}.{inner[-1]}" if inner else path


def adds_residual(module: nn.Module) -> bool:
    """Say whether a module is given the residual stream beside its input."""
    return any(_RESIDUAL.fullmatch(name) for name in inspect.signature(module.forward).parameters)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and getattr(weight, "ndim", 0) == 2


def _base(model: nn.Module, blocks_path: str) -> nn.Module:
    found = getattr(model, "base_model", None)
    if isinstance(found, nn.Module) and found is not model:
        return found
    config = getattr(model, "config", None)
    sees = any(hasattr(config, name) for name in ("vision_config", "audio_config"))
    inner = None if sees else module_at(model, blocks_path.partition(".")[0])
    # Llama4ForCausalLM names no base of its own: there it is the part that has the embeddings
    return inner if inner is not None and hasattr(inner, "get_input_embeddings") else model


def _decoder(model: nn.Module) -> nn.Module:
    """Follow ``get_decoder`` as far as it leads: BLIP-2 answers with a whole causal model."""
    decoder = model
    for _ in range(8):
        inner = asked(decoder, "get_decoder")
        if inner is None or inner is decoder or not any(_lists(inner)):
            break
        decoder = inner
    return decoder


def _lists(module: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    for path, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and len(child):
            yield path, child


def _blocks(model: nn.Module, decoder: nn.Module) -> tuple[str, tuple[nn.Module, ...]]:
    """Choose the list of blocks: by length and class, then by place, the shallowest first."""
    prefix = next(path for path, module in model.named_modules() if module is decoder)
    lengths = _text_lengths(model, decoder)
    recorded = _recorded_classes(decoder)
    ranked: list[tuple[tuple[bool, bool, int], str, nn.ModuleList]] = []
    for path, modules in _lists(decoder):
        known = isinstance(modules[0], recorded)
        named = path.rpartition(".")[2] in _LISTS and len(modules) in lengths
        if known or named:
            rank = (bool(_TOWER.search(path)), not known, path.count("."))
            ranked.append((rank, path, modules))
    if not ranked:
        listed = ", ".join(f"{prefix}.{path}".strip(".") for path, _ in _lists(decoder)) or "none"
        raise ModelError(
            f"{type(model).__name__}: no list of decoder blocks was recognised (lists of modules: "
            f"{listed}); name it with --blocks PATH (in Python, blocks='path')"
        )
    _, path, modules = min(ranked, key=lambda entry: entry[0])
    return f"{prefix}.{path}".strip("."), tuple(modules)


def _at(model: nn.Module, path: str) -> tuple[str, tuple[nn.Module, ...]]:
    try:
        found = model.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        listed = ", ".join(list_path for list_path, _ in _lists(model)) or "none"
        kind = "does not exist" if found is None else f"is a {type(found).__name__}"
        raise ModelError(
            f"blocks={path!r} {kind} in {type(model).__name__}; its lists of modules are {listed}"
        )
    return path, tuple(found)


def _text_lengths(model: nn.Module, decoder: nn.Module) -> set[int]:
    lengths: set[int] = set()
    for module in (decoder, model):
        config: Any = getattr(module, "config", None)
        if config is None:
            continue
        text = (
            config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        )
        for owner in (text, config):
            for name in _LENGTHS:
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    lengths.add(value)
    return lengths


def _text_config(config: Any) -> Any:
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _recorded_classes(decoder: nn.Module) -> tuple[type, ...]:
    """Return the classes whose outputs transformers itself records as hidden states."""
    recorded = getattr(decoder, "_can_record_outputs", None) or {}
    entry = recorded.get("hidden_states") if isinstance(recorded, dict) else None
    entries = entry if isinstance(entry, list | tuple) else [entry]
    classes = [getattr(item, "target_class", item) for item in entries]
    return tuple(item for item in classes if isinstance(item, type))


def _final_norm(
    model: nn.Module, holder: nn.Module, blocks_path: str
) -> tuple[str | None, nn.Module | None]:
    prefix = blocks_path.rpartition(".")[0]
    children = dict(holder.named_children())
    names = [name for name in _NORMS if name in children]
    names += [
        name
        for name, child in children.items()
        if "norm" in type(child).__name__.lower() and "emb" not in name
    ]
    for name in names:
        return f"{prefix}.{name}".strip("."), children[name]
    return None, None


def _refuse_compiled(model: nn.Module, name: str) -> None:
    for path, module in model.named_modules():
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or type(module).__name__ == "OptimizedModule":
            raise ModelError(
                f"{name} is compiled at {path or 'the top'}: hooks that are added after "
                "torch.compile are silently left out of the compiled code; capture with the model "
                "as it was loaded, before compile()"
            )


def _refuse_streams(model: nn.Module, path: str, blocks: tuple[nn.Module, ...]) -> None:
    name = type(model).__name__
    config: Any = getattr(model, "config", None)
    text = _text_config(config)
    for setting, reason in _STREAMS.items():
        if (getattr(text, setting, None) or 0) > 1:
            raise ModelError(
                f"{name} cannot be captured: {reason} ({setting}="
                f"{getattr(text, setting)}), so a block has no single state for a token"
            )
    for child, _ in blocks[0].named_children():
        if _STREAM_MODULES.search(child):
            raise ModelError(
                f"{name} cannot be captured: {path}.0.{child} keeps several residual streams per "
                "token, so a block has no single state for a token"
            )
