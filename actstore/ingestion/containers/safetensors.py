"""Opens safetensors files; the tensors stay in the mapped file until they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from actstore.errors import LayoutError, UnreadableFileError, UnsafeFileError
from actstore.ingestion.containers.sniffing import describe
from actstore.ingestion.tensor import Tensor

# The format's own limit.
_MAX_HEADER: Final = 100_000_000


def read(path: Path, *, memory_limit: int) -> Any:
    """``{name: Tensor}`` in the file's order of names, and its metadata, if any, as
    ``__metadata__``: a dict of text.

    Raises as :func:`actstore.ingestion.containers.read` says.
    """
    metadata = _metadata(path)
    try:
        # torch rather than NumPy, which has no bfloat16.
        from safetensors import safe_open

        with safe_open(path, framework="pt", device="cpu") as file:
            # The keys in the order of their bytes in the file, which is reading order.
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except MemoryError as error:
        raise UnsafeFileError("loading it exhausts the memory", path) from error
    except Exception as error:
        # SafetensorError for what its reader checks, and whatever torch raises for the rest.
        raise UnreadableFileError(
            f"is no whole safetensors file ({str(error)[:200]}); write or fetch it again", path
        ) from error
    tree: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    for name, tensor in tensors.items():
        try:
            tree[name] = Tensor(tensor)
        except LayoutError as error:
            raise LayoutError(f"{name}: {error}", path) from error
    return tree


def _metadata(path: Path) -> dict[str, str] | None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise UnreadableFileError(
                    f"is no whole safetensors file: its header announces {length:,} bytes, "
                    f"the file holds {size:,}; it is {describe(path)}",
                    path,
                )
            if length > _MAX_HEADER:
                raise UnsafeFileError(
                    f"its header takes {length:,} bytes, the format allows {_MAX_HEADER:,}", path
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error}", path) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UnreadableFileError(
            f"is no safetensors file but {describe(path)}: its header is not JSON", path
        ) from error
    found = header.get("__metadata__") if isinstance(header, dict) else None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise UnreadableFileError("its __metadata__ is not a table of text", path)
    return {str(key): str(value) for key, value in found.items()}
