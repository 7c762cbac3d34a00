"""Opens the images of examples, whatever they come as."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore import paths
from actstore.capturing.prompts.example import Example
from actstore.errors import ExampleError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def open_images(example: Example) -> list[Image]:
    """Return the images of an example as RGB.

    Raises:
        ExampleError: a file is missing, no image, or an address on the network; names the
            example.
        MissingExtraError: Pillow is not installed.
    """
    opened = []
    for picture in example.pictures:
        with _open(picture, example) as image:
            try:
                opened.append(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as problem:
                raise _no_image(picture, example, problem) from None
    return opened


def image_sizes(example: Example) -> list[tuple[int, int]]:
    """Return ``(height, width)`` of each image; of a file only the head is read.

    Raises:
        ExampleError, MissingExtraError: as for :func:`open_images`.
    """
    sizes = []
    for picture in example.pictures:
        with _open(picture, example) as image:
            width, height = image.size
            sizes.append((height, width))
    return sizes


def image_paths(example: Example) -> list[Path]:
    """Return the paths among the images of an example, as they were given."""
    given = [each.get("path") if isinstance(each, Mapping) else each for each in example.pictures]
    texts = [os.fspath(each) for each in given if isinstance(each, str | os.PathLike)]
    return [Path(str(text)) for text in texts]


def image_digests(example: Example) -> list[str]:
    """Return a hash of each image, wherever it lies; of one that is not there its name."""
    return [_digest(picture, example) for picture in example.pictures]


def _digest(picture: Any, example: Example) -> str:
    try:
        name, content = _content(picture, example)
    except ExampleError:  # a Pillow image, or nothing that could be captured
        name, content = type(picture).__name__, None
    if isinstance(content, io.BytesIO):
        return hashlib.sha256(content.getbuffer()).hexdigest()
    if content is not None:
        try:
            state = content.stat()
            if stat.S_ISREG(state.st_mode):  # opening a pipe would wait for whoever writes to it
                return _file_digest(content, state.st_size, state.st_mtime_ns, state.st_ino)
        except OSError:
            pass
        return Path(name).name
    size = getattr(picture, "size", "")
    try:
        seen = hashlib.sha256(picture.tobytes()).hexdigest()
    except (AttributeError, OSError, ValueError, SyntaxError):
        seen = ""
    return f"{name} {getattr(picture, 'mode', '')} {size} {seen}"


@lru_cache(maxsize=1 << 16)  # pieces and runs of examples are told by their images each
def _file_digest(path: Path, *state: int) -> str:
    """Return the hash of a file that is in some state: size, time and inode."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _open(picture: Any, example: Example) -> Iterator[Image]:
    """Open an image for the length of the block; one that was open already stays so."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("examples with images", "capture") from None
    if isinstance(picture, Image.Image):
        yield picture
        return
    name, content = _content(picture, example)
    try:
        if isinstance(content, Path):  # opening a pipe would wait for whoever writes to it
            paths.require_ordinary(content)
        image = Image.open(content)
    except FileNotFoundError:
        folder = f" (looked in {example.images})" if example.images is not None else ""
        raise ExampleError(f"{example.where}: no image {name}{folder}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise _no_image(picture, example, problem) from None
    with image:
        yield image


def _short(address: str) -> str:
    """Return what tells an address: the rest may be long, a secret, or a folder of this machine."""
    scheme, _, rest = address.partition(":")
    place = rest.partition("?")[0] if scheme.lower() != "data" else ""
    return f"{scheme}:…/{place.rpartition('/')[2][-60:]}" if place else f"{scheme}:…"


def _no_image(picture: Any, example: Example, problem: Exception) -> ExampleError:
    name, _ = _content(picture, example)
    return ExampleError(f"{example.where}: {name} is no image: {problem}")


def _content(picture: Any, example: Example) -> tuple[str, Path | io.BytesIO]:
    """Return how messages call an image, and what Pillow can open."""
    if isinstance(picture, Mapping):  # as Hugging Face data sets store images
        if picture.get("bytes"):
            return str(picture.get("path") or "the image"), io.BytesIO(picture["bytes"])
        if picture.get("path"):
            picture = picture["path"]
    if isinstance(picture, bytes | bytearray | memoryview):
        return "the image", io.BytesIO(bytes(picture))
    if isinstance(picture, str | os.PathLike):
        text = os.fspath(picture)
        if isinstance(text, str) and _URL.match(text):
            raise ExampleError(
                f"{example.where}: the image is an address ({_short(text)}); fetch the images "
                "first and give their paths"
            )
        path = Path(str(text))
        return str(text), path if example.images is None else example.images / path
    raise ExampleError(
        f"{example.where}: the image is a {type(picture).__name__}; expected a path, bytes, "
        "a Pillow image, or a list of these"
    )
