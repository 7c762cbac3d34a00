"""The example, or the batch of examples, that a block of a recording is about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from actstore.capturing.calls import ModelCall
from actstore.capturing.prompts.example import Example, from_dict
from actstore.errors import UsageError


class RecordedExample:
    """An example, or the examples of a batch, while and after the model is called for it.

    ``prediction`` and ``label`` may be set until the next block begins: a text, or one per
    row of the batch. Without it the prediction is the decoded response, if the recorder was
    given the tokenizer. ``answer`` (a text that stands in the response) is what ``answer.*``
    pools over; set it inside the block.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = list(examples)
        self.calls: list[ModelCall] = []
        """The calls of the model there were, once the block is over."""
        self.prediction: str | Sequence[str | None] | None = None
        self.label: str | Sequence[str | None] | None = None
        self.answer: str | Sequence[str | None] | None = None

    @property
    def ids(self) -> list[str]:
        """The examples' ids."""
        return [example.id for example in self.examples]

    def each(self, name: Literal["prediction", "label", "answer"]) -> list[str | None]:
        """Return what was set under a name, one per example.

        Raises:
            UsageError: a list of another length.
        """
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            if isinstance(value, str) and len(self.examples) > 1:
                raise UsageError(
                    f"{name} is one text for {len(self.examples)} examples: set a list"
                )
            return [value] * len(self.examples)
        if not isinstance(value, Sequence) or len(value) != len(self.examples):
            raise UsageError(
                f"{name} must be a text or a list of {len(self.examples)}, got {value!r}"
            )
        return [None if each is None else str(each) for each in value]


def recorded_as(given: dict[str, Any]) -> RecordedExample:
    """Return the examples that the fields of a block describe.

    Raises:
        UsageError: its values do not match its ids, or two of these are the same.
        ExampleError: an example has no id, or a value of the wrong kind.
    """
    ids: Any = given.get("id", given.get("example_id"))
    if hasattr(ids, "tolist"):  # of NumPy or torch
        ids = ids.tolist()
    if not isinstance(ids, list | tuple):
        return RecordedExample([_example({**given, "id": ids})])
    given = {name: value for name, value in given.items() if name != "example_id"}
    for name, value in given.items():
        if isinstance(value, list | tuple) and name != "id" and len(value) != len(ids):
            raise UsageError(f"{name} has {len(value)} values for {len(ids)} ids")
    examples = [
        _example(
            {
                name: value[row] if isinstance(value, list | tuple) and name != "id" else value
                for name, value in given.items()
            }
            | {"id": ids[row]}
        )
        for row in range(len(ids))
    ]
    if not examples:
        raise UsageError("a block needs at least one id")
    if len({example.key for example in examples}) < len(examples):
        raise UsageError(f"the ids of a batch must differ: {', '.join(map(str, ids[:6]))}")
    return RecordedExample(examples)


def numbered(example: Example, number: int) -> Example:
    """Tell the calls of one block apart."""
    if example.index is None:
        return dataclasses.replace(example, index=number)
    word = f"call-{number}"
    variant = word if example.variant is None else f"{example.variant}-{word}"
    return dataclasses.replace(example, variant=variant)


def _example(given: Mapping[str, Any]) -> Example:
    if given.get("question") is not None or given.get("messages") is not None:
        return from_dict(given)
    return dataclasses.replace(from_dict({**given, "question": ""}), question=None)
