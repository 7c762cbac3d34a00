"""Turns examples into prompts as text, and knows which characters are whose.

The chat template is rendered once more with markers in place of the messages' texts. What
stands between the markers is the template's own; it is the same for all conversations of
one shape, so it is kept, and each prompt is checked against it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from actstore.capturing.prompts.example import Example
from actstore.errors import ExampleError, UsageError

Span = tuple[int, int]

_MARK = "\ue000{}\ue001"
_MARKED = re.compile("\ue000(\\d+)\ue001")
_DATE = re.compile(r"strftime_now\(\s*[\"']([^\"']+)[\"']\s*\)")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_QUOTED = 60


class Rendered(NamedTuple):
    """A prompt as text."""

    text: str
    """What is tokenized: the prompt, and the answer after it where one is given."""
    question: Span | None
    """Characters of the question; None where it was not found in the prompt."""
    answer: Span | None
    """Characters of the answer that is appended."""
    roles: tuple[tuple[int, int, str], ...]
    """``(start, end, role)`` of the texts that somebody said; the rest is the template's."""
    templated: bool
    """Whether a chat template wrote it, special tokens included."""


class _Around(NamedTuple):
    """What a template writes around the texts of a conversation."""

    parts: list[str]
    """Before, between and after the texts."""
    order: list[int]
    """Which of the texts stands between them."""


class Renderer:
    """Renders prompts with one chat template, or as they are."""

    def __init__(
        self,
        processor: Any,
        *,
        chat_template: bool | str = True,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Choose the template.

        Args:
            processor: a tokenizer or a processor.
            chat_template: True for the model's own (texts go in raw if it has none), False
                for raw texts, or a template's text.
            system: system prompt of all examples that have none of their own.
            options: variables for the template, such as ``{"enable_thinking": False}``.

        Raises:
            UsageError: options without a template.
        """
        tokenizer = getattr(processor, "tokenizer", processor)
        self.notes: list[str] = []
        self._image_token = str(getattr(processor, "image_token", "") or "")
        self._sees = tokenizer is not processor
        self._system = system
        self._options = dict(options or {})
        self._owner: Any = None
        self.template: str | None = None
        """Text of the template in use; None if texts go in raw."""
        if chat_template is not False:
            self._choose(processor, tokenizer, chat_template)
        # A processor's template takes a message's images and texts as a list of parts.
        self._listed = self._sees and self._owner is processor
        if self.template is None and self._options:
            raise UsageError(
                f"template options {', '.join(self._options)}: no chat template is in use"
            )
        self._shapes: dict[Any, _Around | None] = {}
        self._injected: dict[Any, Span | None] = {}
        if self.template is not None:
            self._look_at_options()

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the prompts what they are, for the run's record."""
        digest = None
        if self.template is not None:
            digest = hashlib.sha256(self.template.encode()).hexdigest()
        return {
            "prompt": "raw" if self.template is None else "chat template",
            "chat_template_sha256": digest,
            "system": self._system,
            "template_options": self._options,
        }

    def render(self, example: Example) -> Rendered:
        """Return the prompt of one example.

        Raises:
            ExampleError: the chat template refuses the conversation, or there is none for it.
        """
        if self.template is None:
            return self._raw(example)
        turns, answer = self._conversation(example)
        text = self._apply(turns, example)
        spans = self._spans(turns, text, example)
        if not any(turn["role"] == "system" for turn in turns):
            spans += self._default_system(turns, text, example)
        question = self._question(example, turns, spans, text)
        if answer is None:
            return Rendered(text, question, None, _of_schema(spans), True)
        start = len(text)
        text, start = self._answered(turns, answer, text, example)
        spans.append((start, len(text), "assistant"))
        return Rendered(text, question, (start, len(text)), _of_schema(spans), True)

    def _choose(self, processor: Any, tokenizer: Any, chosen: bool | str) -> None:
        if isinstance(chosen, str):
            self._owner, self.template = processor, chosen
            return
        for owner in (processor, tokenizer):
            held = getattr(owner, "chat_template", None)
            if held:
                self._owner = owner
                self.template = held if isinstance(held, str) else _named(held)
                return
        self.notes.append(
            "the tokenizer has no chat template: questions go in as they are (--raw says so "
            "on purpose)"
        )

    def _look_at_options(self) -> None:
        """Note what makes prompts other than they seem."""
        template = self.template or ""
        for name in self._options:
            if not re.search(rf"\b{re.escape(name)}\b", template):
                self.notes.append(f"the chat template does not use {name}: it changes nothing")
        probe = Example(id="probe", question="Which is larger?")
        try:
            turns, _ = self._conversation(probe)
            text = self._apply(turns, probe)
        except ExampleError:
            return  # the first real example says it better
        for form in _DATE.findall(template):
            today = datetime.now().strftime(form)
            if today in text:
                self.notes.append(
                    f"the chat template writes today's date ({today}) into every prompt: captures "
                    "of another day differ; set it with a template option (often date_string)"
                )
                break
        if not self._system:
            for start, end, _ in self._default_system(turns, text, probe):
                said = text[start:end].strip()
                short = said if len(said) <= _QUOTED else f"{said[: _QUOTED - 1]}…"
                self.notes.append(
                    f"the chat template adds a system prompt of its own: {short!r} "
                    "(--system TEXT replaces it)"
                )

    def _conversation(self, example: Example) -> tuple[list[dict[str, Any]], str | None]:
        """Return the turns up to the model's, and the answer to append."""
        system = example.system if example.system is not None else self._system
        if example.messages is not None:
            turns = [{**turn, "content": turn["content"] or ""} for turn in example.messages]
            answer = example.answer
            if answer is None and turns[-1]["role"] == "assistant":
                answer = _plain_text(turns.pop()["content"])
            if system and not any(turn["role"] == "system" for turn in turns):
                turns.insert(0, {"role": "system", "content": system})
        else:
            turns = [{"role": "system", "content": system}] if system else []
            turns.append({"role": "user", "content": example.question or ""})
            answer = example.answer
        return self._with_images(turns, len(example.pictures), example), answer

    def _with_images(
        self, turns: list[dict[str, Any]], images: int, example: Example
    ) -> list[dict[str, Any]]:
        there = sum(
            part.get("type") in ("image", "image_url")
            for turn in turns
            if isinstance(turn["content"], list)
            for part in turn["content"]
        )
        missing = images - there
        if there and missing:
            raise ExampleError(
                f"{example.where}: its messages have {there} images, the example has {images}"
            )
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if missing and not self._sees:
            raise ExampleError(
                f"{example.where} has an image, but the model takes texts only; leave out the "
                "image column or take a vision-language model"
            )
        if self._listed:
            for turn in turns:
                if isinstance(turn["content"], str):
                    turn["content"] = [{"type": "text", "text": turn["content"]}]
            if missing and first is not None:
                first["content"] = [{"type": "image"}] * missing + list(first["content"])
        elif missing and first is not None:
            said = first["content"]
            if self._image_token not in said:
                first["content"] = self._image_token * missing + "\n" + said
        return turns

    def _apply(
        self, turns: Sequence[Mapping[str, Any]], example: Example, *, going_on: bool = False
    ) -> str:
        options = dict(self._options)
        options |= {"continue_final_message": True} if going_on else {"add_generation_prompt": True}
        try:
            text = self._owner.apply_chat_template(
                [dict(turn) for turn in turns],
                chat_template=self.template,
                tokenize=False,
                **options,
            )
        except Exception as problem:  # Jinja raises whatever a template's author chose
            said = " ".join(str(problem).split())
            if type(problem).__name__ == "TemplateSyntaxError":  # nor would any other example do
                line = getattr(problem, "lineno", "?")
                raise UsageError(f"the chat template, line {line}: {said}") from problem
            raise ExampleError(
                f"{example.where}: the chat template refuses the conversation: {said}"
            ) from problem
        return str(text)

    def _spans(
        self, turns: list[dict[str, Any]], text: str, example: Example
    ) -> list[tuple[int, int, str]]:
        """Return where each message's texts stand in the prompt, under its own role."""
        said = [(str(turn["role"]), piece) for turn, piece in _pieces(turns)]
        fixed = self._around(turns, example)
        if fixed is not None:
            spans = _laid_out(fixed, said, text)
            if spans is not None:
                return spans
        # The template treats these texts in a way of its own: look for them in order.
        spans, at = [], 0
        for role, piece in said:
            start = text.find(piece.strip(), at)
            if start >= 0 and piece.strip():
                at = start + len(piece.strip())
                spans.append((start, at, role))
        return spans

    def _around(self, turns: list[dict[str, Any]], example: Example) -> _Around | None:
        """Return what the template writes before, between and after the texts, and their order."""
        shape = _shape(turns)
        if shape not in self._shapes:
            try:
                marked = self._apply(_marked(turns), example)
            except ExampleError:
                marked = ""
            parts = _MARKED.split(marked)
            order = [int(number) for number in parts[1::2]]
            each_once = sorted(order) == list(range(len(_pieces(turns))))
            self._shapes[shape] = _Around(parts[0::2], order) if each_once else None
        return self._shapes[shape]

    def _default_system(
        self, turns: list[dict[str, Any]], text: str, example: Example
    ) -> list[tuple[int, int, str]]:
        """Return where a system prompt stands that the template put there by itself."""
        shape = _shape(turns)
        if shape not in self._injected:
            content: Any = "."
            content = [{"type": "text", "text": content}] if self._listed else content
            asked = [{"role": "system", "content": content}, *turns]
            plain, with_system = self._around(turns, example), self._around(asked, example)
            span = None
            if plain and with_system and with_system.order[0] == 0:
                (before, after, *_), first = with_system.parts, plain.parts[0]
                start, end = len(before), len(first) - len(after)
                if start < end and first.startswith(before) and first.endswith(after):
                    span = (start, end)
            self._injected[shape] = span
        span = self._injected[shape]
        plain = self._around(turns, example)
        if span is None or not plain or not text.startswith(plain.parts[0]):
            return []
        return [(*span, "system")]

    def _question(
        self,
        example: Example,
        turns: list[dict[str, Any]],
        spans: Sequence[tuple[int, int, str]],
        text: str,
    ) -> Span | None:
        """Return where the question stands: in the last message of the user that holds it.

        What a tool has answered is no question; only where nobody is called the user, all are that
        are neither the model's nor the system's.
        """
        own = [(start, end) for start, end, role in spans if role == "user"]
        asked = own or [(start, end) for start, end, role in spans if role not in _ROLES]
        wanted = (example.question or "").strip()
        if not wanted:
            return asked[-1] if asked and example.question is None else None
        for start, end in reversed(asked):
            at = text.rfind(wanted, start, end)
            if at >= 0:
                return at, at + len(wanted)
        return None

    def _answered(
        self, turns: list[dict[str, Any]], answer: str, prompt: str, example: Example
    ) -> tuple[str, int]:
        """Return the prompt with the answer after it, and where the answer begins.

        The template's own way of beginning an answer is taken where it only adds white space.
        """
        content: Any = [{"type": "text", "text": answer}] if self._listed else answer
        if answer and answer == answer.strip():
            try:
                whole = self._apply(
                    [*turns, {"role": "assistant", "content": content}], example, going_on=True
                )
            except ExampleError:
                whole = ""
            rest = whole[len(prompt) :]
            if whole.startswith(prompt) and rest.strip() == answer:
                start = len(prompt) + len(rest) - len(rest.lstrip())
                return whole[: start + len(answer)], start
        return prompt + answer, len(prompt)

    def _raw(self, example: Example) -> Rendered:
        if example.messages is not None:
            raise ExampleError(
                f"{example.where} is a conversation, which needs a chat template; the tokenizer "
                "has none, or --raw was given"
            )
        system = example.system if example.system is not None else self._system
        asked = example.question or ""
        images = len(example.pictures)
        if images and not self._sees:
            raise ExampleError(
                f"{example.where} has an image, but the model takes texts only; leave out the "
                "image column or take a vision-language model"
            )
        before = ""
        if images and self._image_token not in asked:
            before = self._image_token * images
        spans: list[tuple[int, int, str]] = []
        if system:
            spans.append((len(before), len(before) + len(system), "system"))
            before += system + "\n\n"
        text = before + asked
        question = (len(before), len(text))
        spans.append((*question, "user"))
        if example.answer is None:
            return Rendered(text, question if asked else None, None, tuple(spans), False)
        joined = not text or text[-1].isspace() or example.answer[:1].isspace()
        text += "" if joined else " "
        answer = (len(text), len(text) + len(example.answer))
        spans.append((*answer, "assistant"))
        return Rendered(text + example.answer, question, answer, tuple(spans), False)


def _of_schema(spans: Sequence[tuple[int, int, str]]) -> tuple[tuple[int, int, str], ...]:
    """Return where texts stand under the schema's roles: who is none of these is like a user."""
    return tuple(sorted((start, end, _ROLES.get(role, "user")) for start, end, role in spans))


def _named(templates: Any) -> str:
    """Return the default one of several named templates."""
    if isinstance(templates, Mapping):
        return str(templates.get("default") or next(iter(templates.values())))
    return _named({each["name"]: each["template"] for each in templates})


def _plain_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")


def _pieces(turns: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return each text of a conversation with its turn, in order."""
    found = []
    for turn in turns:
        if isinstance(turn["content"], str):
            found.append((turn, turn["content"]))
            continue
        for part in turn["content"]:
            if part.get("type") == "text":
                found.append((turn, str(part.get("text", ""))))
    return found


def _marked(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation with a numbered mark in place of each text."""
    number = -1
    marked = []
    for turn in turns:
        content = turn["content"]
        if isinstance(content, str):
            number += 1
            content = _MARK.format(number)
        else:
            parts = []
            for part in content:
                if part.get("type") == "text":
                    number += 1
                    part = {**part, "text": _MARK.format(number)}
                parts.append(part)
            content = parts
        marked.append({**turn, "content": content})
    return marked


def _shape(turns: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Return what conversations have in common that differ in their texts only."""
    return tuple(
        (
            turn["role"],
            None
            if isinstance(turn["content"], str)
            else tuple(part.get("type") for part in turn["content"]),
        )
        for turn in turns
    )


def _laid_out(
    around: _Around, said: Sequence[tuple[str, str]], text: str
) -> list[tuple[int, int, str]] | None:
    """Return where texts stand, given as ``(role, text)``, by what stands between them.

    A template may strip a text, or leave a part of it out (thoughts): what it made of it is its
    own. None where the prompt is not laid out so.
    """
    if not text.startswith(around.parts[0]):
        return None
    spans, at = [], len(around.parts[0])
    for number, after in zip(around.order, around.parts[1:], strict=True):
        role, whole = said[number]
        for variant in (whole, whole.strip(), whole.lstrip(), whole.rstrip()):
            if text.startswith(variant + after, at):
                end = at + len(variant)
                break
        else:
            end = text.find(after, at) if after else -1
        if end < 0:
            return None
        spans.append((at, end, role))
        at = end + len(after)
    return spans if at == len(text) else None
