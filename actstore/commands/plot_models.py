"""What `actstore plot` asks a model: a reading of stored states, or what doses of a vector do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from actstore.commands import output
from actstore.commands.cells import interval
from actstore.commands.plot_options import ModelShown, one_layer
from actstore.commands.progress import counting
from actstore.commands.row_options import Rows
from actstore.errors import NotInStoreError, TooFewRowsError, UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actstore.analysis.plots.looks import Picture, Style
    from actstore.analysis.steering.doses import DoseCurve
    from actstore.analysis.steering.vector_files import LoadedVector
    from actstore.api.store import Store

_PROMPTS = 64
"""Prompts of a dose curve at most, where nothing is said."""
_OF_VECTORS = ("layer", "site", "pooling", "region")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A picture that a model draws, and the numbers in it."""

    figure: Picture
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    curve: DoseCurve | None = None


def lens(
    opened: Store, rows: Rows, shown: ModelShown, most: int | None, title: str | None, style: Style
) -> Asked:
    """Read stored states with the model's own head."""
    from actstore.analysis import lens as readings
    from actstore.analysis import plots

    rows, place = _own_model(opened, rows, shown.load)
    chosen = plots.choose_states(rows.select(opened), shown.examples, most or plots.LENS_COLUMNS)
    found = readings.read(
        chosen.selection,
        place,
        target=shown.token,
        top=shown.top or readings.TOP,
        device=shown.device,
    )
    figure = plots.lens_of(found, chosen, title=title, style=style)
    return Asked(figure=figure, rows=found.to_dicts())


def dose(
    opened: Store,
    rows: Rows,
    shown: ModelShown,
    most: int | None,
    title: str | None,
    style: Style,
) -> Asked:
    """Measure what doses of a steering vector do."""
    from actstore.analysis import plots
    from actstore.analysis.steering import doses, vector_files
    from actstore.models import loading

    layer = one_layer(rows.equals.get("layer"))
    assert shown.vectors is not None
    assert shown.token is not None
    vector = vector_files.one(shown.vectors, layer)
    if vector.layer is None or vector.layer < 0:
        raise UsageError(
            f"{vector.path}: a vector is added at a block, and its layer has no number"
        )
    equals = {name: value for name, value in rows.equals.items() if name not in _OF_VECTORS}
    rows, place = _own_model(opened, replace(rows, equals=cast("Any", equals)), shown.load)
    prompts, groups, notes = _prompts(opened, rows, shown, vector, most or _PROMPTS)
    loaded = loading.load(place or _model_of(opened, vector), device=shown.device)
    with counting("steering") as count:
        curve = doses.measure(
            loaded,
            vector.vector,
            vector.layer,
            prompts,
            target=shown.token,
            against=shown.against,
            doses=shown.doses if shown.doses is not None else doses.DOSES,
            random=shown.random or doses.RANDOM,
            site=vector.place.site if vector.place else "resid_post",
            groups=groups,
            measure=shown.measure or "log-probability",
            chat_template=shown.chat_template is not False,
            progress=lambda done, total: count(done, total, "", done, "passes"),
        )
    figure = plots.dose(curve, title=title, style=style)
    return Asked(figure=figure, rows=curve.to_dicts(), notes=notes, curve=curve)


def show(curve: DoseCurve) -> None:
    """Print a dose curve as a table."""
    output.say(f"change of {curve.measured} by strength, layer {curve.layer}, 95 % intervals")
    others = {
        dose: [point.change for point in curve.points if point.dose == dose][1:]
        for dose in (point.dose for point in curve.vector)
    }
    output.print_table(
        ("strength", "change", "interval", "random directions", "value"),
        [
            (
                f"{point.dose:g}",
                f"{point.change:+.3f}",
                interval(point.low, point.high),
                f"{min(others[point.dose]):+.3f} to {max(others[point.dose]):+.3f}",
                f"{point.value:.3f}",
            )
            for point in curve.vector
        ],
    )


def _own_model(opened: Store, rows: Rows, load: str | None) -> tuple[Rows, str | None]:
    """Return the rows of the model that was named, and where it is loaded from.

    `--model` may be its folder too: the store knows models of folders by their last name.
    """
    named = cast("Sequence[str]", rows.equals.get("model") or ())
    if load is None and len(named) == 1 and named[0] not in opened.models:
        last = Path(named[0]).name
        known = [name for name in opened.models if name.rsplit("/", 1)[-1] == last]
        if not known:
            raise NotInStoreError(
                f"the store has no rows of {named[0]}, only of {', '.join(opened.models)}; where "
                "the model is loaded from is --load"
            )
        equals = {**rows.equals, "model": known}
        return replace(rows, equals=cast("Any", equals)), named[0]
    return rows, load


def _model_of(opened: Store, vector: LoadedVector) -> str:
    if vector.place is not None:
        return vector.place.model
    if len(opened.models) == 1:
        return opened.models[0]
    raise UsageError(
        f"{vector.path} does not say which model it is for, and the store has several: name one "
        "with --load"
    )


def _prompts(
    opened: Store, rows: Rows, shown: ModelShown, vector: LoadedVector, most: int
) -> tuple[list[str], list[str] | None, tuple[str, ...]]:
    """Return what is asked, what each belongs to, and what is to be said of the choice."""
    if shown.prompts:
        pairs = [(text, str(number)) for number, text in enumerate(shown.prompts)]
    elif shown.data is not None:
        from actstore.capturing.prompts.data import open_questions

        examples = open_questions(shown.data)
        pairs = [(one.question, one.id) for one in examples if one.question]
    else:
        table = rows.select(opened).table(["question", "example_id"]).to_pylist()
        pairs = [(row["question"], row["example_id"]) for row in table if row["question"]]
    pairs = list(dict.fromkeys(pairs))
    if not pairs:
        raise TooFewRowsError(
            "there is no question to ask: give some with --prompt or --data, or loosen the "
            "condition"
        )
    pairs, notes = _held_out(pairs, vector, shown.in_sample)
    if len(pairs) > most:
        step = len(pairs) / most
        notes.append(f"{most:,} of {len(pairs):,} prompts, evenly chosen (--rows)")
        pairs = [pairs[int(number * step)] for number in range(most)]
    groups = [group for _, group in pairs]
    return [text for text, _ in pairs], groups, tuple(notes)


def _held_out(
    pairs: list[tuple[str, str]], vector: LoadedVector, in_sample: bool
) -> tuple[list[tuple[str, str]], list[str]]:
    from actstore.analysis.examples import lineages

    if vector.made_of is None:
        return pairs, ["nobody knows which rows the vector was made of: prompts may be among them"]
    made_of = vector.made_of
    kept = [pair for pair in pairs if not lineages.asked(made_of, pair[0])]
    own = len(pairs) - len(kept)
    if in_sample:
        return pairs, [f"IN-SAMPLE: the vector was made of {own} of these prompts"] if own else []
    if not kept:
        raise TooFewRowsError(
            f"the vector was made of all {counted(own, 'prompt')}: ask others with --prompt or "
            "--data, or keep them with --in-sample"
        )
    return kept, [f"{counted(own, 'prompt')} left out: the vector was made of them"] if own else []
