"""Reads vLLM's extract_hidden_states files: one request each, all layers of every token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actstore import schema
from actstore.errors import LayoutError, SidecarError, UsageError
from actstore.ingestion.axes import interpret
from actstore.ingestion.documents import to_json
from actstore.ingestion.readers import Context, Reader, reader
from actstore.ingestion.readers.assembly import batches, constants
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.source_file import SourceFile
from actstore.ingestion.tensor import Tensor
from actstore.ingestion.values import convert
from actstore.storage.rows import RowBatch

_STATES, _IDS = "hidden_states", "token_ids"
_AXES = {2: ("token", "hidden")}
_CONFIGURED = "eagle_aux_hidden_state_layer_ids"
_FROM_TABLE = frozenset(schema.metadata_names()) - {
    *("norm", "run_id", "source", "extra", "layer", "site", "pooling"),
    *("position", "token_id", "token_role", "token_count"),
}
"""Columns of the schema that a table of requests may hold."""


@reader("vllm")
class Vllm(Reader):
    """Reads ``{request}.safetensors`` with ``token_ids`` and ``hidden_states``."""

    def __init__(self, recipe: Recipe, context: Context) -> None:
        # Its layers are many, so --map layer=... means a list of numbers, not a key of the file.
        mapped = dict(context.options.map)
        given = mapped.pop("layer", None)
        super().__init__(recipe, replace(context, options=replace(context.options, map=mapped)))
        self._given = None if given is None else _parsed(given)
        self._read: dict[Path, list[int]] = {}

    def fits(self, document: Any) -> bool:
        """Say whether there are states by token and layer, and the tokens' ids."""
        if not isinstance(document, dict):
            return False
        states, ids = document.get(_STATES), document.get(_IDS)
        return (
            isinstance(states, Tensor)
            and isinstance(ids, Tensor)
            and (states.ndim, ids.ndim) == (3, 1)
            and ids.dtype.startswith("int")
        )

    def one_each(self, file: SourceFile) -> bool:
        """Every file holds one request."""
        return True

    def read(self, file: SourceFile, document: Any) -> Iterator[RowBatch]:
        """Yield the rows of one request, layer by layer.

        Raises:
            UsageError: nothing says which layers the states are of.
            LayoutError: the file has another shape, other layers than were said, or fewer
                states than tokens.
            SidecarError: the file with the layers' numbers does not hold them.
        """
        if not self.fits(document):
            raise LayoutError(_expected(document))
        states, ids = document[_STATES], document[_IDS].tolist()
        tokens, layers, _ = states.shape
        if tokens != len(ids):
            raise LayoutError(_incomplete(tokens, len(ids)))
        places = self._places(file, layers)
        record = self._request(file)
        shared = {
            name: convert(name, value)
            for name, value in record.items()
            if name in _FROM_TABLE and value not in (None, "")
        }
        shared = {"example_id": str(file.parts["request"]), **shared}
        left = {
            name: value
            for name, value in record.items()
            if name not in _FROM_TABLE and name != "request_id" and value not in (None, "")
        }
        prompt = _prompt_tokens(left.pop("prompt_tokens", None), len(ids))
        token_columns: dict[str, Sequence[Any]] = {_IDS.removesuffix("s"): ids}
        region = None
        if prompt is not None:
            region = "prompt" if prompt == len(ids) else "all"
            token_columns["token_role"] = [None] * prompt + ["generated"] * (len(ids) - prompt)
        for number, (site, layer) in enumerate(places):
            constant = constants(
                self.context,
                file,
                document,
                **shared,
                site=site,
                layer=layer,
                pooling="none",
                source=f"{file.relative}#{_STATES}.{number}",
                extra=to_json(left),
            )
            grid = interpret(states[:, number], _AXES, squeeze=False)
            yield from batches(
                self.context, grid, constant, pooled_region=region, token_columns=token_columns
            )

    def _places(self, file: SourceFile, layers: int) -> list[tuple[str, int | None]]:
        """Return site and layer of each slice of ``hidden_states``."""
        numbers = self._given
        where = "--map layer"
        if numbers is None:
            path = self.context.sidecars.path("layer-ids", file)
            if path is None:
                if layers == 1 and self.context.options.layer is not None:
                    return [("resid_post", None)]  # filled in by the run
                raise UsageError(
                    f"the files do not record which {layers} layers they hold: name them as vLLM "
                    f"was told in {_CONFIGURED}, such as --map layer=1,9,17,25 (0 is the "
                    "embeddings, k the output of block k - 1), or in layer_ids.json beside them"
                )
            if path not in self._read:
                document = self.context.sidecars.document("layer-ids", path, file)
                self._read[path] = _numbers(path, document)
                self.context.notes.say(f"layer numbers from {path.name}")
            numbers, where = self._read[path], path.name
        if len(numbers) != layers:
            raise LayoutError(
                f"{_STATES} holds {layers} layers, {where} names {len(numbers)}: "
                f"{', '.join(map(str, numbers))}"
            )
        return [("embeddings", -1) if k == 0 else ("resid_post", k - 1) for k in numbers]

    def _request(self, file: SourceFile) -> Mapping[str, Any]:
        table = self.context.sidecars.table("requests", file)
        if table is None:
            return {}
        record = table.find({"request_id": file.parts["request"]})
        self.context.sidecars.asked("requests", file.parts["request"], record is not None)
        return record or {}


def _expected(document: Any) -> str:
    found = ", ".join(
        f"{key} {value.dtype} {list(value.shape)}"
        for key, value in (document.items() if isinstance(document, dict) else ())
        if isinstance(value, Tensor)
    )
    return (
        f"expected {_IDS} [tokens] of whole numbers and {_STATES} [tokens, layers, width]; "
        f"found {found or 'no tensors'}"
    )


def _incomplete(states: int, tokens: int) -> str:
    if states < tokens:
        return (
            f"{_STATES} has {states} tokens, {_IDS} {tokens}: vLLM leaves out tokens whose prefix "
            "was cached, without saying which; run it again with --no-enable-prefix-caching (and "
            "--no-enable-chunked-prefill in versions that need it)"
        )
    return f"{_STATES} has {states} tokens, {_IDS} {tokens}: expected one state per token"


def _prompt_tokens(value: Any, tokens: int) -> int | None:
    """Return how many tokens are the prompt's, where the table of requests says it."""
    if value is None:
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if not 0 < count <= tokens:
        raise LayoutError(
            f"the table of requests says prompt_tokens = {value!r}, the file has {tokens} tokens"
        )
    return count


def _parsed(text: str) -> list[int]:
    """Return the layers' numbers from ``1,9,17``."""
    words = re.split(r"[,\s]+", text.strip().strip("[]").strip())
    if not all(word.isdecimal() for word in words):
        raise UsageError(
            f"--map layer={text}: expected vLLM's layer numbers, such as --map layer=1,9,17,25"
        )
    return _distinct([int(word) for word in words], f"--map layer={text}")


def _distinct(numbers: list[int], where: str) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"{where}: a layer is named twice")
    return numbers


def _numbers(path: Path, document: Any) -> list[int]:
    try:
        numbers = document if isinstance(document, list) else _search(document)
    except RecursionError:
        numbers = None
    if (
        not isinstance(numbers, list)
        or not numbers
        or not all(type(each) is int and each >= 0 for each in numbers)
    ):
        raise SidecarError(
            f"{path}: expected a list of layer numbers, or an object that holds it as {_CONFIGURED}"
        )
    return _distinct(numbers, str(path))


def _search(node: Any) -> Any:
    """Return what stands under the configured name, however deep."""
    if not isinstance(node, dict):
        return None
    if _CONFIGURED in node:
        return node[_CONFIGURED]
    return next((found for each in node.values() if (found := _search(each)) is not None), None)
