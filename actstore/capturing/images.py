"""Opens the images of examples, whatever they come as."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actstore.capturing.example import Example
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
    return [_open(picture, example).convert("RGB") for picture in example.pictures]


def image_sizes(example: Example) -> list[tuple[int, int]]:
    """Return ``(height, width)`` of each image; of a file only the head is read.

    Raises:
        ExampleError, MissingExtraError: as for :func:`open_images`.
    """
    sizes = []
    for picture in example.pictures:
        width, height = _open(picture, example, whole=False).size
        sizes.append((height, width))
    return sizes


def _open(picture: Any, example: Example, *, whole: bool = True) -> Image:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("examples with images", "capture") from None
    if isinstance(picture, Image.Image):
        return picture
    name, content = _content(picture, example)
    try:
        image = Image.open(content)
        if whole:
            image.load()
    except FileNotFoundError:
        folder = f" (looked in {example.images})" if example.images is not None else ""
        raise ExampleError(f"{example.where}: no image {name}{folder}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ExampleError(f"{example.where}: {name} is no image: {problem}") from None
    return image


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
            short = text if len(text) <= 80 else f"{text[:79]}…"
            raise ExampleError(
                f"{example.where}: the image is an address ({short}); fetch the images first and "
                "give their paths"
            )
        path = Path(str(text))
        return str(text), path if example.images is None else example.images / path
    raise ExampleError(
        f"{example.where}: the image is a {type(picture).__name__}; expected a path, bytes, "
        "a Pillow image, or a list of these"
    )
