"""Logit lens: what the model would say at each layer, as a table of tokens and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore.analysis import lens as reading_of
from actstore.analysis.lens import EXAMPLE, TOP, LensReading, LensState
from actstore.analysis.plots import looks, matrix
from actstore.analysis.plots.looks import Picture, Style
from actstore.analysis.statistics import group_by
from actstore.errors import MixedVectorsError, NotInStoreError, TooFewRowsError
from actstore.querying import mixture
from actstore.wording import counted, pooling_text

if TYPE_CHECKING:
    from actstore.models.loading import LoadedModel
    from actstore.querying.selected import SelectedRows

COLUMNS = 16
"""Examples or positions at most, where nothing is said."""
_LINES = 40
_LETTERS = 9
"""Of a token, what a cell has room for."""
_NAMES = {"embeddings": "embed", "final_norm": "norm", "resid_pre": "{} in", "resid_mid": "{} mid"}


class Chosen(NamedTuple):
    """The rows of a picture."""

    selection: SelectedRows
    note: str


class _Cell(NamedTuple):
    text: str
    share: float
    """What its colour stands for."""
    told: str


def lens(
    selection: SelectedRows,
    model: LoadedModel | str | Path | None = None,
    *,
    target: str | None = None,
    top: int = TOP,
    examples: Sequence[str] = (),
    columns: int = COLUMNS,
    device: str | None = None,
    title: str | None = None,
    style: Style = "screen",
) -> Picture:
    """Return what the model would say next at each layer, through its own final norm and head.

    Of tokens, a column is a position of one example; of one token per example, a column is an
    example, and of a single one its likeliest tokens. Colours are probabilities: of the token in
    the cell, or of ``target``.

    Args:
        selection: states of the residual stream of one model, each of one token.
        model: that model, or where it is loaded from; by default what the store calls it.
        target: a token whose probability is shown.
        top: how many tokens are shown of a single example.
        examples: ids of those to show; by default the first.
        columns: examples or positions at most; of more positions, the last.
        device: where the model is loaded to.
        title: above the picture; by default which rows these are.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        MismatchError: it is another model than the rows were captured from.
        NotInStoreError: there is no such example.
        TooFewRowsError: there are no rows.
        UsageError: rows that the head cannot read; ``target`` is not one token.
    """
    chosen = choose(selection, examples, columns)
    found = reading_of.read(chosen.selection, model, target=target, top=top, device=device)
    return lens_of(found, chosen, title=title, style=style)


def choose(selection: SelectedRows, examples: Sequence[str] = (), columns: int = COLUMNS) -> Chosen:
    """Return the rows that a picture has room for.

    Args:
        selection: as for :func:`lens`.
        examples: ids of examples.
        columns: examples at most; of tokens, positions of one example.
    """
    reading_of.check_rows(selection)
    for name, values in mixture.differing(selection, ("pooling", "region")).items():
        raise MixedVectorsError(
            f"the rows have {len(values)} {name}s ({mixture.listing(values)}), and one picture "
            "shows one: choose with --pool, such as --pool prompt.last or --pool prompt.tokens",
            {name: values},
        )
    groups = group_by.group(selection, EXAMPLE)
    # In the order of the store, not of their names.
    groups.sort(key=lambda group: int(group.places[0]))
    if examples:
        known = {group.key["example_id"] for group in groups}
        if missing := [each for each in examples if each not in known]:
            raise NotInStoreError(
                f"no such example among these rows: {', '.join(missing)}; `actstore select STORE "
                "--columns example_id` lists them"
            )
        groups = [group for group in groups if group.key["example_id"] in examples]
    of_tokens = selection.values_of("pooling") == {"none"}
    kept = groups[: 1 if of_tokens else columns]
    note = f"example {kept[0].key['example_id']}" if len(kept) == 1 else f"{len(kept)} examples"
    if len(kept) < len(groups):
        note += f" of {len(groups):,}"
    part = selection.take(np.sort(np.concatenate([group.places for group in kept])))
    if of_tokens:
        at = part.table(["position"])["position"].fill_null(-1).to_numpy()
        positions = np.unique(at)
        if len(positions) > columns:
            part = part.take(np.flatnonzero(at >= positions[-columns]))
            note += f", the last {columns} of {counted(len(positions), 'position')}"
    return Chosen(part, note)


def lens_of(
    found: LensReading, chosen: Chosen, *, title: str | None = None, style: Style = "screen"
) -> Picture:
    """Return the picture of a reading.

    Args:
        found: what :func:`actstore.analysis.lens.read` returned.
        chosen: the rows that it was read of.
        title: above the picture.
        style: ``screen``, ``paper`` or ``dark``.

    Raises:
        TooFewRowsError: no state is finite.
    """
    if not len(found):
        raise TooFewRowsError("no state is finite, so there is nothing to read")
    (pool,) = group_by.group(chosen.selection[:1], ["pooling", "region"])
    pooling = pooling_text(pool.key["pooling"], pool.key["region"])
    depths = sorted({(state.depth, state.site, state.layer) for state in found.states})
    kept = [depths[at] for at in looks.thinned(len(depths), _LINES)]
    lines = {depth: number for number, (depth, _, _) in enumerate(kept)}
    states = [state for state in found.states if state.depth in lines]
    names = [_NAMES.get(site, "{}").format(layer) for _, site, layer in kept]
    columns, across, cells = _table(states, lines, found.target)
    note = f"{chosen.note}; colour: probability of " + (
        "the token" if found.target is None else repr(found.target)
    )
    if len(kept) < len(depths):
        note += f"; {len(kept)} of {len(depths)} layers"
    if found.left_out:
        note += f"; blank: {counted(found.left_out, 'state')} not finite"
    with looks.styled(style) as look:
        width = 1.9 + max(0.66, 3.4 / len(columns)) * len(columns)
        figure = looks.picture(look, max(5.0, width), max(2.8, 1.7 + 0.23 * len(names)))
        _draw(figure, names, columns, cells, across)
        model = found.model.rsplit("/", 1)[-1]
        heading = f"Logit lens · {looks.plain(model, 32)} · {pooling}"
        return looks.finish(figure, heading, note, title)


_Cells = dict[tuple[int, int], _Cell]


def _table(
    states: Sequence[LensState], lines: dict[tuple[float, int], int], target: str | None
) -> tuple[list[str], str, _Cells]:
    """Return the columns' names, what they are, and the cells by line and column."""
    of_tokens = any(state.position is not None for state in states)
    keys = list(dict.fromkeys(_column(state, of_tokens) for state in states))
    if len(keys) == 1 and len(states) <= len(lines):
        return _ranked(states, lines, target)
    if of_tokens:
        keys.sort()
    numbers = {key: number for number, key in enumerate(keys)}
    names = [""] * len(keys) if of_tokens else _names([example for _, example in keys])
    cells: _Cells = {}
    for state in states:
        at = numbers[_column(state, of_tokens)]
        if of_tokens:
            names[at] = str(state.position) if state.token is None else _shown(state.token)
        share = state.probabilities[0] if target is None else state.target_probability
        cells[lines[state.depth], at] = _Cell(_shown(state.top[0]), share or 0.0, _told(state))
    return names, "token" if of_tokens else "example", cells


def _ranked(
    states: Sequence[LensState], lines: dict[tuple[float, int], int], target: str | None
) -> tuple[list[str], str, _Cells]:
    """Return the likeliest tokens of a single example, and the wanted one with its rank."""
    cells: _Cells = {}
    count = max(len(state.top) for state in states)
    for state in states:
        line, told = lines[state.depth], _told(state)
        for rank, (token, share) in enumerate(zip(state.top, state.probabilities, strict=True)):
            cells[line, rank] = _Cell(_shown(token), share, told)
        if state.target_probability is not None:
            text = f"rank {state.target_rank:,}"
            cells[line, count] = _Cell(text, state.target_probability, told)
    names = [str(rank + 1) for rank in range(count)]
    return names + ([_shown(target)] if target is not None else []), "likeliest tokens", cells


def _column(state: LensState, of_tokens: bool) -> tuple[int, tuple[str | int | None, ...]]:
    return (state.position or 0, ()) if of_tokens else (0, state.example)


def _names(examples: Sequence[tuple[str | int | None, ...]]) -> list[str]:
    """Return what examples are called: their id, and what else tells some of them apart."""
    told = [
        at
        for at, name in enumerate(EXAMPLE)
        if name == "example_id" or len({example[at] for example in examples}) > 1
    ]
    return [" ".join(str(each[at]) for at in told if each[at] is not None) for each in examples]


def _draw(
    figure: Picture, names: Sequence[str], columns: Sequence[str], cells: _Cells, across: str
) -> None:
    from matplotlib.colors import Normalize

    shares = np.full((len(names), len(columns)), np.nan)
    for at, cell in cells.items():
        shares[at] = cell.share
    axes = figure.add_subplot()
    axes.grid(visible=False)
    norm = Normalize(0, max(0.01, float(np.nanmax(shares))))
    image = axes.imshow(
        shares, cmap=figure.look.sequential, norm=norm, interpolation="nearest", aspect="auto"
    )
    figure.colorbar(image, ax=axes, label="probability", aspect=40, pad=0.02)
    for (line, column), cell in cells.items():
        axes.text(
            column,
            line,
            looks.plain(cell.text),
            ha="center",
            va="center",
            fontsize=figure.look.size - 1.5,
            color=matrix.ink(image.cmap, float(norm(cell.share))),
        )
    gid = "lens"
    # What a finger or a mouse meets: a mark on each cell that nobody sees.
    axes.plot(
        [column for _, column in cells],
        [line for line, _ in cells],
        linewidth=0,
        marker="s",
        markersize=14 * figure.look.scale,
        alpha=0,
        zorder=9,
        gid=gid,
    )
    figure.hover(gid, [cell.told for cell in cells.values()])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylabel("layer")
    turned = any(len(name) > 6 for name in columns)
    axes.set_xticks(
        range(len(columns)),
        looks.plain_names(columns, 18),
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_xlabel(across)


def _shown(token: str) -> str:
    """Return a token as a cell has it: on one line, short, seen where it is blank."""
    text = token.replace("\n", "↵").replace("\t", "⇥").strip(" ") or "␣" * max(1, len(token))
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _told(state: LensState) -> str:
    """Return all that is known of a state, for those who point at it."""
    told = [
        f"{token!r} {share:.1%}"
        for token, share in zip(state.top, state.probabilities, strict=True)
    ]
    if state.target_probability is not None:
        told.append(f"target {state.target_probability:.2%}, rank {state.target_rank:,}")
    of = f"{state.site}, layer {state.layer}" if state.layer is not None else state.site
    at = "" if state.position is None else f", position {state.position} {state.token!r}"
    return f"{of}, {state.example_id}{at}: {', '.join(told)}"
