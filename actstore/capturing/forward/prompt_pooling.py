"""Pools the states of a prompt while its forward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from actstore.capturing.forward.pooling import Pool
from actstore.errors import UsageError

_CHUNK = 1 << 22
"""Values that one step of a mean may copy: bounds the memory above the bare pass."""
_MOVED = 1 << 20
"""Picked values from which on they leave a GPU at once: all tokens of all layers would fill it."""


class PromptStates(NamedTuple):
    """What is kept of one hook's states of the prompt; on the model's device."""

    picked: torch.Tensor
    """``[picks, width]`` as the model computed them."""
    sums: torch.Tensor | None
    """Float32 ``[masks, B, width]``."""
    maxima: torch.Tensor | None
    """``[masks, B, width]`` as the model computed them."""


def off_device(states: torch.Tensor) -> torch.Tensor:
    """Start to copy states from a GPU; synchronize with it before reading them."""
    host = torch.empty_like(states, device="cpu", pin_memory=True)
    return host.copy_(states, non_blocking=True)


class _Indices(NamedTuple):
    examples: torch.Tensor
    columns: torch.Tensor
    sums: torch.Tensor
    maxima: torch.Tensor


_Runs = list[tuple[int, int]]


class PromptPart(NamedTuple):
    """What is wanted of one step's states, where prompts come in pieces."""

    sources: np.ndarray
    """Places of picked tokens in the step."""
    targets: np.ndarray
    """Where they go in ``PromptStates.picked``."""
    rows: list[int]
    """The examples that have a piece in it, each once."""
    sums: list[list[_Runs]]
    """By region, then by piece: the runs of tokens that a mean takes in, as places in the step."""
    maxima: list[list[_Runs]]


class PromptPlan:
    """Which states of a batch's prompts are wanted, worked out once for all hooks."""

    def __init__(
        self,
        regions: Mapping[str, torch.Tensor],
        excluded: torch.Tensor | None,
        pools: Sequence[Pool],
    ) -> None:
        """Take the masks ``[B, T]``; ``all`` (else their union) says which tokens are real.

        Raises:
            UsageError: a pool's region has no mask, or masks differ in shape.
        """
        masks: dict[str, np.ndarray] = {
            name: mask.detach().cpu().numpy() for name, mask in regions.items()
        }
        shapes = {mask.shape for mask in masks.values()}
        if len(shapes) != 1 or any(mask.dtype != np.bool_ for mask in masks.values()):
            kinds = ", ".join(f"{name} {m.dtype}{list(m.shape)}" for name, m in masks.items())
            raise UsageError(
                "the regions of a batch are boolean masks of one shape [B, T], got "
                f"{kinds or 'none'}"
            )
        (self.batch, self.width), *_ = shapes
        union: np.ndarray = np.logical_or.reduce(list(masks.values()))
        self.real = masks.get("all", union)
        self.masks: dict[str, np.ndarray] = {**masks, "all": self.real}
        self.excluded = (
            np.zeros_like(self.real) if excluded is None else excluded.detach().cpu().numpy()
        )
        self.positions = np.cumsum(self.real, axis=1) - 1
        self.lengths = self.real.sum(axis=1)
        self.sum_regions = self._regions_of(pools, "mean")
        self.max_regions = self._regions_of(pools, "max")
        wanted = [self._columns(pool) for pool in pools if pool.picks and pool.region in self.masks]
        flat = [examples * self.width + columns for examples, columns in wanted]
        self._flat = np.unique(np.concatenate(flat)) if flat else np.empty(0, np.int64)
        self._indices: dict[torch.device, _Indices] = {}
        self._runs: dict[str, list[list[tuple[int, int]]]] = {}
        self.left: set[torch.device] = set()
        """Devices that picked states leave by themselves, without waiting."""

    def _regions_of(self, pools: Sequence[Pool], word: str) -> list[str]:
        return sorted({pool.region for pool in pools if pool.pool == word} & set(self.masks))

    def averaged(self, region: str) -> np.ndarray:
        """Return the region's mask without what means and maxima leave out."""
        kept: np.ndarray = self.masks[region] & ~self.excluded
        return kept

    def select(self, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Return examples and columns of the tokens that a picking pool takes of the prompt."""
        mask = self.masks[pool.region]
        offset = pool.offset
        if offset is None:
            examples, columns = np.nonzero(mask)
            return examples, columns
        ranks = np.cumsum(mask, axis=1) - 1
        if offset < 0:
            ranks = ranks - mask.sum(axis=1, keepdims=True)
        examples, columns = np.nonzero(mask & (ranks == offset))
        return examples, columns

    def _columns(self, pool: Pool) -> tuple[np.ndarray, np.ndarray]:
        """Return what must be kept: the end of ``all`` moves on while a response is generated."""
        offset = pool.offset
        if pool.region != "all" or offset is None or offset >= 0:
            return self.select(pool)
        parts = [self.select(Pool("all", str(number))) for number in range(offset, 0)]
        examples, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
        return examples, columns

    def locate(self, examples: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return where in ``PromptStates.picked`` these tokens stand."""
        found: np.ndarray = np.searchsorted(self._flat, examples * self.width + columns)
        return found

    def take(self, states: torch.Tensor) -> PromptStates:
        """Pool one hook's states ``[B, T, width]``; nothing returned is a view of them."""
        indices = self._on(states.device)
        picked = states[indices.examples, indices.columns]
        if picked.is_cuda and picked.numel() >= _MOVED:
            self.left.add(picked.device)
            picked = off_device(picked)
        return PromptStates(
            picked,
            self._reduced(states, indices.sums, self.sum_regions, _SUM),
            self._reduced(states, indices.maxima, self.max_regions, _MAX),
        )

    def part(self, pieces: Sequence[tuple[int, int, int, int]]) -> PromptPart:
        """Return what is wanted of a step that holds only pieces of some prompts.

        ``pieces`` are (example, column of its first token, place of that token in the step,
        tokens), of each example at most one.
        """
        sources: list[np.ndarray] = [np.empty(0, np.int64)]
        targets: list[np.ndarray] = [np.empty(0, np.int64)]
        for example, column, at, count in pieces:
            first = example * self.width + column
            low, high = np.searchsorted(self._flat, (first, first + count))
            sources.append(self._flat[low:high] - first + at)
            targets.append(np.arange(low, high))

        def runs(regions: Sequence[str]) -> list[list[_Runs]]:
            found = []
            for region in regions:
                kept = self.averaged(region)
                found.append(
                    [
                        [(start + at, stop + at) for start, stop in _runs(kept[row, col : col + n])]
                        for row, col, at, n in pieces
                    ]
                )
            return found

        return PromptPart(
            np.concatenate(sources),
            np.concatenate(targets),
            [example for example, *_ in pieces],
            runs(self.sum_regions),
            runs(self.max_regions),
        )

    @property
    def picks(self) -> int:
        """How many single states are kept of each hook."""
        return len(self._flat)

    def _reduced(
        self, states: torch.Tensor, masks: torch.Tensor, regions: Sequence[str], kind: _Reduction
    ) -> torch.Tensor | None:
        if not regions:
            return None
        if states.device.type == "cpu":
            return torch.stack([kind.runs(states, self._runs_of(region)) for region in regions])
        return torch.stack([_masked(states, mask, kind) for mask in masks])

    def _runs_of(self, region: str) -> list[list[tuple[int, int]]]:
        """Return each example's pieces without a gap: on a CPU they are read where they lie."""
        if region not in self._runs:
            self._runs[region] = [_runs(row) for row in self.averaged(region)]
        return self._runs[region]

    def _on(self, device: torch.device) -> _Indices:
        if device not in self._indices:
            examples, columns = np.divmod(self._flat, max(self.width, 1))
            self._indices[device] = _Indices(
                torch.from_numpy(examples).to(device, non_blocking=True),
                torch.from_numpy(columns).to(device, non_blocking=True),
                *(
                    torch.from_numpy(
                        np.stack([self.averaged(name) for name in names])[..., None]
                        if names
                        else np.zeros((0, self.batch, self.width, 1), np.bool_)
                    ).to(device, non_blocking=True)
                    for names in (self.sum_regions, self.max_regions)
                ),
            )
        return self._indices[device]


class GrowingPrompt:
    """One hook's states of a batch's prompts, where these come in pieces, each token once."""

    def __init__(self, plan: PromptPlan, like: tuple[torch.device, torch.dtype, int]) -> None:
        device, dtype, width = like
        # All tokens of all layers would fill a GPU.
        home = torch.device("cpu") if plan.picks * width >= _MOVED else device
        self._picked = torch.zeros((plan.picks, width), dtype=dtype, device=home)
        shape = (plan.batch, width)
        self._sums = torch.zeros((len(plan.sum_regions), *shape), device=device)
        self._maxima = torch.full(
            (len(plan.max_regions), *shape), -torch.inf, dtype=dtype, device=device
        )

    def add(self, states: torch.Tensor, part: PromptPart) -> None:
        """Take in a step's states ``[tokens, width]``; nothing of them is kept but copies."""
        if len(part.sources):
            chosen = states[torch.from_numpy(part.sources).to(states.device)]
            self._picked[torch.from_numpy(part.targets)] = chosen.to(self._picked.device)
        rows = torch.tensor(part.rows, dtype=torch.int64, device=states.device)
        shared = states[None].expand(len(part.rows), -1, -1)
        for total, runs in zip(self._sums, part.sums, strict=True):
            total[rows] += _SUM.runs(shared, runs)
        for highest, runs in zip(self._maxima, part.maxima, strict=True):
            highest[rows] = torch.maximum(highest[rows], _MAX.runs(shared, runs))

    def states(self) -> PromptStates:
        """Return what was taken in."""
        return PromptStates(
            self._picked,
            self._sums if len(self._sums) else None,
            self._maxima if len(self._maxima) else None,
        )


def _runs(mask: np.ndarray) -> _Runs:
    """Return the pieces without a gap of a mask over tokens."""
    edges = np.diff(mask.astype(np.int8), prepend=0, append=0)
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _sum_runs(states: torch.Tensor, runs: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
    result = torch.zeros(len(runs), states.shape[-1], device=states.device)
    stride = max(1, _CHUNK // max(1, states.shape[-1]))
    for example, pieces in enumerate(runs):
        parts = (
            # Converted first: sums that convert as they go take four times as long.
            states[example, at : min(at + stride, stop)].float()
            for start, stop in pieces
            for at in range(start, stop, stride)
        )
        for number, part in enumerate(parts):
            if number:
                result[example] += part.sum(0)
            else:
                torch.sum(part, 0, out=result[example])
    return result


def _max_runs(states: torch.Tensor, runs: Sequence[Sequence[tuple[int, int]]]) -> torch.Tensor:
    result = states.new_full((len(runs), states.shape[-1]), -torch.inf)
    for example, pieces in enumerate(runs):
        for start, stop in pieces:
            highest = states[example, start:stop].amax(dim=0)
            torch.maximum(result[example], highest, out=result[example])
    return result


class _Reduction(NamedTuple):
    runs: Callable[[torch.Tensor, Sequence[Sequence[tuple[int, int]]]], torch.Tensor]
    fill: float
    """What pads count as."""
    part: Callable[[torch.Tensor], torch.Tensor]
    join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_SUM = _Reduction(_sum_runs, 0.0, lambda part: part.sum(dim=1, dtype=torch.float32), torch.add)
_MAX = _Reduction(_max_runs, -torch.inf, lambda part: part.amax(dim=1), torch.maximum)


def _masked(states: torch.Tensor, mask: torch.Tensor, kind: _Reduction) -> torch.Tensor:
    """Reduce in pieces with few kernels, as a GPU likes it."""
    batch, length, width = states.shape
    stride = max(1, _CHUNK // max(1, batch * width))
    result: torch.Tensor | None = None
    for start in range(0, length, stride):
        stop = start + stride
        # where(), not a product: a pad's state may be NaN
        part = kind.part(torch.where(mask[:, start:stop], states[:, start:stop], kind.fill))
        result = part if result is None else kind.join(result, part)
    return states.new_zeros(batch, width) if result is None else result
