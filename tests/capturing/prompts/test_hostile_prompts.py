"""Chat templates that reach for more than the conversation, and images that unfold."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.images import open_images
from actstore.errors import ExampleError
from tests.capturing.tokenizers import tokenizer


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__['os'].system('true') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append({'role': 'x'}) }}",
        "{% for i in range(10 ** 12) %}{{ i }}{% endfor %}",
        "{{ ('%s' | format(messages)).__class__.mro() }}",
    ],
)
def test_templates_are_rendered_in_a_sandbox(template: str) -> None:
    """transformers' own: an upgrade without it would be seen here."""
    asked = [{"role": "user", "content": "x"}]
    with pytest.raises(Exception, match=r"unsafe|too big|Range"):
        tokenizer(template).apply_chat_template(asked, tokenize=False)


def bomb(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds little."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 20_000)])
def test_images_that_unfold_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(bomb(*size))
    for picture in (bomb(*size), "x.png"):
        example = Example(id="1", question="x", image=picture, images=tmp_path, source="q:1")
        with pytest.raises(ExampleError, match=r"q:1 .* is no image"):
            open_images(example)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    example = Example(id="1", question="x", image="x.png", images=tmp_path)
    with pytest.raises(ExampleError, match=r"x\.png is no image: .* is a FIFO"):
        open_images(example)


def test_what_ends_early_is_refused() -> None:
    example = Example(id="1", question="x", image=bomb(50, 50)[:60])
    with pytest.raises(ExampleError, match="is no image"):
        open_images(example)
