"""`actstore steer`: steering vectors of each layer, and their effect on a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import output
from actstore.commands.cells import interval, layer_cell
from actstore.commands.opening import open_store, skip_damaged_option
from actstore.commands.options import (
    Number,
    at_option,
    bundle,
    format_options,
    output_option,
    readable_store_argument,
    seed_option,
)
from actstore.commands.row_options import (
    Classes,
    Places,
    class_options,
    group_option,
    place_options,
)
from actstore.errors import UsageError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.analysis.steering.steered_answers import SteeredAnswer
    from actstore.analysis.steering.vectors import SteeringVector, SteeringVectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """How a model is steered, to look at what it answers."""

    apply: bool
    prompts: tuple[str, ...]
    load: str | None
    apply_layer: int | None
    scale: float
    max_new_tokens: int
    chat_template: bool


application_options = bundle(
    "application",
    Application,
    click.option(
        "--apply",
        is_flag=True,
        help="Load the model and show its answers to --prompt before and after steering.",
    ),
    click.option(
        "--prompt", "prompts", multiple=True, metavar="TEXT", help="What to ask; may be repeated."
    ),
    click.option(
        "--load",
        metavar="ID|PATH",
        help="Where the model is loaded from; what the store calls it by default.",
    ),
    click.option(
        "--apply-layer",
        type=int,
        metavar="N",
        help="Layer to steer at; by default the one of the largest AUROC, if it is better than "
        "chance.",
    ),
    click.option(
        "--scale",
        type=Number(),
        default=1.0,
        show_default=True,
        help="Factor of the vector; 1 is the difference of the means, negative steers away.",
    ),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=1),
        default=40,
        show_default=True,
        help="Length of an answer.",
    ),
    click.option(
        "--chat-template/--no-chat-template",
        default=True,
        show_default=True,
        help="Put prompts into the tokenizer's chat template, where it has one.",
    ),
)


@click.command("steer")
@readable_store_argument
@place_options
@class_options
@group_option
@output_option(
    "Folder for vectors/, normalized_vectors/, steering.safetensors and steering.json.",
    folder=True,
)
@seed_option()
@application_options
@at_option()
@skip_damaged_option
@format_options
def command(
    store: str | Path,
    places: Places,
    classes: Classes,
    group_by: str | None,
    target: Path | None,
    seed: int,
    application: Application,
    at: int | None,
    as_json: bool,
) -> None:
    """Make a steering vector of each layer of STORE: mean of A minus mean of B.

    Separation (Cohen's d) and AUROC are those of the projection of examples that the vector
    was not made of, p is the share of runs with shuffled labels whose best layer has at least
    this AUROC; norms and the cosine with the next layer's vector stand beside them. --apply
    takes the layer of the largest AUROC, says so, and refuses one that is no better than
    chance (p above 0.05), unless --apply-layer, or a single one of --layers, names it.

    \b
    Examples:
      actstore steer runs.store --positive deploy --negative test --out steering
      actstore steer runs.store --positive deploy --layers 12 --apply --scale 4 \\
                     --prompt "Is this a test?"
    """
    from actstore.analysis.examples import lineages
    from actstore.analysis.steering import layer_choice, vector_files, vectors

    apply, prompts, scale = application.apply, application.prompts, application.scale
    if target is None and not apply:
        raise click.UsageError("say where the vectors go with --out DIR, or --apply them")
    if apply and not prompts:
        raise click.UsageError("--apply needs at least one --prompt")
    with open_store(store, at) as opened:
        made = vectors.steer(
            opened,
            **classes.sides,
            label=classes.label,
            choice=places.choice(),
            group_by=group_by,
            seed=seed,
        )
    if target is not None:
        vector_files.save(made, target)
    chosen = None
    if apply:
        named = application.apply_layer
        if named is None and places.layers and len(places.layers) == 1:
            (named,) = places.layers
        chosen = layer_choice.choose(made.vectors, named)
    vector = chosen.vector if chosen else None
    answers = _apply(vector, application) if vector else []
    known = [vector is not None and lineages.asked(vector.made_of, text) for text in prompts]
    if as_json:
        document: Any = vector_files.summary(made)
        if chosen:
            document = {
                "vectors": document,
                "layer": chosen.vector.place.layer,
                "named": chosen.named,
                "layers": chosen.layers,
                "why": chosen.why,
                "scale": scale,
                "answers": [
                    {
                        "prompt": one.prompt,
                        "in_sample": own,
                        "before": one.before,
                        "after": one.after,
                    }
                    for one, own in zip(answers, known, strict=True)
                ],
            }
        output.print_json(document)
        return
    _show(made)
    for note in made.notes:
        output.note(f"note: {note}")
    turned = classes.turned(made.classes.names)
    if turned:
        output.note(turned)
    if target is not None:
        output.note(f"{counted(len(made.vectors), 'vector')} written to {target}")
    if chosen:
        output.say(f"\nsteered at layer {chosen.vector.place.layer} with scale {scale:g}")
        output.say(f"why: {chosen.why}")
        for one, own in zip(answers, known, strict=True):
            marked = "  (IN-SAMPLE: a question that the vector was made of)" if own else ""
            output.say(f"\nprompt  {one.prompt}{marked}")
            output.say(f"before  {one.before}\nafter   {one.after}")


def _show(made: SteeringVectors) -> None:
    first, second = made.classes.names
    place = made.vectors[0].place
    output.say(f"{first} - {second} at {place.site} ({place.pooling}), model {place.model}")
    output.print_table(
        (
            "layer",
            first,
            second,
            "norm",
            "mean norm",
            "separation",
            "auroc",
            "interval",
            "p",
            "cos next",
        ),
        [
            (
                layer_cell(one.place.layer),
                *one.rows,
                round(one.norm, 4),
                round(one.mean_norm, 4),
                None if one.separation is None else round(one.separation, 3),
                None if one.auroc is None else round(one.auroc.value, 3),
                None if one.auroc is None else interval(one.auroc.low, one.auroc.high),
                None if one.p_family is None else round(one.p_family, 3),
                None if one.cosine_next is None else round(one.cosine_next, 3),
            )
            for one in made.vectors
        ],
    )


def _apply(chosen: SteeringVector, asked: Application) -> list[SteeredAnswer]:
    from actstore.analysis.steering import steered_answers
    from actstore.models import loading

    if chosen.place.layer is None or chosen.place.layer < 0:
        raise UsageError("a vector is added at a block, and this one's layer has no number")
    loaded = loading.load(asked.load or chosen.place.model, generate=True)
    return steered_answers.before_and_after(
        loaded,
        asked.prompts,
        chosen.vector,
        chosen.place.layer,
        asked.scale,
        site=chosen.place.site,
        max_new_tokens=asked.max_new_tokens,
        chat_template=asked.chat_template,
    )
