"""The options of `actstore plot` for pictures that a model draws: lens and dose curve."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands.options import bundle
from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.analysis.steering.doses import Measure

LENS, DOSE = "lens", "dose"
_KINDS = {
    "load": (LENS, DOSE),
    "device": (LENS, DOSE),
    "token": (LENS, DOSE),
    "against": (DOSE,),
    "examples": (LENS,),
    "top": (LENS,),
    "vectors": (DOSE,),
    "doses": (DOSE,),
    "measure": (DOSE,),
    "random": (DOSE,),
    "prompts": (DOSE,),
    "data": (DOSE,),
    "in_sample": (DOSE,),
    "chat_template": (DOSE,),
}
"""Which kinds an option is for."""
_WORDS = {"token": "target", "examples": "example", "prompts": "prompt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShown:
    """What a model is asked for a picture; None and () where nothing was said."""

    load: str | None
    device: str | None
    token: str | None
    against: str | None
    examples: tuple[str, ...]
    top: int | None
    vectors: Path | None
    doses: tuple[float, ...] | None
    measure: Measure | None
    random: int | None
    prompts: tuple[str, ...]
    data: str | None
    in_sample: bool
    chat_template: bool | None

    def check(self, kind: str) -> None:
        """Refuse options that are for other kinds, and a dose curve that lacks something.

        Raises:
            UsageError: names the option.
        """
        for field in fields(self):
            kinds = _KINDS[field.name]
            if getattr(self, field.name) not in (None, (), False) and kind not in kinds:
                word = _WORDS.get(field.name, field.name).replace("_", "-")
                raise click.UsageError(f"--{word} is for --kind {', '.join(kinds)}")
        if kind == DOSE:
            if self.vectors is None:
                raise click.UsageError(
                    "--kind dose needs a steering vector: --vectors DIR, which `actstore steer "
                    "STORE --out DIR` writes"
                )
            if self.token is None:
                raise click.UsageError(
                    '--kind dose needs the token whose probability is measured: --target " Yes"'
                )
            if self.prompts and self.data:
                raise click.UsageError("give --prompt or --data, not both")


def _numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    try:
        numbers = tuple(float(word) for word in text.split(",") if word.strip())
        if not all(map(math.isfinite, numbers)):
            raise ValueError
        return numbers
    except ValueError:
        raise click.BadParameter(
            f"{text!r} are no numbers: give them as --doses=-4,-2,2,4"
        ) from None


model_options = bundle(
    "shown",
    ModelShown,
    click.option(
        "--load",
        metavar="ID|PATH",
        help="lens, dose: where the model is loaded from; what the store calls it by default.",
    ),
    click.option(
        "--device", metavar="NAME", help="lens, dose: cpu, cuda …; by default the accelerator."
    ),
    click.option(
        "--target",
        "token",
        metavar="TOKEN",
        help='lens, dose: a token whose probability is shown, such as " Paris".',
    ),
    click.option(
        "--example",
        "examples",
        multiple=True,
        metavar="ID",
        help="lens: only this example; may be repeated.",
    ),
    click.option(
        "--top",
        type=click.IntRange(min=1),
        metavar="K",
        help="lens: how many of the likeliest tokens are told.  [default: 5]",
    ),
    click.option(
        "--vectors",
        type=click.Path(path_type=Path, exists=True),
        metavar="DIR|FILE",
        help="dose: what `actstore steer --out DIR` wrote, or one layer_L.pt file.",
    ),
    click.option(
        "--against",
        metavar="TOKEN",
        help="dose: measure how much likelier the target is than this token.",
    ),
    click.option(
        "--doses",
        callback=_numbers,
        metavar="A,B,…",
        help="dose: strengths of the vector.  [default: -4,-2,0,2,4]",
    ),
    click.option(
        "--measure",
        type=click.Choice(("log-probability", "probability")),
        help="dose: what is measured, in nats or as it is.  [default: log-probability]",
    ),
    click.option(
        "--random",
        type=click.IntRange(min=2),
        metavar="N",
        help="dose: random directions of the same norm beside it.  [default: 4]",
    ),
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        metavar="TEXT",
        help="dose: what to ask, instead of the questions in STORE; may be repeated.",
    ),
    click.option(
        "--data",
        metavar="FILE",
        help="dose: a file of questions, as for `actstore capture`. Questions of one id count as "
        "one group.",
    ),
    click.option(
        "--in-sample",
        is_flag=True,
        help="dose: ask questions too that the vector was made of.",
    ),
    click.option(
        "--chat-template/--no-chat-template",
        default=None,
        help="dose: put prompts into the tokenizer's chat template, where it has one.",
    ),
)


def one_layer(layers: object) -> int | None:
    """Return the layer that was named for a dose curve; None where none was.

    Raises:
        UsageError: several were.
    """
    found = list(layers) if isinstance(layers, list | tuple) else []
    if len(found) > 1:
        raise UsageError("a dose curve is of one layer: name one with --layers")
    return found[0] if found else None
