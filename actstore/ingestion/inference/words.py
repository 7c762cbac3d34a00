"""What names in paths and keys usually mean: layers, examples, labels, pooling, or nothing."""

from __future__ import annotations

import re
from functools import cache
from typing import Final, NamedTuple

from actstore import schema

_LAYER: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?i:layers?|blocks?|resblocks?|blk|lyr)[._\- ]?|[hH][._]|[Ll][._\-]?)"
    r"(?P<number>\d+)(?![A-Za-z0-9])"
)
_EXAMPLE: Final = re.compile(
    r"(?<![A-Za-z0-9])(?i:prompts?|examples?|ex|samples?|items?|questions?|q|idx|id|docs?|texts?|"
    r"batch(?:es)?|seq|sequences?|rows?|pairs?|data)[._\-]?(?P<number>\d+)(?![A-Za-z0-9])"
)
_OTHER_TENSORS: Final = re.compile(
    r"(?:.*[._/])?(?:weights?|bias|w_[a-z]+|b_[a-z]+|running_(?:mean|var)|exp_avg(?:_sq)?|"
    r"hook_(?:pattern|attn_scores|scale|q|k|v|z|rot_q|rot_k|result|pos_embed)|"
    r"attentions?(?:[._]\d+)*|attn_(?:weights|probs|pattern|scores)|"
    r"past_key_values(?:[._]\d+)*|key_cache(?:[._]\d+)*|value_cache(?:[._]\d+)*|"
    r"logits?|logprobs?|log_probs?|loss(?:es)?|grads?)",
    re.IGNORECASE,
)

PLAIN: Final = frozenset(
    [
        "activation",
        "activations",
        "acts",
        "act",
        "hidden",
        "hiddens",
        "hidden_state",
        "hidden_states",
        "vector",
        "vectors",
        "vec",
        "vecs",
        "embedding",
        "embeddings",
        "value",
        "values",
        "tensor",
        "tensors",
        "state",
        "states",
        "data",
        "x",
        "cache",
        "caches",
        "output",
        "outputs",
        "out",
        "result",
        "results",
        "layer",
        "layers",
        "block",
        "blocks",
        "features_by_layer",
        "representations",
        "representation",
        "reps",
        "rep",
        "arr_0",
        "last_hidden_state",
    ]
)
"""Names that say nothing about the place in the model."""

HIDDEN_STATES: Final = frozenset({"hidden_states", "all_hidden_states", "decoder_hidden_states"})

CLASSES: Final = frozenset(
    [
        "pos",
        "neg",
        "positive",
        "negative",
        "true",
        "false",
        "correct",
        "incorrect",
        "right",
        "wrong",
        "harmful",
        "harmless",
        "honest",
        "dishonest",
        "truthful",
        "untruthful",
        "faithful",
        "unfaithful",
        "test",
        "deploy",
        "safe",
        "unsafe",
        "yes",
        "no",
        "benign",
        "malicious",
        "refused",
        "complied",
    ]
)
"""Names that are the two sides of a contrast: they become the label."""

MODULES: Final = {
    **dict.fromkeys(("mlp", "ffn", "feed_forward"), "mlp_out"),
    **dict.fromkeys(("attn", "self_attn", "attention", "self_attention"), "attn_out"),
}
"""Names of a block's modules, whose outputs these most likely are."""

SPLITS: Final = frozenset({"train", "test", "val", "valid", "validation", "dev", "eval"})

POOLINGS: Final = {
    **dict.fromkeys(("last", "last_token", "last_tok", "final_token"), "last"),
    **dict.fromkeys(("mean", "avg", "mean_pool", "mean_pooled", "average"), "mean"),
    **dict.fromkeys(("first", "first_token", "cls", "bos"), "first"),
    **dict.fromkeys(("max", "max_pool", "max_pooled"), "max"),
}

TOKEN_IDS: Final = ("input_ids", "token_ids", "tokens")
MASKS: Final = ("attention_mask", "mask", "padding_mask")

COLUMNS: Final = {
    "example_id": ("example_id", "id", "ids", "example_ids", "uid", "sample_id", "prompt_id"),
    "example_index": ("example_index", "index", "idx"),
    "dataset": ("dataset", "dataset_name"),
    "split": ("split",),
    "task": ("task",),
    "mode": ("mode",),
    "variant": ("variant",),
    "model": ("model", "model_name", "model_id"),
    "question": ("question", "questions", "prompt", "prompts", "text", "texts"),
    "oracle": ("oracle", "gold", "ground_truth"),
    "prediction": ("prediction", "predictions", "response", "responses", "completion"),
    "label": ("label", "labels"),
    "layer": ("layer", "layer_idx", "layer_index"),
    "captured_at": ("captured_at",),
}
"""Column: names under which files and tables hold it, the best first."""


class Numbered(NamedTuple):
    """A name with a number in it that counts something."""

    prefix: str
    number: str
    suffix: str
    word: str
    """``layer`` or ``example`` where the name says what is counted, else empty."""


def numbered(name: str) -> Numbered | None:
    """Split a name around the number that counts layers or examples, or that is all of it."""
    for word, pattern in (("layer", _LAYER), ("example", _EXAMPLE)):
        found = list(pattern.finditer(name))
        if found:
            start, end = found[-1].span("number")
            return Numbered(name[:start], name[start:end], name[end:], word)
    if name.isdecimal() and name.isascii():
        return Numbered("", name, "", "")
    last = last_number(name)
    if last is None or last.suffix or last.prefix[-1:] not in ("_", ".", "-"):
        return None
    # `resid_post_3` is a layer; what `acts_3` and `true_3` count is open. NumPy itself calls
    # arrays `arr_3` that nobody named.
    if known_site(last.prefix[:-1]):
        return last._replace(word="layer")
    plain = re.fullmatch(r"[^\W\d]{2}[^\W\d \-.]*", last.prefix[:-1]) is not None
    return last if plain and last.prefix != "arr_" else None


def layer_and_example(name: str) -> tuple[str, str, str] | None:
    """Cut a name that counts both: `layers.3.mlp/ex_17` is `layers.3.mlp`, `/` and `ex_17`."""
    layer, example = (list(pattern.finditer(name)) for pattern in (_LAYER, _EXAMPLE))
    if not layer or not example:
        return None
    before = example[0].end() <= layer[-1].start()
    at = example[0].end() if before else example[-1].start()
    behind = layer[-1].end() <= at
    left, right = (name[:at], name[at + 1 :]) if before else (name[: at - 1], name[at:])
    joint = name[at] if before else name[at - 1]
    return (left, joint, right) if (before or behind) and left and right else None


def last_number(name: str) -> Numbered | None:
    """Split a name around its last number, whatever that counts."""
    return number_at(name, -1)


def counting_examples(name: str) -> set[int]:
    """Return which of a name's numbers count examples by name: in `acts_3_ex_7` the second."""
    starts = {found.start("number") for found in _EXAMPLE.finditer(name)}
    return {at for at, found in enumerate(re.finditer(r"\d+", name)) if found.start() in starts}


def number_at(name: str, which: int) -> Numbered | None:
    """Split a name around one of its numbers, -1 for the last; None where it has none."""
    found = list(re.finditer(r"\d+", name))
    if not found:
        return None
    start, end = found[which].span()
    return Numbered(name[:start], name[start:end], name[end:], "")


def is_other_tensor(name: str) -> bool:
    """Say whether a name is one of weights, logits, attention and the like."""
    return _OTHER_TENSORS.fullmatch(name) is not None


@cache
def known_site(name: str) -> tuple[str, int | None] | None:
    """Return the schema's site, and the layer, that a name stands for; None where it is free."""
    if not name.strip() or name.lower() in PLAIN:
        return None
    site, layer = schema.canonical_site(name)
    return (site, layer) if site in schema.document()["sites"] else None
