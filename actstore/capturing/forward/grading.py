"""Grades responses: is the answer correct, and which tokens of the response hold it?

======================  ================================================================
``exact``               the whole prediction is the oracle
``contains``            the oracle stands in the prediction as whole words
``choice``              the option chosen (a letter or its text) is the oracle's
``number``              the last number of the prediction is the last of the oracle
``math``                the answer equals the oracle as mathematics (extra ``math``)
``regex:PATTERN``       what PATTERN finds (its first group, if it has one) is the oracle
``sql:EXPRESSION``      DuckDB SQL over the row's columns: true, false, a label, or NULL
======================  ================================================================

Texts are compared after Unicode NFKC, without regard to case, runs of white space, and
white space, quotes, Markdown stars and final punctuation around them. What cannot be
graded (no oracle, no prediction, nothing found to compare) gets no label at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from actstore.capturing.forward import math_grading
from actstore.capturing.prompts.example import Example
from actstore.errors import SqlError, UsageError

CORRECT = "correct"
INCORRECT = "incorrect"
KINDS = ("exact", "contains", "choice", "number", "math", "regex:PATTERN", "sql:EXPRESSION")

Evaluate = Callable[[str, Sequence[Mapping[str, Any]]], Sequence[Any]]
"""Returns the values of an SQL expression over rows given as mappings."""

_WRAP = " \t\r\n\"'`*_\u201c\u201d\u2018\u2019«»"
_TAIL = ".,;:!?。"
_NUMBER = re.compile(
    r"""
    (?<![\w.,/])                                      # not in the middle of a word or number
    (?P<sign>[-+\u2212]?)[$€£]?
    (?:
      (?P<over>\d+)\s?/\s?(?P<under>\d+)              # 1/2
      | (?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<part>\.\d+)?(?P<power>[eE][-+]?\d{1,4})?
      | (?P<bare>\.\d+)                               # .5
    )
    (?P<percent>\s?%)?
    (?![\w/]|[.,]\d)
    """,
    re.VERBOSE,
)
_LETTER = re.compile(
    r"""
    (?<![\w'\u2019])
    (?:\((?P<round>[A-Za-z])\)|\[(?P<square>[A-Za-z])\]|\*\*(?P<bold>[A-Z])\*\*
      |(?P<closed>[A-Z])(?=\s*[.:)])|(?P<bare>[A-Z]))
    (?![\w'\u2019])
    """,
    re.VERBOSE,
)
_ANNOUNCED = re.compile(
    r"(?:answer|option|choice)(?:\s+is)?\s*[:=]?\s*[*_(\[\"']*(?P<letter>[A-Za-z])(?![\w'\u2019])",
    re.IGNORECASE,
)


class Grade(NamedTuple):
    """What became of one prediction."""

    label: str | None
    """``correct``, ``incorrect``, another word (``sql:``), or None: it cannot be graded."""
    span: tuple[int, int] | None = None
    """Where in the prediction the answer stands, in characters; None if it was not found."""


@dataclass(frozen=True, slots=True)
class Grader:
    """A compiled way to grade."""

    text: str
    """As it was given, such as ``contains``."""
    kind: str
    """The word before the colon."""
    pattern: re.Pattern[str] | None = None
    expression: str | None = None
    evaluate: Evaluate | None = None

    def grade(
        self,
        predictions: Sequence[str | None],
        examples: Sequence[Example],
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[Grade]:
        """Grade predictions, each against its example.

        Args:
            predictions: one per example; None where nothing was generated.
            examples: hold the oracles and choices.
            rows: the columns as they will be stored, for ``sql:``; made of the examples by
                default.
        """
        if self.kind == "sql":
            assert self.expression is not None
            assert self.evaluate is not None
            pairs = zip(examples, predictions, strict=True)
            table = [columns(e, p) for e, p in pairs] if rows is None else rows
            return [Grade(_label(value)) for value in self.evaluate(self.expression, table)]
        return [
            self._one(prediction, example)
            for prediction, example in zip(predictions, examples, strict=True)
        ]

    def _one(self, prediction: str | None, example: Example) -> Grade:
        if prediction is None or example.oracle is None or not prediction.strip():
            return Grade(None)
        if self.kind == "exact":
            return _exact(prediction, example.oracle)
        if self.kind == "contains":
            return _contains(prediction, example.oracle)
        if self.kind == "choice":
            return _choice(prediction, example.oracle, example.choices)
        if self.kind == "number":
            return _number(prediction, example.oracle)
        if self.kind == "math":
            return _math(prediction, example.oracle)
        assert self.pattern is not None
        return _matched(self.pattern, prediction, example.oracle)


def _math(prediction: str, oracle: str) -> Grade:
    found = math_grading.same(prediction, oracle)
    if found is None:
        return Grade(None)
    right, written = found
    at = prediction.rfind(written) if written else -1
    return Grade(CORRECT if right else INCORRECT, (at, at + len(written)) if at >= 0 else None)


def parse(text: str, *, evaluate: Evaluate | None = None) -> Grader:
    """Return the grader that ``text`` names.

    Args:
        text: one of :data:`KINDS`.
        evaluate: runs SQL, for ``sql:``; by default DuckDB.

    Raises:
        UsageError: no such kind, a bad pattern, or an empty expression.
        SqlError: the expression is refused.
        MissingExtraError: ``math``, and math-verify is not installed.
    """
    kind, colon, rest = text.partition(":")
    if not colon and kind in ("exact", "contains", "choice", "number"):
        return Grader(text, kind)
    if text == "math":
        math_grading.check_installed()
        return Grader(text, kind)
    if kind == "regex" and rest:
        try:
            return Grader(text, kind, pattern=re.compile(rest))
        except re.error as problem:
            raise UsageError(f"--grade {text}: not a regular expression: {problem}") from None
    if kind == "sql" and rest.strip():
        if evaluate is None:
            from actstore.querying.row_expressions import evaluate as in_duckdb

            evaluate = in_duckdb
        try:
            evaluate(rest, [])  # refused now, not after an hour of generating
        except SqlError as problem:
            raise SqlError(f"--grade {text}: {problem}") from None
        return Grader(text, kind, expression=rest, evaluate=evaluate)
    raise UsageError(f"grade {text!r} is unknown: use one of {', '.join(KINDS)}")


def grade(
    kind: str,
    prediction: str | None,
    oracle: str | None,
    *,
    choices: Sequence[str] | None = None,
) -> Grade:
    """Grade one prediction; a shorthand for :func:`parse` and :meth:`Grader.grade`."""
    example = Example(
        id="0", oracle=oracle, choices=tuple(choices) if choices is not None else None
    )
    return parse(kind).grade([prediction], [example])[0]


def columns(example: Example, prediction: str | None) -> dict[str, Any]:
    """Return the columns of the schema that are known once an example is answered."""
    return {
        "example_id": example.id,
        "example_index": example.index,
        "split": example.split,
        "task": example.task,
        "mode": example.mode,
        "variant": example.variant,
        "question": example.question,
        "oracle": example.oracle,
        "prediction": prediction,
        "label": example.label,
        "extra": dict(example.extra) or None,
    }


def normal(text: str) -> str:
    """Return ``text`` as it is compared: NFKC, no case, single spaces, nothing around it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    squeezed = " ".join(folded.split())
    while (shorter := squeezed.strip(_WRAP).rstrip(_TAIL)) != squeezed:
        squeezed = shorter
    return squeezed


def number(text: str) -> Fraction | None:
    """Return the value of a text that is a number and nothing else, or None.

    ``1,234.50``, ``-3``, ``1/2``, ``.5``, ``2e3``, ``$4`` and ``50%`` (50) are numbers.
    """
    stripped = text.strip().strip("*_`\"'").rstrip(_TAIL).strip()
    match = _NUMBER.fullmatch(stripped)
    return _value(match) if match else None


def _label(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return CORRECT if value else INCORRECT
    return str(value)


def _judge(right: bool, span: tuple[int, int] | None) -> Grade:
    return Grade(CORRECT if right else INCORRECT, span)


def _exact(prediction: str, oracle: str) -> Grade:
    start = len(prediction) - len(prediction.lstrip())
    span = (start, len(prediction.rstrip()))
    return _judge(normal(prediction) == normal(oracle), span)


def _contains(prediction: str, oracle: str) -> Grade:
    wanted = normal(oracle)
    if not wanted:
        return Grade(None)
    span = find_words(prediction, wanted)
    return _judge(span is not None, span)


def find_words(text: str, wanted: str) -> tuple[int, int] | None:
    """Return where ``wanted`` (already :func:`normal`) last stands in ``text`` as whole words.

    The span counts the characters of ``text`` as it is, before any folding.
    """
    folded: list[str] = []
    origin: list[int] = []
    for at, character in enumerate(text):
        for piece in unicodedata.normalize("NFKC", character).casefold():
            blank = piece.isspace()
            if blank and folded and folded[-1] == " ":
                continue
            folded.append(" " if blank else piece)
            origin.append(at)
    before = r"(?<!\w)" if _is_word(wanted[0]) else ""
    after = r"(?!\w)" if _is_word(wanted[-1]) else ""
    if wanted[0].isdigit():
        before = r"(?<![\w.,-])" if wanted[-1].isdigit() else before
    if wanted[-1].isdigit():
        after = r"(?!\w|[.,]\d)"  # 12 does not stand in 12.5 nor in 12,000
    found = _last(re.finditer(before + re.escape(wanted) + after, "".join(folded)))
    return (origin[found.start()], origin[found.end() - 1] + 1) if found else None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _value(match: re.Match[str]) -> Fraction | None:
    if match["over"] is not None:
        if int(match["under"]) == 0:
            return None
        value = Fraction(int(match["over"]), int(match["under"]))
    elif match["bare"] is not None:
        value = Fraction("0" + match["bare"])
    else:
        whole = match["whole"].replace(",", "")
        value = Fraction(whole + (match["part"] or "") + (match["power"] or ""))
    return -value if match["sign"] in ("-", "\u2212") else value


def _number(prediction: str, oracle: str) -> Grade:
    wanted = _last_number(oracle)
    if wanted is None:
        return Grade(None)
    found = _last_number(prediction)
    if found is None:
        return Grade(None)
    return _judge(found[0] == wanted[0], found[1])


def _last_number(text: str) -> tuple[Fraction, tuple[int, int]] | None:
    last = None
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None:
            last = (value, match.span())
    return last


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    found = deque(matches, maxlen=1)
    return found[0] if found else None


def _matched(pattern: re.Pattern[str], prediction: str, oracle: str) -> Grade:
    last = _last(pattern.finditer(prediction))
    if last is None:
        return Grade(None)
    group = 1 if pattern.groups else 0
    if last.group(group) is None:
        return Grade(None)
    found = last.group(group)
    ours, theirs = number(found), number(oracle)
    same = ours == theirs if ours is not None and theirs is not None else False
    return _judge(same or normal(found) == normal(oracle), last.span(group))


def _choice(prediction: str, oracle: str, choices: Sequence[str] | None) -> Grade:
    wanted = _option(oracle, choices)
    if wanted is None:
        return Grade(None)
    found = _chosen(prediction, choices)
    if found is None:
        return Grade(None)
    return _judge(found[0] == wanted, found[1])


def _option(oracle: str, choices: Sequence[str] | None) -> int | None:
    """Return which option the oracle means: a letter, ``(B)``, ``B: text``, or an option's text."""
    if choices is not None:
        folded = [normal(choice) for choice in choices]
        if folded.count(normal(oracle)) == 1:
            return folded.index(normal(oracle))
    match = re.fullmatch(r"\s*[(\[]?([A-Za-z])[)\]]?\s*(?:[.:)].*)?", oracle, re.DOTALL)
    if match is None:
        return None
    at = ord(match[1].upper()) - ord("A")
    return at if choices is None or at < len(choices) else None


def _chosen(prediction: str, choices: Sequence[str] | None) -> tuple[int, tuple[int, int]] | None:
    """Return the option that a prediction chooses and where; None if that is not clear.

    In this order: an option's text and nothing else; a letter that opens the prediction
    (``B``, ``(b)``, ``B. text``); the last letter announced (``the answer is B``); the last
    letter in brackets; the only capital that stands alone; the only option whose text
    occurs.
    """
    count = len(choices) if choices is not None else 26
    if choices is not None:
        folded = [normal(choice) for choice in choices]
        whole = normal(prediction)
        if folded.count(whole) == 1:
            start = len(prediction) - len(prediction.lstrip())
            return folded.index(whole), (start, len(prediction.rstrip()))
    opening = re.match(
        r"[\s*_\"'`]*(?:[(\[](?P<a>[A-Za-z])[)\]]|(?P<b>[A-Za-z])(?=[*_\"'`]*(?:[.:)]|\s*$)))",
        prediction,
    )
    if opening is not None:
        group = "a" if opening["a"] else "b"
        return _within(opening[group], opening.span(group), count)
    announced = list(_ANNOUNCED.finditer(prediction))
    # "the answer is a dog": a lower-case letter followed by a word is an article.
    announced = [m for m in announced if m["letter"].isupper() or _ends(prediction, m.end())]
    if announced:
        last = announced[-1]
        return _within(last["letter"], last.span("letter"), count)
    letters = list(_LETTER.finditer(prediction))
    bracketed = [m for m in letters if m.lastgroup in ("round", "square", "bold")]
    for candidates in (bracketed, [m for m in letters if m["bare"] not in ("A", "I")]):
        if candidates:
            values = {_captured(m).upper() for m in candidates}
            if len(values) == 1:
                last = candidates[-1]
                return _within(_captured(last), last.span(last.lastgroup or 0), count)
    if choices is not None:
        hits = []
        for at, choice in enumerate(choices):
            span = find_words(prediction, normal(choice)) if normal(choice) else None
            if span is not None:
                hits.append((at, span))
        # "north" stands inside "north east": the longest one that holds the others counts.
        hits = [h for h in hits if not any(_inside(h[1], other[1]) for other in hits)]
        if len(hits) == 1:
            return hits[0]
    return None


def _captured(match: re.Match[str]) -> str:
    return match[match.lastgroup or 0]


def _ends(text: str, at: int) -> bool:
    return re.match(r"[*_)\]\"'`]*(?:[.,:;!?)]|\s*$)", text[at:]) is not None


def _within(letter: str, span: tuple[int, int], count: int) -> tuple[int, tuple[int, int]] | None:
    at = ord(letter.upper()) - ord("A")
    return (at, span) if at < count else None


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]
