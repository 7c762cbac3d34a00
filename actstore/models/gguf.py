"""GGUF files as models: finds, checks and describes them before transformers reads them.

The header is read here first, with every length held against the file's size, so that a
truncated or hostile file is refused at once: readers elsewhere believe what it says.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actstore.errors import MissingExtraError, ModelError
from actstore.wording import counted

SUFFIX = ".gguf"
MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# Formats of values by their number in the file; strings (8) and arrays (9) have lengths.
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_FLOATS = {"F64", "F32", "F16", "BF16"}
_ROPE = "rope_freqs.weight"
_SCALED = {"gpt-oss"}
"""Architectures whose rescaled positions transformers reads from the file."""
_UNKNOWN = ("is not supported yet", "Unknown gguf model_type", "Unrecognized model")
"""How transformers says that it does not know an architecture, or a tokenizer of one."""
_DIMENSIONS = 4
_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF file says of itself, with what of it was checked."""

    path: Path
    architecture: str
    values: Mapping[str, Any]
    """Metadata; of arrays only their lengths."""
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    """Shape, fastest dimension first, and type of each tensor by its name."""

    @property
    def blocks(self) -> int | None:
        """How many blocks the model has, as far as the file says."""
        found = self.values.get(f"{self.architecture}.block_count")
        return found if isinstance(found, int) else None

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, the most values first."""
        count: Counter[str] = Counter()
        size: Counter[str] = Counter()
        for shape, kind in self.tensors.values():
            count[kind] += 1
            size[kind] += math.prod(shape)
        return {kind: count[kind] for kind, _ in size.most_common()}

    @property
    def quantization(self) -> str | None:
        """The type of most of the values; None where all are floating point."""
        return next((kind for kind in self.types if kind not in _FLOATS), None)


def find(name: str) -> Path | None:
    """Return the GGUF file that ``name`` means: the file, or the only one in a folder.

    None where ``name`` is something else: a folder with a ``config.json``, an id on the Hub.

    Raises:
        ModelError: no such file, one of another name, or a folder with several.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "config.json").is_file():
            return None
        files = sorted(each for each in path.iterdir() if each.suffix.lower() == SUFFIX)
        if not files:
            return None
        if len(files) > 1:
            shown = ", ".join(each.name for each in files[:5])
            more = f" and {len(files) - 5} more" if len(files) > 5 else ""
            raise ModelError(
                f"{name} holds {len(files)} GGUF files ({shown}{more}): name the one to load, "
                f"such as {path / files[0].name}"
            )
        path = files[0]
    elif path.suffix.lower() != SUFFIX and not (path.is_file() and _has_magic(path)):
        return None
    elif not path.is_file():
        raise ModelError(f"{name}: no such file")
    if path.suffix != SUFFIX:
        raise ModelError(
            f"{path} is a GGUF file, but transformers knows them by names that end in {SUFFIX}: "
            f"rename it, or link to it (ln -s {path.name} {path.stem}{SUFFIX})"
        )
    return path


def check(path: Path) -> Header:
    """Read the header of ``path`` and hold it against the file.

    Raises:
        MissingExtraError: the package gguf is not installed.
        ModelError: no GGUF file, a truncated or inconsistent one, or a part of one.
    """
    if find_spec("gguf") is None:
        raise MissingExtraError(f"reading {path.name}, a GGUF file,", "gguf")
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ModelError(
                    f"{path} is no GGUF file: it does not begin with the letters GGUF; expected "
                    "a model's folder, a GGUF file, or an id on the Hub"
                )
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                return _Parser(path, mapped).header()
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror or problem}") from None


def describe(header: Header) -> dict[str, Any]:
    """Return what a run's record says of the file; its name, never the folders above it.

    ``notes`` are what a user should know of numbers that come from it.
    """
    return {
        "file": header.path.name,
        "sha256": _sha256(header.path),
        "bytes": header.path.stat().st_size,
        "architecture": header.architecture,
        "quantization": header.quantization,
        "types": header.types,
        "notes": _notes(header),
    }


def origin(model: Any) -> dict[str, Any] | None:
    """Return what is known of the GGUF file that transformers loaded ``model`` from, or None.

    Of a model whose file is not there any more, the name alone.
    """
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    named = getattr(config, "gguf_file", None)
    if not named:
        return None
    path = Path(getattr(model.config, "_name_or_path", "") or "", named)
    try:
        return describe(check(path))
    except (ModelError, MissingExtraError):
        return {"file": path.name, "notes": []}


def _notes(header: Header) -> list[str]:
    name, found = header.path.name, []
    if header.quantization is not None:
        found.append(
            f"{name} holds weights quantised to {header.quantization}, which were unpacked when "
            "they were loaded: the states are those of the quantised model, not of the one it was "
            "made from"
        )
    scaling = header.values.get(f"{header.architecture}.rope.scaling.type", "none")
    if _ROPE in header.tensors or (scaling != "none" and header.architecture not in _SCALED):
        found.append(
            f"{name} rescales its rotary positions, which transformers does not read: the states "
            "differ from those of programs that do, the more the longer the text"
        )
    return found


@contextlib.contextmanager
def quiet_bar() -> Iterator[None]:
    """Let the bar that transformers shows while it unpacks follow its own settings of bars."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    own = reader.tqdm
    reader.tqdm = logging.tqdm
    try:
        yield
    finally:
        reader.tqdm = own


def explain(problem: BaseException, header: Header) -> ModelError:
    """Return our error for what transformers says of a file whose header is sound."""
    text = " ".join(str(problem).split())
    if any(sign in text for sign in _UNKNOWN):
        return ModelError(
            f"{header.path}: transformers cannot read GGUF files of the architecture "
            f"{header.architecture!r}; capture the model it was made from instead"
        )
    if "mismatched_sizes" in text:
        return ModelError(
            f"{header.path} is a damaged GGUF file: its tensors are not of the sizes that its "
            "header speaks of; fetch it once more"
        )
    said = f"{type(problem).__name__}: {text[:300]}" if text else type(problem).__name__
    return ModelError(
        f"{header.path}, a GGUF file of the architecture {header.architecture!r}, cannot be "
        f"loaded: {said}; see whether it is complete, or capture the model it was made from"
    )


def check_loaded(header: Header, missing: Collection[str]) -> None:
    """Make sure that no weight of the model was made up.

    Raises:
        ModelError: the file lacks weights, which transformers would fill with random numbers.
    """
    if missing:
        shown = ", ".join(sorted(missing)[:3])
        raise ModelError(
            f"{header.path}: {counted(len(missing), 'weight')} of the model not found in the file, "
            f"at least not by a name that transformers knows ({shown}"
            f"{' …' if len(missing) > 3 else ''}), so that random numbers would stand there; "
            "capture the model it was made from instead"
        )


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class _Parser:
    """Reads a header front to back; nothing is believed that the file is too short for."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = len(MAGIC)

    def header(self) -> Header:
        version, tensors, keys = self._take("<I"), self._take("<Q"), self._take("<Q")
        if version not in _VERSIONS:
            raise self._wrong(f"its version is {version}; versions 2 and 3 can be read")
        # The shortest key and the shortest tensor's entry take 13 and 24 bytes.
        self._room(13 * keys + 24 * tensors, f"{keys} keys and {tensors} tensors")
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._string()
            if name in values:
                raise self._wrong(f"it has the key {name!r} twice")
            values[name] = self._value(self._take("<I"))
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._wrong("it does not say general.architecture")
        if isinstance(parts := values.get("split.count"), int) and parts > 1:
            raise ModelError(
                f"{self._path} is one of {parts} parts of a model: join them first, with "
                "`llama-gguf-split --merge`"
            )
        table = [self._tensor() for _ in range(tensors)]
        found = self._checked(table, values.get("general.alignment", 32))
        header = Header(path=self._path, architecture=architecture, values=values, tensors=found)
        self._check_sizes(header)
        return header

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self._string(), self._take("<I")
        if not 1 <= dimensions <= _DIMENSIONS:
            raise self._wrong(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._take("<Q") for _ in range(dimensions))
        return name, shape, self._take("<I"), self._take("<Q")

    def _checked(
        self, table: list[tuple[str, tuple[int, ...], int, int]], alignment: Any
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._wrong(f"its alignment is {alignment}; expected a power of two")
        start = -(-self._at // alignment) * alignment
        found: dict[str, tuple[tuple[int, ...], str]] = {}
        for name, shape, number, offset in table:
            if name in found:
                raise self._wrong(f"it has the tensor {name!r} twice")
            try:
                kind = GGMLQuantizationType(number)
            except ValueError:
                raise self._wrong(f"tensor {name!r} is of the unknown type {number}") from None
            block, size = GGML_QUANT_SIZES[kind]
            if shape[0] % block or not math.prod(shape):
                raise self._wrong(f"tensor {name!r} of type {kind.name} has the shape {shape}")
            end = start + offset + math.prod(shape) // block * size
            if end > len(self._data):
                raise self._wrong(
                    f"it ends at byte {len(self._data):,}, and tensor {name!r} would end at {end:,}"
                )
            found[name] = (shape, kind.name)
        return found

    def _check_sizes(self, header: Header) -> None:
        """Make sure the sizes that a model is built by are those of its tensors."""
        numbers = [
            int(parts[1])
            for parts in (name.split(".") for name in header.tensors)
            if parts[0] == "blk" and len(parts) > 2 and parts[1].isdecimal()
        ]
        blocks, found = header.blocks, max(numbers, default=-1) + 1
        if blocks is not None and blocks != found:
            raise self._wrong(f"it speaks of {blocks} blocks and holds tensors of {found}")
        embedding = header.tensors.get("token_embd.weight")
        width = header.values.get(f"{header.architecture}.embedding_length")
        if embedding is not None and isinstance(width, int) and embedding[0][0] != width:
            raise self._wrong(
                f"it speaks of a width of {width}, and its embeddings have {embedding[0][0]}"
            )

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._take(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._wrong(f"at byte {self._at:,} stands a value of the unknown type {kind}")
        element, count = self._take("<I"), self._take("<Q")
        if element in _SCALARS:
            size = count * struct.calcsize(_SCALARS[element])
            self._room(size, f"an array of {count} values")
            self._at += size
        elif element == _STRING:
            self._room(8 * count, f"an array of {count} texts")
            for _ in range(count):
                length = self._take("<Q")
                self._room(length, f"a text of {length} bytes")
                self._at += length
        else:
            raise self._wrong(f"at byte {self._at:,} stands an array of the type {element}")
        return count

    def _string(self) -> str:
        length = self._take("<Q")
        self._room(length, f"a text of {length} bytes")
        text = self._data[self._at : self._at + length]
        self._at += length
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise self._wrong(f"the text before byte {self._at:,} is not UTF-8") from None

    def _take(self, form: str) -> Any:
        size = struct.calcsize(form)
        self._room(size, "a number")
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += size
        return value

    def _room(self, size: int, what: str) -> None:
        if self._at + size > len(self._data):
            raise self._wrong(
                f"it ends at byte {len(self._data):,}, in the middle of {what} from byte "
                f"{self._at:,} on"
            )

    def _wrong(self, what: str) -> ModelError:
        return ModelError(
            f"{self._path} is a damaged or incomplete GGUF file: {what}; fetch it once more"
        )
