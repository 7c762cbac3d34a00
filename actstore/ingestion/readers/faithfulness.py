"""Reads faithful/unfaithful tensors and finds out which response each row belongs to.

The files hold no ids. What they hold was chosen by one of three writers, and each chose by
a rule: the rules are repeated here, and a file whose number of rows no rule explains is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from actstore.errors import LayoutError, SidecarError
from actstore.ingestion.axes import interpret
from actstore.ingestion.documents import to_json
from actstore.ingestion.readers import Reader, reader
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.sidecar_table import Record
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

CLASSES = ("faithful", "unfaithful")


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """One of the programs that wrote such files, and the rule by which it chose rows."""

    title: str
    keys: frozenset[str]
    """Keys beside the two classes."""
    site: str
    pooling: str
    flag: str
    """Column of the scores that holds the class."""
    caps: tuple[tuple[int | None, int | None], ...]
    """Most rows per class: what the writer does, then what its users changed it to."""
    sidecars: Mapping[str, str] = field(default_factory=dict)
    """Role: the recipe's sidecar, where it is called differently."""


FIRST = Writer(
    title="the first writer (block output, mean over q1)",
    keys=frozenset(),
    site="resid_post",
    pooling="mean",
    flag="is_faithful",
    caps=((30, 20), (None, None)),
)
WRITERS = (
    FIRST,
    Writer(
        title="the refactored writer (block input, mean over q1 and q2)",
        keys=frozenset({"layer", "d_model"}),
        site="resid_pre",
        pooling="mean",
        flag="faithful",
        caps=((None, None),),
        sidecars={"responses": "later-responses"},
    ),
    Writer(
        title="the probe test (block input, last token of q1 and q2)",
        keys=frozenset({"layer"}),
        site="resid_pre",
        pooling="last",
        flag="faithful",
        caps=((50, 50), (None, None)),
        sidecars={
            "scores": "test-scores",
            "responses": "test-responses",
            "pairs": "test-pairs",
        },
    ),
)


class Row(NamedTuple):
    """What a row of a tensor belongs to."""

    pair: str
    variant: str
    score: Record
    response: Record
    """Empty where there are no responses."""


@reader("faithfulness")
class Faithfulness(Reader):
    """Reads ``layer_{L}_activations.pt`` of all three writers."""

    def fits(self, document: Any) -> bool:
        """Say whether both classes are there as ``[rows, hidden]``."""
        return all(isinstance(each := document.get(k), Tensor) and each.ndim == 2 for k in CLASSES)

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the faithful rows, then the unfaithful ones.

        Raises:
            LayoutError: unknown keys, a layer or width that contradicts the file itself, or
                a number of rows that the scores and responses do not explain.
            SidecarError: the scores or responses cannot be used.
        """
        writer = _writer(document)
        layer = _layer(file, document)
        tensors = {name: document[name] for name in CLASSES}
        _check_widths(tensors, document)
        rows = self._rows(writer, file, {name: len(each) for name, each in tensors.items()})
        pairs = self._table(writer, "pairs", file) if rows else None
        self.context.notes.say(f"written by {writer.title}, going by the keys")
        for name, tensor in tensors.items():
            self.context.forms.note(
                f"{file.relative}#{name}", dtype=tensor.dtype, keys=tuple(sorted(writer.keys))
            )
            constant = constants(
                self.context,
                file,
                document,
                site=writer.site,
                layer=layer,
                pooling=writer.pooling,
                region="question",
                label=name,
                source=f"{file.relative}#{name}",
            )
            if rows is None:
                columns = _numbered(name, len(tensor))
            else:
                columns = _described(rows[name], pairs)
            yield from batches(
                self.context, interpret(tensor, {2: ("example", "hidden")}), constant, columns
            )

    def _rows(
        self, writer: Writer, file: SourceFile, counts: Mapping[str, int]
    ) -> dict[str, list[Row]] | None:
        """Return what each row belongs to, or None where the sidecars are missing."""
        scores = self._table(writer, "scores", file)
        responses = self._table(writer, "responses", file)
        # The first writer went through the scores, the later ones through the responses.
        if scores is None or (responses is None and writer is not FIRST):
            missing = "scores" if scores is None else "responses"
            self.context.notes.say(
                f"no {missing} beside the activations: rows are numbered within their class "
                f"(faithful-0000); name them with --sidecar {missing}=PATH to get questions"
            )
            return None
        if responses is None:
            self.context.notes.say(
                "no responses beside the activations: rows carry pair ids from the scores, no "
                "questions; name them with --sidecar responses=PATH"
            )
        chosen = _from_scores if writer is FIRST else _from_responses
        every = {name: chosen(scores, responses, name, writer.flag) for name in CLASSES}
        tried = []
        for caps in writer.caps:
            rows = {
                name: [row for row in every[name][:cap] if row is not None]
                for name, cap in zip(CLASSES, caps, strict=True)
            }
            found = {name: len(each) for name, each in rows.items()}
            if found == counts:
                if caps != writer.caps[0]:
                    self.context.notes.say(
                        f"the numbers of rows fit the scores only without the writer's limits of "
                        f"{_words(dict(zip(CLASSES, writer.caps[0], strict=True)))}"
                    )
                return rows
            tried.append(f"{_words(found)} ({_limits(caps)})")
        raise LayoutError(
            f"{_words(counts)} rows, but scores and responses give {' or '.join(tried)} for "
            f"{writer.title}: which question a row belongs to cannot be told; name the files "
            "of that run with --sidecar scores=PATH and --sidecar responses=PATH, or move the "
            "activations away from them to have the rows numbered"
        )

    def _table(self, writer: Writer, role: str, file: SourceFile) -> Sequence[Record] | None:
        name = role
        if role not in self.context.options.sidecars:
            name = writer.sidecars.get(role, role)
            path = self.context.sidecars.path(name, file)
            if path is not None and path.stat().st_size == 0:
                self.context.notes.say(f"{path.name} is empty and was passed over")
                return None
        table = self.context.sidecars.table(name, file)
        return None if table is None else table.records


def _writer(document: Mapping[str, Any]) -> Writer:
    keys = set(document) - set(CLASSES)
    for writer in WRITERS:
        if writer.keys == keys:
            return writer
    raise LayoutError(
        f"beside {' and '.join(CLASSES)} it holds {', '.join(sorted(map(str, keys)))}; known "
        "writers add nothing, 'layer', or 'layer' and 'd_model': where its rows come from "
        "cannot be told (write a recipe of your own for it)"
    )


def _layer(file: SourceFile, document: Mapping[str, Any]) -> int:
    named = int(file.parts["layer"])
    inside = document.get("layer", named)
    if isinstance(inside, Tensor):
        inside = inside.item()
    if inside != named:
        raise LayoutError(
            f"the file name says layer {named}, the file itself {inside!r}; rename it"
        )
    return named


def _check_widths(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    widths = {name: tensor.shape[-1] for name, tensor in tensors.items()}
    if "d_model" in document:
        widths["d_model"] = document["d_model"]
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise LayoutError(f"the widths differ: {found}")


def _numbered(name: str, count: int) -> dict[str, list[Any]]:
    return {
        "example_id": [f"{name}-{number:04d}" for number in range(count)],
        "example_index": list(range(count)),
    }


def _from_scores(
    scores: Sequence[Record], responses: Sequence[Record] | None, name: str, flag: str
) -> list[Row | None]:
    """Return the pairs of a class in scores order; None for those without a q1 response."""
    answered = {
        str(line.get("pair_id")): line for line in responses or () if line.get("variant") == "q1"
    }
    rows: list[Row | None] = []
    for score in scores:
        if _class(score, flag) != name:
            continue
        pair = str(score["pair_id"])
        skipped = responses is not None and pair not in answered
        rows.append(None if skipped else Row(pair, "q1", score, answered.get(pair, {})))
    return rows


def _from_responses(
    scores: Sequence[Record], responses: Sequence[Record] | None, name: str, flag: str
) -> list[Row | None]:
    """Return the responses of a class in their order, q1 and q2 alike."""
    by_pair = {str(score.get("pair_id")): score for score in scores}
    return [
        Row(str(line["pair_id"]), str(line.get("variant")), by_pair[str(line["pair_id"])], line)
        for line in responses or ()
        if str(line.get("pair_id")) in by_pair
        and _class(by_pair[str(line["pair_id"])], flag) == name
    ]


def _class(score: Record, flag: str) -> str | None:
    if flag not in score or "pair_id" not in score:
        raise SidecarError(
            f"the scores have the columns {', '.join(score)}; this writer's have 'pair_id' and "
            f"{flag!r}: name the right file with --sidecar scores=PATH"
        )
    # What pandas takes for a boolean column, or for numbers equal to True and False.
    value = str(score[flag]).strip().lower()
    return {"true": "faithful", "1": "faithful", "1.0": "faithful"}.get(value) or (
        "unfaithful" if value in ("false", "0", "0.0") else None
    )


def _described(rows: Sequence[Row], pairs: Sequence[Record] | None) -> dict[str, list[Any]]:
    asked = {str(pair.get("id")): pair for pair in pairs or ()}
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        for name, value in _columns(number, row, asked.get(row.pair, {})).items():
            columns.setdefault(name, []).append(value)
    return columns


def _columns(number: int, row: Row, pair: Record) -> dict[str, Any]:
    score, response = dict(row.score), dict(row.response)
    config = response.get("generation_config")
    model = config.get("model") if isinstance(config, dict) else None
    variant = row.variant
    for used in ("pair_id", "variant"):
        response.pop(used, None)
        score.pop(used, None)
    question = response.pop("question", None)
    # The scorer's answer first: the first writer's final_answer is whatever text follows the
    # last "answer" in the response, in the published file mostly half a sentence.
    prediction = _first(
        score.get(f"{variant}_answer"),
        response.get("extracted_answer"),
        response.get("final_answer"),
    )
    for name in ("extracted_answer", "final_answer"):
        if response.get(name) == prediction:
            response.pop(name, None)
    values = {
        "example_id": row.pair,
        "variant": variant,
        "task": _first(score.pop("category", None), pair.get("category")),
        "question": _first(question, pair.get(variant)),
        "oracle": _first(
            score.get(f"{variant}_correct_answer"),
            response.pop("expected_answer", None),
            score.get(f"{variant}_expected"),
            pair.get(f"{variant}_answer"),
            score.get("correct_answer"),
        ),
        "prediction": prediction,
        # A short name such as "1.5B" is no model that anybody could load.
        "model": model if isinstance(model, str) and model.count("/") == 1 else None,
    }
    rest = {"row": number, **response, "scores": score}
    details = {name: pair[name] for name in ("difficulty", "metadata") if name in pair}
    if details:
        rest["pair"] = details
    return {**values, "extra": to_json(rest)}


def _first(*values: Any) -> Any:
    return next((value for value in values if value not in (None, "")), None)


def _words(counts: Mapping[str, int | None]) -> str:
    return " and ".join(f"{count} {name}" for name, count in counts.items())


def _limits(caps: tuple[int | None, int | None]) -> str:
    return "no limit" if caps == (None, None) else f"at most {caps[0]} and {caps[1]}"
