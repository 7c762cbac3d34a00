"""Measures how a block adds the outputs of its attention and MLP to the residual stream.

``resid_post = resid_pre + attn_out + mlp_out`` holds in many families. Elsewhere the parts pass
a norm first, are multiplied by a number, or the sum is normed. All of that is read off the
values: a state of the stream is looked for as a sum of what modules returned, and modules
without a matrix (norms, gates, scales) are followed to what they were given. A site whose
values take no part in the sum, or hold the whole stream, is not what its name says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from actstore.capturing.selfcheck.reference import Watch, shaped
from actstore.errors import ModelError
from actstore.models.blocks import Anatomy, points

SITES = ("attn_out", "mlp_out")
LIMITS: Mapping[str, float] = {
    "float64": 1e-5,
    "float32": 1e-5,
    "float16": 2**-10,
    "bfloat16": 2**-7,
}
"""Tolerated between a state and its sum, relative to the state: a few roundings of the type."""
_SMALL = 8
"""Parts below this many times the limit cannot be told from rounding: nothing is said of them."""
_DEEP = 4
_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_MLP = re.compile(r"mlp|moe|ffn|feed_?forward|experts", re.IGNORECASE)
_RECURRENT = re.compile(r"mamba|conv|ssm|lstm|recurrent|rglru|delta", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")
_R = "resid_pre"


class BlockVerdict(NamedTuple):
    """What was measured of one block."""

    layer: int
    error: float | None
    """Of the plain sum of ``resid_pre`` and the sites there are; None where a part is missing."""
    how: dict[str, str]
    """By site: how its values come into the stream."""
    refused: dict[str, str]
    """By site: why it is not what its name says."""
    certain: frozenset[str] = frozenset()
    """Those of them that a sum shows which holds; the others were not found in one."""


@dataclass(slots=True)
class SeenBlock:
    """What was seen of one block: rows of a few tokens, ``[n, width]``."""

    layer: int
    kind: str
    """Name of the block's class."""
    marks: dict[str, str]
    """Path of each site's module in the block."""
    modules: dict[str, nn.Module]
    """Those that take part in the sum, opened no further than the marks need."""
    taken: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    returned: dict[str, torch.Tensor] = field(default_factory=dict)


def blocks_of(anatomy: Anatomy, layers: list[int]) -> list[SeenBlock]:
    """Return the blocks to look at, with the modules of each that matter."""
    found = []
    for layer in layers:
        marks = {}
        for site in SITES:
            try:
                (point,) = points(anatomy, [site], [layer])
            except ModelError:
                continue
            marks[site] = point.path.removeprefix(f"{anatomy.blocks_path}.{layer}.")
        if marks:
            block = anatomy.blocks[layer]
            modules = dict(_frontier(block, set(marks.values())))
            found.append(SeenBlock(layer, type(block).__name__, marks, modules))
    return found


def _frontier(
    block: nn.Module, marks: set[str], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    for name, child in block.named_children():
        path = prefix + name
        inside = any(mark.startswith(f"{path}.") for mark in marks)
        if inside or isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _frontier(child, marks, f"{path}.")
        else:
            yield path, child


def watches(
    anatomy: Anatomy, block: SeenBlock, columns: torch.Tensor, shape: tuple[int, int]
) -> Iterator[Watch]:
    """Yield what to watch of a block; kept are the tokens at ``columns`` ``[B, k]``."""

    def rows(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for tensor in tensors:
            states = shaped(tensor, *shape) if tensor.is_floating_point() else None
            if states is not None:
                every = torch.arange(shape[0], device=states.device)[:, None]
                picked = states[every, columns.to(states.device)]
                found.append(picked.reshape(-1, states.shape[-1]))
        return found

    def keep(path: str, take: str) -> Watch:
        def take_in(tensors: list[torch.Tensor]) -> None:
            found = rows(tensors)
            if take == "input":
                block.taken[path] = found
            elif found:
                block.returned[path] = found[0]

        module = block.modules[path] if path else anatomy.blocks[block.layer]
        return module, "input" if take == "input" else "output", take_in

    for path in ("", *block.modules):
        yield keep(path, "input")
        yield keep(path, "output")


def judge(block: SeenBlock, dtype: str) -> BlockVerdict | None:
    """Say how the block's parts come into the stream; None where nothing was seen of it."""
    if not block.taken.get("") or "" not in block.returned:
        return None
    return _Judge(block, LIMITS.get(dtype, LIMITS["bfloat16"])).verdict()


class _FittedSum(NamedTuple):
    error: float
    parts: dict[str, float]
    """Factor of each part that matters."""


class _Judge:
    def __init__(self, block: SeenBlock, limit: float) -> None:
        self.block, self.limit = block, limit
        self.before = _array(block.taken[""][0])
        self.after = _array(block.returned[""])
        self.sites = {
            site: _array(block.returned[path])
            for site, path in block.marks.items()
            if path in block.returned and block.returned[path].shape[-1] == self.after.shape[-1]
        }
        self.others = {
            path: _array(tensor)
            for path, tensor in block.returned.items()
            if path
            and path not in block.marks.values()
            and tensor.shape == block.returned[""].shape
        }

    def verdict(self) -> BlockVerdict:
        plain = None
        if self.sites and len(self.sites) == len(self.block.marks):
            plain = self._error(self.after, [self.before, *self.sites.values()])
        if plain is not None and plain <= self.limit:
            return BlockVerdict(self.block.layer, plain, {site: site for site in self.sites}, {})
        if len(self.sites) < len(SITES):
            plain = None  # something else stands where the other part would be
        reached: dict[str, str] = {}
        found = self._follow(self.after, (), reached, _DEEP)
        carriers = self._carriers(reached) if found and _R not in reached else []
        for site in self.sites:
            if site not in reached:
                self._look_inside(site, reached)
        how: dict[str, str] = {}
        refused = {
            site: f"what {path} returns is not as wide as the residual stream"
            for site, path in self.block.marks.items()
            if site not in self.sites and path in self.block.returned
        }
        certain: set[str] = set()
        for site in self.sites:
            path = self.block.marks[site]
            beside = [
                part
                for part in reached
                if part not in (_R, *self.sites) and is_like(self.block, part, site)
            ]
            if site in carriers or (site not in reached and self._holds_stream(site)):
                refused[site] = (
                    f"{path} returns the residual stream with its own part added, not that part"
                )
                certain |= {site} if carriers else set()
            elif beside:
                refused[site] = f"the block adds {', '.join(beside)} beside {path}"
                certain.add(site)
            elif site in reached:
                how[site] = reached[site]
            elif self._is_small(site):
                how[site] = "too small to be told from rounding"
            else:
                refused[site] = f"what {path} returns is not found in the residual stream"
        return BlockVerdict(self.block.layer, plain, how, refused, frozenset(certain))

    def _follow(
        self, target: np.ndarray, through: tuple[str, ...], reached: dict[str, str], deep: int
    ) -> bool:
        """Find the parts of a state of the stream, and go on with what norms were given."""
        found = self._sum(target, through)
        if found is None:
            return False
        alone = len(found.parts) == 1
        for part, factor in found.parts.items():
            if part in self.others and self._only_scales(part) and deep:
                for given in self._wide(self.block.taken.get(part, [])):
                    self._follow(given, (*through, part), reached, deep - 1)
            else:
                reached.setdefault(part, _told(part, factor, through, alone=alone))
        return True

    def _carriers(self, reached: Mapping[str, str]) -> list[str]:
        """Return the sites that bring what came into the block with them."""
        there = [site for site in self.sites if site in reached]
        return [site for site in there if self._holds_stream(site)] or there

    def _holds_stream(self, site: str) -> bool:
        """Say whether what came into the block is in a site's values, as it is."""
        values = self.sites[site]
        factor = float((values * self.before).sum() / max(float((self.before**2).sum()), 1e-30))
        return self._error(self.after, [values]) <= self.limit or 0.8 < factor < 1.25

    def _look_inside(self, site: str, reached: dict[str, str]) -> None:
        """Look for a site in what modules were given: the stream after attention, say."""
        for path, tensors in self.block.taken.items():
            for state in (
                self._wide(tensors) if path and path not in self.block.marks.values() else ()
            ):
                found = self._sum(state, ())
                if found and {_R, site} <= found.parts.keys():
                    reached[site] = _told(site, found.parts[site], (), alone=False)
                    return
                rest = self._fit(self.after, {path: state, site: self.sites[site]})
                if rest.error <= self.limit and {path, site} <= rest.parts.keys():
                    reached[site] = _told(site, rest.parts[site], (), alone=False)
                    return

    def _wide(self, tensors: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
        for tensor in tensors:
            if tensor.shape == self.block.returned[""].shape:
                yield _array(tensor)

    def _sum(self, target: np.ndarray, without: tuple[str, ...]) -> _FittedSum | None:
        named = {_R: self.before, **self.sites}
        found = self._fit(target, named)
        if found.error <= self.limit:
            return found
        parts = dict(named)
        for path, values in self.others.items():
            if path not in without and not any(np.array_equal(values, p) for p in parts.values()):
                parts[path] = values
        found = self._fit(target, parts)
        return found if found.error <= self.limit else None

    def _fit(self, target: np.ndarray, parts: Mapping[str, np.ndarray]) -> _FittedSum:
        """Fit factors by least squares, every token with the same weight."""
        size = np.maximum(
            *(np.linalg.norm(e, axis=1, keepdims=True) for e in (target, self.before))
        )
        weights = 1 / np.where(size > 0, size, 1)
        goal = (target * weights).ravel()
        names = list(parts)
        while 0 < len(names) < len(goal):
            columns = np.stack([(parts[name] * weights).ravel() for name in names], axis=1)
            scale = np.linalg.norm(columns, axis=0)
            scale[scale == 0] = 1
            # A tall system has the solution of the small one that R of its QR makes.
            small: Any = np.linalg.qr(np.column_stack([columns / scale, goal]), mode="r")
            solved = np.linalg.lstsq(small[:, :-1], small[:, -1], rcond=1e-10)[0]
            share = np.abs(solved) / max(float(np.linalg.norm(goal)), 1e-30)
            needed = [name for name, part in zip(names, share, strict=True) if part > self.limit]
            if len(needed) == len(names):
                factors = [_rounded(float(each), self.limit) for each in solved / scale]
                told = dict(zip(names, factors, strict=True))
                made = [parts[name] * told[name] for name in names]
                return _FittedSum(self._error(target, made), told)
            names = needed
        return _FittedSum(1.0, {})

    def _error(self, target: np.ndarray, made: Sequence[np.ndarray]) -> float:
        """Return how far a sum is off, relative to its largest part: that is what was rounded.

        A block may take away most of what came in (states of the first token, in last blocks).
        """
        apart = np.linalg.norm(target - sum(made[1:], made[0]), axis=1)
        size = np.max([np.linalg.norm(each, axis=1) for each in (target, *made)], axis=0)
        return float((apart / np.where(size > 0, size, 1)).max(initial=0.0))

    def _only_scales(self, path: str) -> bool:
        """Say whether a module mixes no dimensions: norms, gates and dropout have no matrix."""
        parameters = self.block.modules[path].parameters()
        return all(sum(length > 1 for length in each.shape) < 2 for each in parameters)

    def _is_small(self, site: str) -> bool:
        """Say whether a site, and what norms make of it, drowns in the stream's rounding."""
        size = np.linalg.norm(self.after, axis=1)
        path = self.block.marks[site]
        made = [
            self.others[other]
            for other, given in self.block.taken.items()
            if other in self.others
            and any(torch.equal(each, self.block.returned[path]) for each in given)
        ]
        limit = _SMALL * self.limit * size
        return all(
            bool((np.linalg.norm(each, axis=1) <= limit).all())
            for each in (made or [self.sites[site]])
        )


def is_like(block: SeenBlock, part: str, site: str) -> bool:
    """Say whether a module of a block is an MLP, or an attention, by what it is called."""
    name = f"{part} {_own_name(block.modules[part], block.kind)}"
    is_mlp = bool(_MLP.search(name)) and not _RECURRENT.search(name)
    return is_mlp if site == "mlp_out" else not is_mlp and bool(_ATTENTION.search(name))


def _own_name(module: nn.Module, block: str) -> str:
    """Return the class's name without the family's: Lfm2MoeShortConv is no mixture of experts."""
    words, family = _WORD.findall(type(module).__name__), _WORD.findall(block)
    while words and family and words[0] == family[0]:
        words, family = words[1:], family[1:]
    return "".join(words)


def _told(part: str, factor: float, through: tuple[str, ...], *, alone: bool) -> str:
    """Say in words how a part comes into the stream."""
    text = part if factor == 1 else f"{factor:g} * {part}"
    if not through:
        return text
    if not alone:
        return f"{text}, summed before {' and '.join(reversed(through))}"
    for name in reversed(through):
        text = f"{name}({text})"
    return text


def _rounded(factor: float, limit: float) -> float:
    shorter = (float(f"{factor:.{digits}g}") for digits in (1, 2, 3, 4))
    return next((each for each in shorter if abs(each - factor) <= limit * abs(factor)), factor)


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().double().cpu().numpy()
    return array
