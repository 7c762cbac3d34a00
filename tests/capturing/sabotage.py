"""Ways to break capture on purpose, each of which the self-check claims to notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from actstore.capturing.forward import assembly, hooks
from actstore.capturing.forward import engine as engines
from actstore.capturing.forward.engine import Engine
from actstore.capturing.forward.patterns import Patterns
from actstore.capturing.forward.prompt_pooling import PromptPlan
from actstore.errors import ModelError
from actstore.models.blocks import Anatomy, HookPoint, points

Break = Callable[[pytest.MonkeyPatch, Engine], None]
_STATE = hooks._state
_ASSEMBLE = assembly.assemble
_SELECT = PromptPlan.select
_TAKE = PromptPlan.take
_ROWS = Patterns.rows
KEYS = 64
"""Of attention patterns, where they are captured."""


def _kept(change: Callable[[dict[Any, dict[Any, np.ndarray]], Engine], None]) -> Break:
    """Change vectors after they were pooled."""

    def apply(patch: pytest.MonkeyPatch, engine: Engine) -> None:
        def assemble(**parts: Any) -> Any:
            pooled = _ASSEMBLE(**parts)
            change(pooled.vectors, engine)
            return pooled

        patch.setattr(hooks, "assemble", assemble)

    return apply


def _layer_below(vectors: dict[Any, dict[Any, np.ndarray]], engine: Engine, site: str) -> None:
    before = dict(vectors)
    layers = sorted(layer for name, layer in before if name == site)
    for below, layer in itertools.pairwise(layers):
        vectors[site, layer] = before[site, below]


def layer_below(site: str) -> Break:
    """Let every layer of a site have the vectors of the one below."""
    return _kept(lambda vectors, engine: _layer_below(vectors, engine, site))


def _normed(vectors: dict[Any, dict[Any, np.ndarray]], engine: Engine, last: bool) -> None:
    norm: Any = engine.anatomy.final_norm
    for (site, layer), kept in vectors.items():
        if site == "resid_post" and (layer == len(engine.anatomy.blocks) - 1) is last:
            for pool, values in kept.items():
                with torch.no_grad():
                    kept[pool] = norm(torch.from_numpy(values)).numpy()


def normed(*, last: bool) -> Break:
    """Put the residual stream through the final norm: of the last block, or of the others."""
    return _kept(lambda vectors, engine: _normed(vectors, engine, last))


def _twice(vectors: dict[Any, dict[Any, np.ndarray]], site: str) -> None:
    for (name, layer), kept in vectors.items():
        if name == site:
            for pool, values in kept.items():
                kept[pool] = values + vectors["resid_pre", layer][pool]


def residual_twice(site: str) -> Break:
    """Add what entered the block once more."""
    return _kept(lambda vectors, engine: _twice(vectors, site))


def _state(change: Callable[[Any], Any]) -> Break:
    """Take something else for a module's states."""

    def apply(patch: pytest.MonkeyPatch, engine: Engine) -> None:
        patch.setattr(hooks, "_state", change)

    return apply


def _other_element(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value[0]  # as scripts do that were written when blocks returned tuples
    found = [each for each in value if isinstance(each, torch.Tensor)]
    return found[-1] if len(found) > 1 else _STATE(value)


def _row_zero(value: Any) -> Any:
    states = _STATE(value)
    return states if states is None else states[:1].expand_as(states)


def _regions(change: Callable[[torch.Tensor], torch.Tensor]) -> Break:
    """Look for tokens where a changed mask says."""

    def apply(patch: pytest.MonkeyPatch, engine: Engine) -> None:
        begin = hooks.Tap.begin

        def begun(self: Any, regions: Any, *args: Any, **named: Any) -> None:
            begin(self, {name: change(mask) for name, mask in regions.items()}, *args, **named)

        patch.setattr(hooks.Tap, "begin", begun)

    return apply


def _without(mask: torch.Tensor, step: int) -> torch.Tensor:
    """Leave every row's second token out (from either end): rows of one or two stay."""
    place = mask.flip(1).cumsum(1).flip(1) if step < 0 else mask.cumsum(1)
    return mask & ~((place == 2) & (mask.sum(1, keepdim=True) > 2))


def _last_column(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    def select(self: Any, pool: Any) -> Any:
        examples, columns = _SELECT(self, pool)
        return examples, np.full_like(columns, self.width - 1) if pool.offset == -1 else columns

    patch.setattr(PromptPlan, "select", select)


def _off_by_one_token(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    def take(self: Any, states: torch.Tensor) -> Any:
        return _TAKE(self, states.roll(1, dims=1))

    patch.setattr(PromptPlan, "take", take)


def _no_mask(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    plain = Engine.inputs

    def inputs(self: Engine, batch: Any) -> dict[str, Any]:
        found = plain(self, batch)
        found["attention_mask"] = torch.ones_like(found["attention_mask"])
        return found

    patch.setattr(engines.Engine, "inputs", inputs)


def _wrong_module(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    found = {(point.site, point.layer): point for point in engine.points}
    moved = []
    for point in engine.points:
        below = found.get((point.site, (point.layer or 0) - 1))
        moved.append(point._replace(module=below.module) if below is not None else point)
    patch.setattr(engine, "points", tuple(moved))


def _wrong_side(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    other: Any = {"input": "output", "output": "input"}
    turned = [point._replace(take=other[point.take]) for point in engine.points]
    patch.setattr(engine, "points", tuple(turned))


def _drop_step(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    count = hooks.Tap._count

    def counted(self: Any, *args: Any) -> None:
        count(self, *args)
        self._alive = self._alive.clone()
        self._alive[0] = False
        self._history[-1] = self._averaged[-1] = self._alive

    patch.setattr(hooks.Tap, "_count", counted)


def _late_step(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Keep of every step what the step before computed."""
    keep = hooks.Tap._keep
    before: dict[int, torch.Tensor] = {}

    def kept(self: Any, number: int, found: torch.Tensor) -> None:
        previous = before.get(number)
        before[number] = found
        fits = previous is not None and previous.shape == found.shape
        keep(self, number, previous if self._step > 0 and fits else found)

    patch.setattr(hooks.Tap, "_keep", kept)


def _rows_of_steps(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    def state(value: Any) -> Any:
        states = _STATE(value)
        if states is None or states.ndim != 3 or states.shape[1] != 1:
            return states
        return states[:1].expand_as(states)

    patch.setattr(hooks, "_state", state)


def _patterns(change: Callable[[torch.Tensor, int], torch.Tensor]) -> Break:
    """Change rows of patterns, ``[B, T, heads, keys]``; the second argument is the width T."""

    def apply(patch: pytest.MonkeyPatch, engine: Engine) -> None:
        def rows(self: Any, point: HookPoint, output: Any) -> torch.Tensor:
            assert point.shape is not None
            found = _ROWS(self, point, output)
            by_head = found.reshape(*found.shape[:2], *point.shape)
            return change(by_head, self.plan.width).flatten(2)

        patch.setattr(Patterns, "rows", rows)

    return apply


def _keys_with_pads(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    def placed(self: Any, keys: int, device: Any) -> Any:
        columns = torch.arange(keys).clamp(max=self.plan.width - 1)
        return columns[None, None, None], (torch.arange(keys) < self.plan.width)[None, None, None]

    patch.setattr(Patterns, "_placed", placed)


def _other_matrix(patch: pytest.MonkeyPatch, engine: Engine) -> None:
    """Take another matrix inside attention for the one that its heads leave by."""
    moved = []
    for point in engine.points:
        holder = point.path.rpartition(".")[0]
        name, module = next(iter(engine.anatomy.model.get_submodule(holder).named_children()))
        moved.append(point._replace(path=f"{holder}.{name}", module=module))
    patch.setattr(engine, "points", tuple(moved))


HEADS: dict[str, Break] = {"another matrix of attention": _other_matrix}
"""Of the outputs of heads."""
PATTERN: dict[str, Break] = {
    "the layer below": layer_below("attn_pattern"),
    "hooks on the block below": _wrong_module,
    "the token before": _off_by_one_token,
    "pads among the keys": _keys_with_pads,
    "one head for all": _patterns(lambda rows, width: rows[:, :, :1].expand_as(rows)),
    "heads and keys changed round": _patterns(
        lambda rows, width: rows.transpose(2, 3).reshape(rows.shape)
    ),
    "the mean of the heads": _patterns(
        lambda rows, width: rows.mean(2, keepdim=True).expand_as(rows)
    ),
    "row 0 for all rows": _patterns(lambda rows, width: rows[:1].expand_as(rows)),
    "keys for queries": _patterns(
        lambda rows, width: torch.cat(
            [rows[..., :width].transpose(1, 3), torch.zeros_like(rows[..., width:])], dim=3
        )
    ),
    "zeros": _patterns(lambda rows, width: torch.zeros_like(rows)),
}
"""Of attention patterns, of prompts that are padded on the left."""
PROMPT: dict[str, Break] = {
    **{
        f"the layer below at {site}": layer_below(site)
        for site in ("resid_post", "resid_pre", "attn_out", "head_out", "mlp_in", "mlp_out")
    },
    "hooks on the block below": _wrong_module,
    "the other side of the module": _wrong_side,
    "the final norm at the last block": normed(last=True),
    "the final norm at other blocks": normed(last=False),
    **{
        f"the residual twice at {site}": residual_twice(site)
        for site in ("resid_post", "attn_out", "mlp_out")
    },
    "another element of the tuple": _state(_other_element),
    "row 0 for all rows": _state(_row_zero),
    "the token before": _off_by_one_token,
    "masks of the other padding side": _regions(lambda mask: mask.flip(1)),
    "pads taken for tokens": _regions(torch.ones_like),
    "a token dropped at the start": _regions(lambda mask: _without(mask, 1)),
    "a token dropped at the end": _regions(lambda mask: _without(mask, -1)),
    "zeros": _state(lambda value: torch.zeros_like(_STATE(value))),  # type: ignore[arg-type]
}
"""Of a bare pass over prompts that are padded on the right."""
RIGHT: dict[str, Break] = {"the last column for the last token": _last_column}
"""Of nothing but the last tokens of prompts that are padded on the right."""
LEFT: dict[str, Break] = {"a mask that is not passed on": _no_mask}
"""Of prompts that are padded on the left."""
RESPONSE: dict[str, Break] = {
    "a row that is over too early": _drop_step,
    "the step before": _late_step,
    "row 0 for all rows of a step": _rows_of_steps,
}
"""Of generation."""


def points_of(anatomy: Anatomy, names: Sequence[str]) -> list[HookPoint]:
    """Return the places of ``names`` that there are: blocks of a hybrid differ."""
    found: dict[tuple[str, int | None], HookPoint] = {}
    for name in names:
        for layer in range(len(anatomy.blocks)):
            try:
                there = points(anatomy, [name], [layer], pattern_length=KEYS)
                found |= {(p.site, p.layer): p for p in there}
            except ModelError:
                continue
    return list(found.values())
