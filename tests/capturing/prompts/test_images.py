"""Images in every form that examples bring them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from actstore.capturing.prompts.example import Example
from actstore.capturing.prompts.images import image_sizes, open_images
from actstore.errors import ExampleError
from tests.capturing.pictures import picture


def example(image: Any, folder: Path | None = None) -> Example:
    return Example(id="a", question="q", image=image, images=folder, source="q.jsonl:3")


@pytest.mark.parametrize(
    "form", ["path", "relative", "pathlib", "bytes", "hub bytes", "hub path", "pillow", "list"]
)
def test_all_forms_give_the_same_pixels(tmp_path: Path, form: str) -> None:
    path = picture(tmp_path, "x.png")
    with Image.open(path) as opened:
        pillow = opened.copy()
    forms: dict[str, Any] = {
        "path": str(path),
        "relative": "x.png",
        "pathlib": path,
        "bytes": path.read_bytes(),
        "hub bytes": {"bytes": path.read_bytes(), "path": None},
        "hub path": {"bytes": None, "path": "x.png"},
        "pillow": pillow,
        "list": ["x.png"],
    }
    given = example(forms[form], tmp_path)
    (image,) = open_images(given)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(pillow))
    assert image_sizes(given) == [(6, 8)]


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        (image,) = open_images(example(Image.new(mode, (3, 2))))
        assert image.mode == "RGB"


def test_no_image_is_none() -> None:
    assert open_images(example(None)) == []
    assert image_sizes(example(None)) == []


def test_what_cannot_be_opened_names_the_example(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    whole = picture(tmp_path, "x.png", size=(64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for given, said in (
        ("missing.png", r"no image missing\.png \(looked in "),
        ("text.png", "is no image"),
        ("cut.png", "is no image"),
        (b"no image", "the image is no image"),
        ("https://example.org/x.png?key=1", r"is an address \(https:…/x\.png\); fetch the images"),
        ("file:///home/me/x.png", r"is an address \(file:…/x\.png\)"),
        ("data:image/png;base64,AAAA", r"is an address \(data:…\)"),
        (3.5, "the image is a float"),
        ({"bytes": None, "path": None}, "the image is a dict"),
    ):
        with pytest.raises(ExampleError, match=r"q\.jsonl:3 \(example 'a'\): .*" + said):
            open_images(example(given, tmp_path))
