"""One example: a question with its id, and what else may come with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actstore.errors import ExampleError

Message = Mapping[str, Any]
"""One turn of a conversation: ``{"role": "user", "content": "…"}``."""

_TEXTS = ("question", "oracle", "answer", "system", "task", "label", "split", "mode", "variant")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class ExampleKey:
    """What tells one example from another within a data set."""

    id: str
    index: int | None
    split: str | None
    mode: str | None
    variant: str | None

    def __str__(self) -> str:
        named = [(name, getattr(self, name)) for name in ("index", "split", "mode", "variant")]
        rest = [f"{name} {value}" for name, value in named if value is not None]
        return ", ".join([f"id {self.id!r}", *rest])


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question that a model is to be asked."""

    id: str
    """Id within the data set."""
    question: str | None = None
    """What is asked; None only where ``messages`` hold the conversation."""
    oracle: str | None = None
    """The right answer, for grading."""
    choices: tuple[str, ...] | None = None
    """The options of a multiple-choice question, in the order A, B, C …"""
    image: Any = None
    """A Pillow image, a path, bytes, ``{"bytes": …, "path": …}``, or a list of these."""
    images: Path | None = None
    """The folder that relative image paths start from."""
    answer: str | None = None
    """A text to append after the prompt, as if the model had answered it (teacher forcing)."""
    messages: tuple[Message, ...] | None = None
    """A whole conversation, in place of ``question``."""
    system: str | None = None
    """A system prompt of this example's own."""
    task: str | None = None
    label: str | None = None
    split: str | None = None
    mode: str | None = None
    variant: str | None = None
    index: int | None = None
    """Position within the group that shares the id, where there is one."""
    source: str | None = None
    """Where it was read, such as ``questions.jsonl:17``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Everything else the source held; stored as JSON in the column ``extra``."""

    @property
    def key(self) -> ExampleKey:
        """What must be unique among the examples of a run."""
        return ExampleKey(self.id, self.index, self.split, self.mode, self.variant)

    @property
    def where(self) -> str:
        """How a message names this example."""
        return f"{self.source} (example {self.id!r})" if self.source else f"example {self.id!r}"

    @property
    def pictures(self) -> tuple[Any, ...]:
        """The images, as a tuple that may be empty; nothing is opened."""
        if self.image is None:
            return ()
        if isinstance(self.image, list | tuple):
            return tuple(self.image)
        return (self.image,)


def from_dict(
    mapping: Mapping[str, Any],
    *,
    source: str | None = None,
    images: Path | None = None,
    number: int | None = None,
) -> Example:
    """Make an example of a mapping whose keys are the fields of :class:`Example`.

    ``example_id`` and ``example_index``, the store's names, are taken for ``id`` and
    ``index``. Keys that are no field go into ``extra``. Without an id the example gets
    ``number``, its position in the source.

    Raises:
        ExampleError: no id, neither question nor messages, or a value of the wrong kind; the
            message names ``source``.
    """
    where = source or (f"example {number}" if number is not None else "the example")
    if not isinstance(mapping, Mapping):
        raise ExampleError(
            f"{where}: {_short(mapping)} is no example; expected a mapping with at least "
            "'id' and 'question'"
        )
    given = dict(mapping)
    for ours, theirs in (("id", "example_id"), ("index", "example_index")):
        if ours not in given and theirs in given:
            given[ours] = given.pop(theirs)
    values: dict[str, Any] = {name: _text(given.pop(name, None), name, where) for name in _TEXTS}
    identity = given.pop("id", None)
    if identity is None:
        if number is None:
            raise ExampleError(
                f"{where}: no 'id'; the example has {', '.join(map(str, mapping)) or 'no keys'}"
            )
        identity = number
    values["id"] = _text(identity, "id", where)
    if not values["id"]:
        raise ExampleError(f"{where}: the id is empty")
    values["index"] = _index(given.pop("index", None), where)
    values["choices"] = _choices(given.pop("choices", None), where)
    values["messages"] = _messages(given.pop("messages", None), where)
    values["image"] = given.pop("image", None)
    folder = given.pop("images", None)
    values["images"] = images if folder is None else Path(folder)
    values["source"] = given.pop("source", None) if source is None else source
    extra = given.pop("extra", None)
    if extra is not None and not isinstance(extra, Mapping):
        raise ExampleError(f"{where}: 'extra' is {_short(extra)}; expected a mapping")
    values["extra"] = {str(name): value for name, value in given.items()} | dict(extra or {})
    if values["question"] is None and values["messages"] is None:
        raise ExampleError(
            f"{where}: neither 'question' nor 'messages'; the example has "
            f"{', '.join(map(str, mapping))}"
        )
    return Example(**values)


def stream(examples: Iterable[Example | Mapping[str, Any]]) -> Iterator[Example]:
    """Yield examples out of mappings or examples, each with an id of its own.

    Raises:
        ExampleError: one is malformed, or two have the same id, index, split, mode and
            variant; the message names both.
    """
    seen: dict[ExampleKey, tuple[int, str | None]] = {}
    for number, item in enumerate(examples):
        example = item if isinstance(item, Example) else from_dict(item, number=number)
        earlier, source = seen.setdefault(example.key, (number, example.source))
        if earlier != number:
            # A source may be the same for all examples: it then tells no place.
            first, place = (
                f"example number {at + 1}" if source == example.source or told is None else told
                for at, told in ((earlier, source), (number, example.source))
            )
            raise ExampleError(
                f"{place}: {example.key} is that of {first} too; ids must differ, or tell the "
                "two apart by index, split, mode or variant"
            )
        yield example


def _text(value: Any, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float) or hasattr(value, "item"):
        # Numbers and NumPy scalars: ids and answers are numbers in many files.
        plain = value.item() if hasattr(value, "item") else value
        if plain != plain:  # NaN is how a table without types says nothing
            return None
        return str(plain).lower() if isinstance(plain, bool) else str(plain)
    raise ExampleError(f"{where}: {name!r} is {_short(value)}; expected text")


def _index(value: Any, where: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = None
    if number is None or (isinstance(value, float) and value != number):
        raise ExampleError(f"{where}: 'index' is {_short(value)}; expected a whole number")
    return number


def _choices(value: Any, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]  # {"label": ["A", "B"], "text": [...]}, as several benchmarks have it
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ExampleError(f"{where}: 'choices' is {_short(value)}; expected a list of texts")
    return tuple(str(choice) for choice in value)


def _messages(value: Any, where: str) -> tuple[Message, ...] | None:
    if value is None:
        return None
    fits = (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(
            isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in value
        )
    )
    if not fits:
        raise ExampleError(
            f"{where}: 'messages' is {_short(value)}; expected a list of "
            '{"role": "user", "content": "…"}'
        )
    return tuple(dict(turn) for turn in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
