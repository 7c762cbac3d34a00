"""Turns examples into the model's input: token ids, masks, and the region of each token."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from actstore import schema
from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.images import image_sizes, open_images
from actstore.capturing.prompts.rendering import Rendered, Renderer, Span
from actstore.capturing.prompts.token_spans import ByOffsets, BySearch, TextPlace, bare
from actstore.errors import ExampleError

Side = Literal["left", "right"]

PAD = -1
"""The role of padding."""
ROLES: tuple[str, ...] = tuple(schema.document()["token_roles"])
"""Names of the roles; ``Batch.roles`` counts into them."""
_ROLE = {name: number for number, name in enumerate(ROLES)}
IMAGE_TOKENS = 256
_SPLIT = 5
"""Pieces of an image for Idefics 2, the whole one included."""
"""Guess at the tokens of an image, where its processor cannot say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBatch:
    """What the model is given at once: ``B`` examples, padded to ``T`` tokens."""

    examples: list[Example]
    inputs: dict[str, Any]
    """Everything the processor returned, on the CPU; ``input_ids`` and ``attention_mask`` are
    int64 ``[B, T]``."""
    regions: dict[str, torch.Tensor]
    """Bool ``[B, T]`` per region: prompt, question, image, answer, all. Padding is False."""
    roles: np.ndarray
    """Int8 ``[B, T]``: index into :data:`ROLES`, -1 where there is padding."""
    rendered: list[str]
    """The prompts as text, images not yet expanded."""

    @property
    def tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.inputs["attention_mask"].sum())

    @property
    def images(self) -> int:
        """Images among the examples."""
        return sum(len(example.pictures) for example in self.examples)


_FORCED = "examples come with an answer: it is appended to the prompt (teacher forcing)"


class _Encoded(NamedTuple):
    """One prompt of a text model, tokenized."""

    rendered: Rendered
    ids: list[int]
    offsets: list[Span] | None


class Prompter:
    """Makes batches for one model."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        chat_template: bool | str = True,
        system: str | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Look at the tokenizer, and at the chat template if one is wanted.

        Args:
            model: its configuration names the image token, its ``forward`` the inputs it takes.
            processor: a tokenizer, or the processor of a model that sees images.
            chat_template: True for the model's own, False for raw texts, or a template's text.
            system: system prompt of all examples that have none of their own.
            template_options: variables for the template, such as ``{"enable_thinking": False}``.

        Raises:
            UsageError: template options without a template.
        """
        self.tokenizer: Any = getattr(processor, "tokenizer", processor)
        self.processor: Any = processor
        self.sees = self.tokenizer is not processor
        """Whether the model takes images."""
        self._renderer = Renderer(
            processor, chat_template=chat_template, system=system, options=template_options
        )
        self._bos: int | None = self.tokenizer.bos_token_id
        self._special = _special_ids(self.tokenizer)
        self._image_ids = _image_ids(model, processor) if self.sees else []
        self._taken = set(inspect.signature(model.forward).parameters)
        config = getattr(model, "config", None)
        text_config = config.get_text_config(decoder=True) if config is not None else None
        self._most: int | None = getattr(text_config, "max_position_embeddings", None)
        self.keys: int | None = None
        """Tokens that a prompt may have besides: as many as attention patterns have keys."""
        self._fast = bool(getattr(self.tokenizer, "is_fast", False))
        self._ready: dict[int, tuple[Example, _Encoded]] = {}
        self.notes: list[str] = list(self._renderer.notes)
        """What the user should know about the prompts."""

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the prompts what they are, for the run's record."""
        tokenizer = self.tokenizer
        return self._renderer.settings | {
            "tokenizer": type(tokenizer).__name__,
            "vocabulary": len(tokenizer),
            "processor": type(self.processor).__name__ if self.sees else None,
        }

    @property
    def pad_id(self) -> int:
        """The id that fills up shorter prompts; the mask hides it, whatever it is."""
        for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
            number = getattr(self.tokenizer, name, None)
            if number is not None:
                return int(number)
        return 0

    def length(self, example: Example) -> int:
        """Return how many tokens the example's prompt has (about, if it has images)."""
        return self.lengths([example])[0]

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Return how many tokens each prompt has (about, if it has images).

        What is tokenized here is kept until :meth:`batch` asks for it.

        Raises:
            ExampleError: a prompt cannot be rendered, or is too long for the model.
        """
        encoded = self._encode(examples)
        found = []
        for example, each in zip(examples, encoded, strict=True):
            length = len(each.ids)
            if self.sees:
                length += self._image_tokens(example) - len(example.pictures)
            else:
                self._ready[id(example)] = (example, each)
            found.append(length)
        return found

    def kind(self, example: Example) -> bool:
        """Return what examples of one batch must have in common: whether there are images."""
        return bool(example.pictures)

    def batch(self, examples: Sequence[Example], padding_side: Side = "left") -> PromptBatch:
        """Return the input for ``examples``.

        Raises:
            ExampleError: a prompt cannot be rendered, has no tokens or too many, or an image
                cannot be opened.
        """
        if self.sees:
            return self._processed(list(examples), padding_side)
        return self._tokenized(list(examples), padding_side)

    def decode(self, ids: Sequence[int]) -> str:
        """Return a response as text: without special tokens and without white space around."""
        return self._text(ids).strip()

    def answer_mask(self, ids: Sequence[int], span: Span | None) -> list[bool]:
        """Return which tokens of a response hold the characters ``span`` of its text.

        Args:
            ids: the response.
            span: characters of ``decode(ids)``, as a
                :class:`~actstore.capturing.forward.grading.Grade` has them; None marks nothing.
        """
        if span is None:
            return [False] * len(ids)
        whole = self._text(ids)
        shift = len(whole) - len(whole.lstrip())
        start, end = span[0] + shift, span[1] + shift
        mask, at = [], 0
        for number in range(1, len(ids) + 1):
            # A character may take several tokens; until the last one it decodes to U+FFFD.
            text = self._text(ids[:number])
            shown = len(text.rstrip("\ufffd")) if number < len(ids) else len(whole)
            shown = max(at, min(shown, len(whole)))
            unfinished = text.endswith("\ufffd") and number < len(ids)
            upto = min(shown + 1, len(whole)) if unfinished else shown
            mask.append(at < end and upto > start and upto > at)
            at = shown
        return mask

    def find(self, text: str, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Return the last run of tokens of a prompt that holds ``text``: bool ``[T]``."""
        return BySearch(self._text_of, ids, real).tokens((0, len(text)), text)

    @property
    def known_ids(self) -> dict[str, Any]:
        """The ids of special tokens: ``special_ids``, ``bos_id`` (or None) and ``image_ids``."""
        return {
            "special_ids": self._special,
            "bos_id": self._bos,
            "image_ids": self._image_ids,
        }

    def _text(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _encode(self, examples: Sequence[Example]) -> list[_Encoded]:
        """Render and tokenize, without padding and without expanding images."""
        rendered = [self._renderer.render(example) for example in examples]
        found: dict[int, _Encoded] = {}
        for adds in (False, True):
            chosen = [at for at, each in enumerate(rendered) if self._adds_special(each) is adds]
            if not chosen:
                continue
            encoded = self.tokenizer(
                [rendered[at].text for at in chosen],
                add_special_tokens=adds,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_offsets_mapping=self._fast,
                verbose=False,
            )
            for row, at in enumerate(chosen):
                ids = list(encoded["input_ids"][row])
                offsets = list(encoded["offset_mapping"][row]) if self._fast else None
                self._check_length(examples[at], len(ids))
                found[at] = _Encoded(rendered[at], ids, offsets)
        return [found[at] for at in range(len(examples))]

    def _adds_special(self, rendered: Rendered) -> bool:
        """Return whether the tokenizer shall add its special tokens, so that BOS comes once."""
        bos = self.tokenizer.bos_token
        if bos and rendered.text.startswith(bos):
            return False
        # A tokenizer's template writes all special tokens; a processor's may leave BOS out.
        return self.sees or not rendered.templated

    def _check_length(self, example: Example, length: int) -> None:
        if not length:
            raise ExampleError(f"{example.where}: the prompt has no tokens")
        if self._most is not None and length > self._most:
            raise ExampleError(
                f"{example.where}: the prompt has {length:,} tokens, the model takes {self._most:,}"
            )
        if self.keys is not None and length > self.keys:
            raise ExampleError(
                f"{example.where}: the prompt has {length:,} tokens, and attention patterns have "
                f"room for {self.keys:,}: give a --pattern-length of {length} or more"
            )

    def _image_tokens(self, example: Example) -> int:
        sizes = image_sizes(example)
        if not sizes:
            return 0
        try:
            counted = self.processor._get_num_multimodal_tokens(image_sizes=sizes)
            return int(sum(counted["num_image_tokens"]))
        except Exception:  # not every processor can say; lengths only sort and size batches
            each = getattr(self.processor, "image_seq_len", None) or IMAGE_TOKENS
            tool = getattr(self.processor, "image_processor", None)
            parts = _SPLIT if getattr(tool, "do_image_splitting", False) else 1
            return int(each) * parts * len(sizes)

    def _tokenized(self, examples: list[Example], side: Side) -> PromptBatch:
        """Pad by hand: the tokenizer stays as its owner configured it."""
        kept = [self._ready.pop(id(example), None) for example in examples]
        missing = [e for e, k in zip(examples, kept, strict=True) if k is None]
        fresh = iter(self._encode(missing) if missing else ())
        rows = [k[1] if k is not None else next(fresh) for k in kept]
        longest = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), longest), self.pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for number, row in enumerate(rows):
            start = longest - len(row.ids) if side == "left" else 0
            place = slice(start, start + len(row.ids))
            ids[number, place] = row.ids
            mask[number, place] = 1
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return self._described(
            examples,
            inputs,
            [row.rendered for row in rows],
            [(row.offsets, ()) if row.offsets is not None else None for row in rows],
        )

    def _processed(self, examples: list[Example], side: Side) -> PromptBatch:
        """Let the processor prepare images and expand their tokens."""
        rendered = [self._renderer.render(example) for example in examples]
        images = [open_images(example) for example in examples]
        adds = {self._adds_special(each) for each in rendered}
        if len(adds) > 1:
            raise ExampleError(
                f"{examples[0].where}: some prompts of the batch begin with "
                f"{self.tokenizer.bos_token!r} and some do not; write it into all or none"
            )
        options: dict[str, Any] = {
            "text": [each.text for each in rendered],
            "images": images if any(images) else None,
            "return_tensors": "pt",
            "padding": True,
            "padding_side": side,
            "add_special_tokens": adds.pop(),
        }
        with _pad_token(self.tokenizer), warnings.catch_warnings():
            # What processors use of NumPy is not our user's to repair.
            warnings.simplefilter("ignore", DeprecationWarning)
            located = self._fast
            try:
                extra = {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
                found = self.processor(**options, **(extra if located else {}))
            except (TypeError, ValueError) as problem:
                others = f" and {len(examples) - 1} more" if len(examples) > 1 else ""
                raise ExampleError(
                    f"{examples[0].where}{others}: the processor refuses the prompt: {problem}"
                ) from problem
        inputs = {name: value for name, value in dict(found).items() if name != "labels"}
        offsets = inputs.pop("offset_mapping", None)
        replaced = inputs.pop("text_replacement_offsets", None)
        replaced = replaced if isinstance(replaced, list) else None  # a tensor if all are empty
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        places: list[TextPlace | None] = [None] * len(examples)
        if offsets is not None and (replaced or not any(images)):
            shifts: Sequence[Any] = replaced or [()] * len(examples)
            for row in range(len(examples)):
                pairs = [(int(a), int(b)) for a, b in offsets[row]]
                places[row] = (pairs, tuple(shifts[row]))
        batch = self._described(examples, inputs, rendered, places)
        for example, length in zip(examples, inputs["attention_mask"].sum(1).tolist(), strict=True):
            self._check_length(example, length)
        return batch

    def _described(
        self,
        examples: list[Example],
        inputs: dict[str, Any],
        rendered: list[Rendered],
        places: Sequence[TextPlace | None],
    ) -> PromptBatch:
        ids: np.ndarray = inputs["input_ids"].numpy()
        real = inputs["attention_mask"].numpy().astype(bool)
        image = np.isin(ids, self._image_ids) & real
        kinds = inputs.get("mm_token_type_ids")
        if kinds is not None:
            image |= (kinds.numpy() == 1) & real
        roles = np.full(ids.shape, PAD, np.int8)
        roles[real] = _ROLE["special"]
        question, answer = np.zeros_like(real), np.zeros_like(real)
        for row, (each, place) in enumerate(zip(rendered, places, strict=True)):
            finder = self._finder(each, place, ids[row], real[row])
            for start, end, role in each.roles:
                roles[row, finder.tokens((start, end), each.text) & real[row]] = _ROLE[role]
            if each.question is not None:
                question[row] = finder.tokens(each.question, each.text) & real[row]
            if each.answer is not None:
                answer[row] = finder.tokens(each.answer, each.text) & real[row]
        roles[np.isin(ids, self._special) & real] = _ROLE["special"]
        roles[image] = _ROLE["image"]
        if self._bos is not None:
            first = (real & ~image).argmax(1)  # PaliGemma puts images before it
            every = np.arange(len(ids))
            begins = (ids[every, first] == self._bos) & real[every, first]
            roles[every[begins], first[begins]] = _ROLE["bos"]
        masks = {"prompt": real, "question": question & ~image, "image": image}
        if any(each.answer is not None for each in rendered):
            masks["answer"] = answer
            if _FORCED not in self.notes:
                self.notes.append(_FORCED)
        masks["all"] = real
        if "token_type_ids" in inputs and "token_type_ids" not in self._taken:
            del inputs["token_type_ids"]
        return PromptBatch(
            examples=examples,
            inputs=inputs,
            regions={name: torch.from_numpy(mask.copy()) for name, mask in masks.items()},
            roles=roles,
            rendered=[each.text for each in rendered],
        )

    def _finder(
        self, rendered: Rendered, place: TextPlace | None, ids: np.ndarray, real: np.ndarray
    ) -> ByOffsets | BySearch:
        """Return what finds tokens by characters: by offsets if they can be believed."""
        searched = BySearch(self._text_of, ids, real)
        if place is None:
            return searched
        finder = ByOffsets(*place, real)
        if self.sees:
            # Some processors write more around our prompt than they tell (PaliGemma's BOS).
            for start, end, _ in rendered.roles:
                found = self._text_of(ids[finder.tokens((start, end), rendered.text) & real])
                if bare(rendered.text[start:end]) not in bare(found):
                    return searched
        return finder

    def _text_of(self, ids: np.ndarray) -> str:
        return str(self.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))


@contextmanager
def _pad_token(tokenizer: Any) -> Iterator[None]:
    """Lend a tokenizer without a padding token its end token while it pads."""
    if tokenizer.pad_token is not None:
        yield
        return
    lent = tokenizer.eos_token or tokenizer.bos_token or tokenizer.unk_token
    tokenizer.pad_token = lent
    try:
        yield
    finally:
        tokenizer.pad_token = None


def _special_ids(tokenizer: Any) -> list[int]:
    found = set(tokenizer.all_special_ids)
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    found |= {number for number, token in added.items() if getattr(token, "special", False)}
    return sorted(int(number) for number in found)


def _image_ids(model: Any, processor: Any) -> list[int]:
    config = getattr(model, "config", None)
    candidates: list[Any] = [getattr(config, "image_token_id", None)]
    if candidates == [None]:
        candidates = list(getattr(processor, "image_token_ids", None) or ())
    return sorted({int(number) for number in candidates if number is not None})
