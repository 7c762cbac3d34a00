"""Which site and layer each entry of transformers' ``hidden_states`` is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from actstore.errors import LayoutError, UsageError
from actstore.ingestion.tensor import is_array

_SOME = 6
_OWN_NAMES = (
    "where a family reports its states otherwise, say what each is: {('resid_post', 0): array, ...}"
)


_AFTER_BLOCKS = ("Mamba", "FalconMamba", "Rwkv")
"""How the names of outputs begin whose first entry leaves block 0, not enters it."""
_SUSPECT = re.compile("mamba|rwkv", re.IGNORECASE)


class StateEntry(NamedTuple):
    """One entry of ``hidden_states``."""

    name: str
    site: str
    layer: int | None
    value: Any
    """An array, or of a generation a list with the array of each step."""


class HiddenStates(NamedTuple):
    """What a tuple of hidden states, or the output that it stands in, holds."""

    entries: tuple[StateEntry, ...]
    skipped: tuple[str, ...]
    """What else the output holds."""
    last_block: int | None
    """The layer whose own output is not among them; None where all are."""
    token_ids: list[list[int]] | None
    """Of a generation: the ids of the tokens that have states, padding included."""
    generated: bool
    anonymous: bool
    """Whether nothing says which family they are of, so that it is the rule that is followed."""


def hidden_states(activations: Any) -> HiddenStates | None:
    """Return the hidden states of an output of transformers; None where it is something else.

    Entry 0 is what enters block 0, entry i leaves block i - 1. The last one has been through
    the final norm: it is ``final_norm``, and never the last block's ``resid_post``. Entries
    that ``output_hidden_states`` did not select are None, and left out. Outputs of Mamba and
    RWKV have no entry for what enters block 0: there entry i leaves block i.

    Args:
        activations: a model's output (``ModelOutput``, or a mapping with such a tuple under
            ``hidden_states``), the tuple itself, or the tuple of tuples of ``generate``.

    Raises:
        UsageError: the output holds no hidden states, or those of beams; the tuple is none.
        LayoutError: the entries, or the steps of a generation, do not fit together.
    """
    if isinstance(activations, tuple) and not hasattr(type(activations), "_fields"):
        output: Mapping[Any, Any] = {"hidden_states": activations}
    elif _is_output(activations):
        output = activations
    else:
        return None
    _refuse_others(activations, output)
    states = output["hidden_states"]
    generated = isinstance(states[0], tuple) if states else False
    values = _of_generation(states) if generated else _of_pass(states)
    _check_last(values[-1], output.get("last_hidden_state"))
    last = len(values) - 1
    shift = 0 if type(activations).__name__.startswith(_AFTER_BLOCKS) else 1
    entries = [
        StateEntry(f"hidden_states[{number}]", *_place(number, last, shift), value)
        for number, value in enumerate(values)
        if value is not None
    ]
    others = [str(name) for name, value in output.items() if value is not None]
    return HiddenStates(
        entries=tuple(entries),
        skipped=tuple(name for name in others if name != "hidden_states"),
        last_block=last - 1 if shift else None,
        token_ids=_ids(output.get("sequences"), values) if generated else None,
        generated=generated,
        anonymous=generated or not _is_of_transformers(activations),
    )


def _is_output(activations: Any) -> bool:
    if not isinstance(activations, Mapping):
        return False
    return _is_of_transformers(activations) or isinstance(activations.get("hidden_states"), tuple)


def _is_of_transformers(activations: Any) -> bool:
    return any(
        kind.__name__ == "ModelOutput" and kind.__module__.startswith("transformers")
        for kind in type(activations).__mro__
    )


def _refuse_others(activations: Any, output: Mapping[Any, Any]) -> None:
    kind = type(activations).__name__
    if hasattr(type(activations), "beam_indices"):
        raise UsageError(
            f"{kind} holds the states of beams, whose rows change places from step to step: "
            "generate with num_beams=1, or run the model once over the finished sequences"
        )
    states = output.get("hidden_states")
    if states is not None and not isinstance(states, tuple):
        raise UsageError(
            f"hidden_states of {kind} is of type {type(states).__name__}, not a tuple of states"
        )
    if states is None:
        both = [f"{side}_hidden_states" for side in ("encoder", "decoder")]
        if any(output.get(name) is not None for name in both):
            raise UsageError(
                f"{kind} holds {' and '.join(both)}, and which are meant is not known: give one "
                "of the two tuples itself, under a model or dataset name of its own"
            )
        raise UsageError(
            f"{kind} holds no hidden states: call the model with output_hidden_states=True"
        )


def _of_pass(states: Sequence[Any]) -> list[Any]:
    values = list(states)
    odd = [value for value in values if value is not None and not is_array(value)]
    if odd or len(values) < 2 or all(value is None for value in values):
        found = ", ".join(type(value).__name__ for value in values[:_SOME]) or "nothing"
        raise UsageError(
            f"a tuple is understood as hidden_states of transformers, one array for the embeddings "
            f"and one for each block, and this one holds {found}: give out.hidden_states, or "
            "{(site, layer): array}"
        )
    shapes = list(dict.fromkeys(tuple(value.shape) for value in values if value is not None))
    if len(shapes) > 1:
        raise LayoutError(
            "the entries of hidden_states are of several shapes, "
            f"{', '.join(str(list(shape)) for shape in shapes[:_SOME])}, so they are no states of "
            f"one pass; {_OWN_NAMES}"
        )
    return values


def _of_generation(steps: Sequence[Any]) -> list[Any]:
    """Return the entries of a generation, each the list of its steps."""
    passes = [_of_pass(step) if isinstance(step, tuple) else [] for step in steps]
    if len({len(each) for each in passes}) > 1:
        raise LayoutError(
            "the steps of the generation hold different numbers of hidden states: "
            f"{', '.join(str(len(each)) for each in passes[:_SOME])}"
        )
    for number, each in enumerate(passes[1:], 1):
        tokens = next(value.shape[1] for value in each if value is not None)
        if tokens != 1:
            raise LayoutError(
                f"step {number} of the generation holds states of {tokens} tokens, expected 1: "
                "without a cache each step repeats the tokens before it; generate with "
                "use_cache=True, or run the model once over the finished sequences"
            )
    return [None if values[0] is None else list(values) for values in zip(*passes, strict=True)]


def _check_last(value: Any, reported: Any) -> None:
    """Refuse a last entry that is not what the model calls its last hidden state."""
    if value is None or reported is None or value is reported:
        return
    same = value.shape == reported.shape and bool(
        ((value == reported) | (value != value)).all()  # NaN is equal to itself here
    )
    if not same:
        raise UsageError(
            "the last of hidden_states is not last_hidden_state, so it has not been through the "
            f"final norm as in nearly all families; {_OWN_NAMES}"
        )


def _place(number: int, last: int, shift: int) -> tuple[str, int | None]:
    if number == last:
        return "final_norm", None
    layer = number - shift
    return ("embeddings", -1) if layer < 0 else ("resid_post", layer)


def _ids(sequences: Any, values: Sequence[Any]) -> list[list[int]] | None:
    """Return the ids of the tokens that have states: all but the last one of each sequence."""
    steps = next(value for value in values if value is not None)
    rows, tokens = steps[0].shape[0], sum(step.shape[1] for step in steps)
    if not is_array(sequences) or tuple(sequences.shape) != (rows, tokens + 1):
        return None  # the prompt was given as embeddings
    found: list[list[int]] = sequences[:, :-1].tolist()
    return found


def check_family(states: HiddenStates, model: str) -> None:
    """Refuse states that follow another rule, as far as the model's name tells.

    Raises:
        UsageError: the model is a Mamba or RWKV by its name, and the states do not say so.
    """
    if states.anonymous and _SUSPECT.search(model):
        raise UsageError(
            f"hidden_states of {model} may begin after block 0, as those of Mamba and RWKV do, and "
            "a tuple does not tell: give the model's output as it is, or say what each is: "
            "{('resid_post', 0): array, ...}"
        )


def state_notes(states: HiddenStates, taken: Sequence[str], *, masked: bool) -> list[str]:
    """Return what the user should know of hidden states that were stored.

    Args:
        states: what the output holds.
        taken: names of the entries that were stored.
        masked: whether the caller said which tokens are padding.
    """
    found = []
    norm = states.entries[-1]
    if norm.site == "final_norm" and norm.name in taken:
        left = (
            ""
            if states.last_block is None
            else f", and the output of block {states.last_block} itself is not among hidden_states"
        )
        found.append(
            f"{norm.name}, the last one, is stored as final_norm: in nearly all families it has "
            f"been through the final norm{left}; {_OWN_NAMES}"
        )
    first = states.entries[0].value
    rows = len(first[0]) if states.generated else len(first)
    if states.generated and rows > 1 and not masked:
        found.append(
            "no mask was given: padding around prompts and after the end of a response counts as "
            "text; give mask=, 0 for padding, over prompt and response without its last token"
        )
    return found
