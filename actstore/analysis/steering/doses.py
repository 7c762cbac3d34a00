"""The dose curve of a steering vector: how far each strength moves what a model says next.

What moves is the log-probability of a token (or how much likelier it is than another) as the
first word of the answer, prompt by prompt against the same prompt without steering. Random
directions of the same norm are tried beside it: any push moves a model somewhere, and a vector
says something only where it moves it further, or elsewhere, than these do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from actstore.analysis.statistics.means import mean_interval
from actstore.analysis.steering.intervention import steering
from actstore.analysis.steering.steered_answers import inputs_of
from actstore.errors import UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    import polars as pl
    import torch

    from actstore.models.loading import LoadedModel

Measure = Literal["log-probability", "probability"]
DOSES = (-4.0, -2.0, 0.0, 2.0, 4.0)
RANDOM = 4
"""Random directions beside the vector."""
FEWEST = 2
"""Of them, below which they say nothing on how much directions differ."""
VECTOR = "vector"
_TOGETHER = 16
"""Prompts of one length that are run together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DosePoint:
    """What one strength of one direction does."""

    direction: str
    """``vector``, or ``random 1``, ``random 2``, …"""
    dose: float
    """Factor of the direction."""
    change: float
    """Mean over the prompts of what the measure is more than without steering."""
    low: float
    high: float
    """95 % interval of that mean over prompts (over groups of them, where they have any)."""
    value: float
    """Mean of the measure itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseCurve:
    """What a vector does at each strength, and what random directions of its norm do."""

    model: str
    layer: int
    site: str
    target: str
    against: str | None
    measure: Measure
    norm: float
    """Of the vector, and of each random direction."""
    prompts: int
    groups: int
    points: tuple[DosePoint, ...]

    def __repr__(self) -> str:
        return (
            f"DoseCurve({self.model!r}, layer {self.layer}, {self.measured}, "
            f"{counted(self.prompts, 'prompt')}, {counted(len(self.random), 'random direction')})"
        )

    @property
    def measured(self) -> str:
        """What is measured, as an axis has it."""
        sign = "log P" if self.measure == "log-probability" else "P"
        own = f"{sign}({self.target!r})"
        return own if self.against is None else f"{own} - {sign}({self.against!r})"

    @property
    def vector(self) -> tuple[DosePoint, ...]:
        """The points of the vector, from the lowest dose to the highest."""
        return self.of(VECTOR)

    @property
    def random(self) -> tuple[str, ...]:
        """The names of the random directions."""
        names = dict.fromkeys(point.direction for point in self.points)
        return tuple(name for name in names if name != VECTOR)

    def of(self, direction: str) -> tuple[DosePoint, ...]:
        """Return the points of one direction."""
        return tuple(point for point in self.points if point.direction == direction)

    def beyond(self, dose: float) -> int:
        """Return how many random directions move the mean at least as far, whichever way."""
        (own,) = (point for point in self.vector if point.dose == dose)
        others = (p for p in self.points if p.direction != VECTOR and p.dose == dose)
        return sum(abs(point.change) >= abs(own.change) for point in others)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary per direction and dose."""
        return [asdict(point) for point in self.points]

    def to_polars(self) -> pl.DataFrame:
        """Return one row per direction and dose."""
        import polars as pl

        return pl.DataFrame(self.to_dicts())


def measure(
    loaded: LoadedModel,
    vector: np.ndarray,
    layer: int,
    prompts: Sequence[str],
    *,
    target: str,
    against: str | None = None,
    doses: Sequence[float] = DOSES,
    random: int = RANDOM,
    site: str = "resid_post",
    groups: Sequence[str] | None = None,
    measure: Measure = "log-probability",
    chat_template: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DoseCurve:
    """Return how far each strength of a vector moves the first token of the answer.

    Args:
        loaded: the model with its tokenizer.
        vector: ``[width]``; of strength 1.
        layer: 0-based number of the block.
        prompts: what is asked, each for itself.
        target: a token.
        against: another one: how much likelier ``target`` is than it.
        doses: factors of the vector; what is measured without any (0) is always among them.
        random: directions of the same norm, drawn evenly, that are tried at the same doses.
        site: where in the block it is added.
        groups: what each prompt belongs to, such as the city that two statements are on: the
            interval counts these. By default each prompt is for itself.
        measure: ``log-probability``, in nats, or ``probability``.
        chat_template: use the tokenizer's template where it has one.
        seed: of the random directions.
        progress: called with how many passes of how many are done.

    Raises:
        MismatchError: the model's states have another width.
        UsageError: no prompt, a dose that is not finite, fewer than two random directions, a
            vector without a direction, or ``target`` is not one token.
    """
    import torch

    from actstore.models import tokens

    direction = np.asarray(vector, np.float32).reshape(-1)
    norm = float(np.linalg.norm(direction.astype(np.float64)))
    _check(prompts, doses, random, groups, measure, norm)
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    wanted = tokens.id_of(tokenizer, target)
    other = None if against is None else tokens.id_of(tokenizer, against)
    batches = list(_batches(tokenizer, prompts, chat_template))
    directions = {VECTOR: direction, **_drawn(len(direction), norm, random, seed)}
    strengths = sorted({0.0, *map(float, doses)})
    total = 1 + len(directions) * (len(strengths) - 1)

    def values(added: np.ndarray, dose: float) -> np.ndarray:
        found = np.empty(len(prompts))
        with torch.inference_mode(), steering(loaded.model, added, layer, dose, site=site):
            for places, ids in batches:
                scores = _scores(_last_logits(loaded.model, ids), wanted, other, measure)
                found[places] = scores.cpu().numpy()
        return found

    plain, done = values(direction, 0.0), 1
    belongs = np.unique(np.array(groups if groups else range(len(prompts))), return_inverse=True)[1]
    points = []
    for name, added in directions.items():
        for dose in strengths:
            moved = plain
            if dose:
                moved, done = values(added, dose), done + 1
                if progress is not None:
                    progress(done, total)
            change = mean_interval(moved - plain, belongs)
            points.append(
                DosePoint(
                    direction=name,
                    dose=dose,
                    change=change.value,
                    low=change.low,
                    high=change.high,
                    value=float(moved.mean()),
                )
            )
    return DoseCurve(
        model=loaded.name,
        layer=layer,
        site=site,
        target=target,
        against=against,
        measure=measure,
        norm=norm,
        prompts=len(prompts),
        groups=int(belongs.max()) + 1,
        points=tuple(points),
    )


def _check(
    prompts: Sequence[str],
    doses: Sequence[float],
    random: int,
    groups: Sequence[str] | None,
    measure: str,
    norm: float,
) -> None:
    if len(prompts) < 2:
        raise UsageError(
            f"{counted(len(prompts), 'prompt')}: two are needed at least, for an interval over them"
        )
    if groups is not None and len(groups) != len(prompts):
        raise UsageError(f"{len(groups)} groups are named for {counted(len(prompts), 'prompt')}")
    if groups is not None and len(set(groups)) < 2:
        raise UsageError("all prompts belong to one group: two are needed at least")
    if not any(doses) or not all(map(math.isfinite, doses)):
        raise UsageError(f"doses {list(doses)}: finite numbers are needed, and one beside 0")
    if random < FEWEST:
        raise UsageError(f"random={random}: at least {FEWEST} random directions are needed")
    if measure not in get_args(Measure):
        raise UsageError(f"measure {measure!r}: use one of {', '.join(get_args(Measure))}")
    if not (math.isfinite(norm) and norm > 0):
        raise UsageError("the vector has no direction: it is zero or not finite")


def _drawn(width: int, norm: float, count: int, seed: int) -> dict[str, np.ndarray]:
    """Return random directions of a norm, by name."""
    draw = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        drawn = draw.standard_normal(width)
        found[f"random {number + 1}"] = (drawn * (norm / np.linalg.norm(drawn))).astype(np.float32)
    return found


def _batches(
    tokenizer: Any, prompts: Sequence[str], chat_template: bool
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield numbers of prompts with their ids ``[B, T]``: of one length, so that nothing is padded.

    Padding would be steered too, and recurrent models read it.
    """
    import torch

    ids = [inputs_of(tokenizer, prompt, chat_template)["input_ids"][0] for prompt in prompts]
    lengths: dict[int, list[int]] = {}
    for number, each in enumerate(ids):
        if not len(each):
            raise UsageError(f"prompt {number + 1} has no token: a prompt needs a text")
        lengths.setdefault(len(each), []).append(number)
    for numbers in lengths.values():
        for start in range(0, len(numbers), _TOGETHER):
            part = numbers[start : start + _TOGETHER]
            yield part, torch.stack([ids[number] for number in part])


def _last_logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of the token after each prompt, float32 ``[B, vocabulary]``."""
    import inspect

    import torch

    ids = ids.to(model.device)
    more = (
        {"logits_to_keep": 1}
        if "logits_to_keep" in inspect.signature(model.forward).parameters
        else {}
    )
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more)
    last: torch.Tensor = found.logits[:, -1].float()
    return last


def _scores(logits: torch.Tensor, wanted: int, other: int | None, measure: Measure) -> torch.Tensor:
    logs = logits.log_softmax(dim=-1)
    found = logs if measure == "log-probability" else logs.exp()
    return found[:, wanted] if other is None else found[:, wanted] - found[:, other]
