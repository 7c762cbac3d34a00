"""Reads pickles of hook activations, one question each, with verdicts from the result logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from actstore import schema
from actstore.errors import ForeignFileError, LayoutError
from actstore.ingestion.axes import interpret
from actstore.ingestion.documents import rest, to_json
from actstore.ingestion.readers import Reader, reader
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.storage.rows import RowBatch

AXES = {3: ("batch", "token", "hidden"), 2: ("token", "hidden"), 1: ("hidden",)}
_LAYER = re.compile(r"layer_(\d+)")
_QUESTION = "Question:\n"
_ANSWER = re.compile(r"FINAL ANSWER:\s*(.+)", re.IGNORECASE | re.DOTALL)
_CATEGORIES = ("initial", "edited_with_error")


class Log(NamedTuple):
    """One result log: a sub-question of a question that was answered correctly."""

    model: str
    """Empty where the folder that was named does not show it."""
    content: dict[str, Any]


@dataclass(slots=True)
class Logs:
    """All logs of one results folder."""

    by_question: dict[str, list[Log]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)

    def verdict(self, model: str | None, question: str) -> tuple[str | None, list[Log]]:
        """Return the label of a question and the logs that speak of it."""
        if not self.models & {model, ""}:
            return None, []  # no log of this model: nothing can be said
        found = [log for log in self.by_question.get(question, ()) if log.model in ("", model)]
        return ("correct" if found else "incorrect"), found


@reader("hook-pickle")
class HookPickle(Reader):
    """Reads one dictionary per question."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._logs: dict[Path, Logs] = {}

    def fits(self, document: Any) -> bool:
        """Say whether there is a prompt and a dictionary of tensors."""
        activations = document.get("activations") if isinstance(document, dict) else None
        return (
            isinstance(document.get("prompt"), str)
            and isinstance(activations, dict)
            and bool(activations)
            and all(
                isinstance(tensor, Tensor)
                and tensor.ndim == 3
                and (name == "embeddings" or _LAYER.fullmatch(str(name)))
                for name, tensor in activations.items()
            )
        )

    def one_each(self, file: SourceFile) -> bool:
        """Every file holds one question."""
        return True

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield one row per layer, or one per layer and token.

        Raises:
            ForeignFileError: it holds neither a prompt nor activations; the recipe takes
                files of any name, so other pickles may lie among them.
            LayoutError: an entry is missing or of another kind, or the layers differ in
                their number of tokens.
            SidecarError: a result log cannot be read.
        """
        if not isinstance(document, dict) or not {"prompt", "activations"} & set(document):
            raise ForeignFileError("it holds no activations: neither 'prompt' nor 'activations'")
        if not self.fits(document):
            raise LayoutError(
                "expected a text under 'prompt' and a dictionary of tensors under 'activations'"
            )
        tensors = {str(key): tensor for key, tensor in document["activations"].items()}
        grids = {key: interpret(tensor, AXES) for key, tensor in tensors.items()}
        counts = {grid.tokens for grid in grids.values()}
        if len(counts) > 1:
            found = ", ".join(f"{key} {grid.tokens or 1}" for key, grid in grids.items())
            raise LayoutError(f"the layers differ in their number of tokens: {found}")
        tokens = counts.pop()
        ids = _token_ids(document.get("input_ids"))
        shared = self._shared(file, document, in_tokens=tokens is not None)
        covered = tokens is not None and ids is not None and tokens >= len(ids)
        region = "all"
        if covered and tokens == len(ids or ()):
            region = "prompt"
        for key, grid in grids.items():
            layer, site = _place(key)
            source = f"{file.relative}#activations.{key}"
            self.context.forms.note(source, dtype=tensors[key].dtype, rank=tensors[key].ndim)
            constant = constants(
                self.context,
                file,
                document,
                **shared,
                layer=layer,
                site=site,
                pooling="last",
                region="response",
                source=source,
            )
            yield from batches(
                self.context,
                grid,
                constant,
                pooled_region=region,
                token_columns=_token_columns(ids or [], tokens or 0) if covered else None,
            )

    def _shared(
        self, file: SourceFile, document: Mapping[str, Any], *, in_tokens: bool
    ) -> dict[str, Any]:
        prompt = document["prompt"]
        question = _question(prompt)
        model = document.get("model")
        response = document.get("response")
        label, logs = self._verdict(file, model, question)
        stamp = document.get("timestamp")
        taken = ["activations", "model", "response"]
        # The ids stand beside the tokens; nothing else would tell them for a single vector.
        if in_tokens and self.context.options.pool is None:
            taken.append("input_ids")
        if prompt == question:
            taken.append("prompt")
        left = rest(document, taken)
        for name in left.cut:
            self.context.notes.count(f"{name} was too long for the column extra")
        extra = dict(left.values)
        answer = _ANSWER.search(response) if isinstance(response, str) else None
        if answer:
            extra["final_answer"] = answer[1].strip()
        if logs:
            extra["logs"] = [log.content for log in logs]
        return {
            "example_id": file.parts["stem"],
            "question": question,
            "prediction": response,
            "label": label,
            "model": model,
            "captured_at": self._moment(stamp),
            "extra": to_json(extra),
        }

    def _moment(self, stamp: Any) -> str | None:
        """Return a timestamp as ISO 8601 in UTC, or None where it is none."""
        try:
            moment = datetime.fromisoformat(stamp)
        except (TypeError, ValueError):
            return None
        if moment.tzinfo is None:
            self.context.notes.say("timestamps name no time zone and are taken for UTC")
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def _verdict(
        self, file: SourceFile, model: str | None, question: str
    ) -> tuple[str | None, list[Log]]:
        folder = self.context.sidecars.path("results", file)
        if folder is None:
            return None, []
        if folder not in self._logs:
            self._logs[folder] = _read_logs(
                folder, lambda path: self.context.sidecars.document("results", path, file)
            )
            self.context.sidecars.used.setdefault("results", set()).add(folder)
            if self._logs[folder].models:
                self.context.notes.say(
                    f"labels from the logs in {folder.name}: a question in them was answered "
                    "correctly, any other of the same model counts as incorrect"
                )
        return self._logs[folder].verdict(model, question)


def _place(key: str) -> tuple[int | None, str]:
    match = _LAYER.fullmatch(key)
    if match:
        return int(match[1]), "resid_post"
    site, layer = schema.canonical_site(key)
    return layer, site


def _question(prompt: str) -> str:
    """Return what was asked: the writer wraps it as ``…Question:\\n{question}\\n``."""
    before, mark, after = prompt.partition(_QUESTION)
    if not mark or (before and not before.endswith("\n")):
        return prompt
    return after.removesuffix("\n")


def _token_ids(value: Any) -> list[int] | None:
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
        return value
    return None


def _token_columns(ids: Sequence[int], tokens: int) -> dict[str, list[Any]]:
    generated = tokens - len(ids)
    return {
        "token_id": [*ids, *[None] * generated],
        "token_role": [None] * len(ids) + ["generated"] * generated,
    }


def _read_logs(folder: Path, read: Callable[[Path], Any]) -> Logs:
    """Read ``{model}/{benchmark}/{trial}/{category}/*.json``; a model id may span folders."""
    logs = Logs()
    for path in sorted(folder.rglob("*.json")):
        parts = path.relative_to(folder).parts
        if len(parts) < 2 or parts[-2] not in _CATEGORIES:
            continue
        content = read(path)
        if not isinstance(content, dict) or "original_question" not in content:
            continue
        question = str(content.pop("original_question"))
        model = "/".join(parts[:-4])
        found = {"benchmark": parts[-4]} if len(parts) > 3 else {}
        found |= {"trial": parts[-3]} if len(parts) > 2 else {}
        logs.models.add(model)
        logs.by_question.setdefault(question, []).append(Log(model, {**found, **content}))
    return logs
