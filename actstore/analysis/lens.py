"""The logit lens: what a model would say next if it stopped at a stored state.

Each state goes through the model's own final norm and head (nostalgebraist, *interpreting GPT: the
logit lens*, 2020). Of the last block that is the model's own answer; of the blocks before it, the
answer so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.errors import MismatchError, MixedVectorsError, TooFewRowsError, UsageError
from actstore.querying import mixture
from actstore.wording import counted

if TYPE_CHECKING:
    import polars as pl

    from actstore.models.head import After
    from actstore.models.loading import LoadedModel
    from actstore.querying.selected import SelectedRows
    from actstore.storage.manifest import Run

SITES = ("embeddings", "resid_pre", "resid_mid", "resid_post", "final_norm")
"""Where a state of the residual stream is taken, in the order in which it passes."""
POOLINGS = ("last", "first", "none")
"""Poolings that leave a token's state as it is."""
EXAMPLE = ("dataset", "split", "example_id", "example_index", "mode", "variant")
"""Columns that together name an example."""
TOP = 5
_ROWS = 4096
"""States that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LensState:
    """What the model would say at one stored state."""

    layer: int | None
    """As stored: -1 for the embeddings, None behind the final norm."""
    site: str
    dataset: str | None
    split: str | None
    example_id: str
    example_index: int | None
    mode: str | None
    variant: str | None
    position: int | None
    token: str | None
    """The token that the state is of; None where the store does not say."""
    top: tuple[str, ...]
    """The likeliest next tokens, the likeliest first."""
    probabilities: tuple[float, ...]
    """Theirs."""
    target_probability: float | None
    """Of the token that was asked for; None where none was."""
    target_rank: int | None
    """1 where it is the likeliest."""

    @property
    def example(self) -> tuple[str | int | None, ...]:
        """What tells its example from all others; the columns are :data:`EXAMPLE`."""
        return tuple(getattr(self, name) for name in EXAMPLE)

    @property
    def depth(self) -> tuple[float, int]:
        """How far into the model it is, to order by."""
        return depth_of(self.site, self.layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class LensReading:
    """What the model would say at each of some stored states, from the first layer to the last."""

    model: str
    target: str | None
    states: tuple[LensState, ...]
    left_out: int
    """States that are not finite, of which nothing can be said."""

    def __repr__(self) -> str:
        more = "" if self.target is None else f", target {self.target!r}"
        return f"LensReading({self.model!r}, {counted(len(self.states), 'state')}{more})"

    def __len__(self) -> int:
        return len(self.states)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary per state."""
        return [asdict(state) for state in self.states]

    def to_polars(self) -> pl.DataFrame:
        """Return one row per state; ``top`` and ``probabilities`` are lists."""
        import polars as pl

        types: dict[str, Any] = {
            "layer": pl.Int32,
            "site": pl.String,
            **dict.fromkeys(EXAMPLE, pl.String),
            "example_index": pl.Int64,
            "position": pl.Int32,
            "token": pl.String,
            "top": pl.List(pl.String),
            "probabilities": pl.List(pl.Float64),
            "target_probability": pl.Float64,
            "target_rank": pl.Int64,
        }
        rows = [{**each, "top": list(each["top"])} for each in self.to_dicts()]
        return pl.DataFrame(rows, schema=types)


def depth_of(site: str, layer: int | None) -> tuple[float, int]:
    """Return how far into a model a site of a layer is, to order by."""
    return (np.inf if layer is None else layer), SITES.index(site)


def read(
    selection: SelectedRows,
    model: LoadedModel | str | Path | None = None,
    *,
    target: str | None = None,
    top: int = TOP,
    device: str | None = None,
) -> LensReading:
    """Return what a model would say at each state of a selection.

    Args:
        selection: states of one model, each of a single token: of the residual stream
            (``resid_post``, ``resid_pre``, ``resid_mid``, ``embeddings``) or ``final_norm``.
        model: the model that they are of, or where it is loaded from: by default what the store
            calls it. It is loaded as it was for the capture.
        target: a token whose probability and rank are told for each state.
        top: how many of the likeliest tokens are told.
        device: where it is loaded to; by default the accelerator if there is one.

    Raises:
        MismatchError: it is another model than the rows were captured from.
        MixedVectorsError: rows of several models.
        TooFewRowsError: there are no rows.
        UsageError: rows that are no states of the residual stream, or means of several tokens;
            ``target`` is not one token.
        ModelError: the model cannot be loaded, or has no head.
    """
    if top < 1:
        raise UsageError(f"top={top}: at least one token has to be told")
    name = check_rows(selection)
    loaded = _loaded(selection, model, name, device)
    check_model(selection, loaded, name)
    from actstore.models import tokens

    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    wanted = None if target is None else tokens.id_of(tokenizer, target)
    columns = selection.table(["layer", "site", *EXAMPLE, "position", "token_id"]).to_pylist()
    found: list[LensState] = []
    left_out = 0
    words: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in words:
            words[token] = tokens.text_of(tokenizer, token)
        return words[token]

    of_norm = np.array([row["site"] == "final_norm" for row in columns], np.bool_)
    kinds: tuple[tuple[After, np.ndarray], ...] = (("block", ~of_norm), ("final_norm", of_norm))
    for after, places in kinds:
        for part in _parts(np.flatnonzero(places)):
            # Layers go together: the head is the same for all, and a pass costs what it costs.
            states = selection.take(part).numpy(mixed=True).astype(np.float32)
            finite = np.isfinite(states).all(axis=1)
            left_out += int((~finite).sum())
            said = _said(loaded.model, states[finite], after, wanted, top, _token(tokenizer))
            for place, (ids, probabilities, own, rank) in zip(
                part[finite].tolist(), said, strict=True
            ):
                row = columns[place]
                known = row.pop("token_id")
                found.append(
                    LensState(
                        **row,
                        token=None if known is None else word(known),
                        top=tuple(map(word, ids)),
                        probabilities=tuple(probabilities),
                        target_probability=own,
                        target_rank=rank,
                    )
                )
    found.sort(key=lambda state: state.depth)
    return LensReading(model=name, target=target, states=tuple(found), left_out=left_out)


def _parts(places: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(places), _ROWS):
        yield places[start : start + _ROWS]


_Said = tuple[list[int], list[float], float | None, int | None]


def _said(
    model: Any,
    states: np.ndarray,
    after: After,
    wanted: int | None,
    top: int,
    token: int,
) -> Iterable[_Said]:
    """Yield the likeliest tokens of each state, and probability and rank of the wanted one."""
    import torch

    from actstore.models import head

    if not len(states):
        return
    for logits in head.logits(model, torch.from_numpy(states), after=after, token=token):
        probabilities = logits.softmax(dim=-1)
        values, ids = probabilities.topk(min(top, logits.shape[-1]))
        own: list[float] | list[None] = [None] * len(logits)
        ranks: list[int] | list[None] = [None] * len(logits)
        if wanted is not None:
            own = probabilities[:, wanted].tolist()
            ranks = (1 + (logits > logits[:, wanted, None]).sum(dim=-1)).tolist()
        yield from zip(ids.tolist(), values.tolist(), own, ranks, strict=True)


def _token(tokenizer: Any) -> int:
    """Return a token that any text may hold: not one that stands for an image."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def check_rows(selection: SelectedRows) -> str:
    """Return the one model that the rows are of.

    Raises:
        MixedVectorsError, TooFewRowsError, UsageError: as :func:`read`.
    """
    if not len(selection):
        raise TooFewRowsError("there are no rows to read: loosen the condition")
    models = mixture.differing(selection, ("model",)).get("model", ())
    if models:
        raise MixedVectorsError(
            f"the rows are of {len(models)} models ({mixture.listing(models)}), and one model "
            "reads its own: choose with --model, or select(model=…)",
            {"model": models},
        )
    sites = {shard.site for shard in selection.shards}
    if other := sorted(sites - set(SITES)):
        raise UsageError(
            f"the head reads the residual stream ({', '.join(SITES)}), not {', '.join(other)}: "
            "choose with --sites, or select(site=…)"
        )
    poolings = {str(value) for value in selection.values_of("pooling")}
    if other := sorted(poolings - set(POOLINGS)):
        raise UsageError(
            f"the head reads the state of one token, and these rows are pooled by "
            f"{', '.join(other)}: choose last, first or tokens with --pool, or capture them with "
            "--pool prompt.last"
        )
    return str(selection.shards[0].model)


def check_model(selection: SelectedRows, loaded: LoadedModel, name: str) -> None:
    """Make sure that a model is the one that rows were captured from.

    Its weights are known again by the hash that a capture records. Where none is recorded, as for
    ingested files, it must have the store's name for it.

    Raises:
        MismatchError: it is another.
    """
    from actstore.models.identity import weights_digest

    recorded = {_digest(run) for run in _runs(selection)} or {None}
    own = weights_digest(loaded.model) if recorded != {None} else None
    for digest in recorded:
        if digest is not None and own is not None:
            if digest != own:
                raise MismatchError(
                    f"{loaded.name} is not the model that these rows were captured from: a hash of "
                    f"its weights is {own[:8]}, and {digest[:8]} was recorded for {name}; give the "
                    "model itself, in the type that it was captured in"
                )
        elif _last(loaded.name) != _last(name):
            raise MismatchError(
                f"the rows are of {name}, and nothing that is recorded says whether "
                f"{loaded.name} is that model; if it is, load it from a folder of that name, or "
                f"name the rows after it: actstore rename STORE --set \"model = '{loaded.name}'\""
            )


def _loaded(
    selection: SelectedRows, model: LoadedModel | str | Path | None, name: str, device: str | None
) -> LoadedModel:
    """Return the model, loaded as it was for the capture if it is not loaded yet."""
    from actstore.models.loading import LoadedModel, load

    if isinstance(model, LoadedModel):
        return model
    run = next((run for run in reversed(_runs(selection)) if "loading" in run.settings), None)
    then: Mapping[str, Any] = {} if run is None else run.settings["loading"] or {}
    place = name if model is None else str(model)
    same = run is not None and place == run.settings.get("model")
    return load(
        place,
        revision=run.settings.get("revision") if run is not None and same else None,
        dtype=then.get("dtype") or "auto",
        layers_needed=then.get("layers_loaded"),
        device=device,
    )


def _runs(selection: SelectedRows) -> Sequence[Run]:
    named = set(selection.values_of("run_id"))
    return [run for run in selection.snapshot.manifest.runs if run.run_id in named]


def _digest(run: Run) -> str | None:
    values = run.settings.get("values") or run.settings
    digest = values.get("weights_sha256")
    return None if digest is None else str(digest)


def _last(name: str) -> str:
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
