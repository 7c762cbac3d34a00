"""Saving pictures, and that our style stays ours."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import pytest

import actstore
from actstore.analysis import plots
from actstore.analysis.plots import looks
from actstore.errors import UsageError
from tests.analysis.plots.pictures import make
from tests.analysis.plots.pictures import texts as drawn_texts


def test_files_are_what_their_names_say(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path / "store")) as store:
        figure = plots.norms(store.select())
    assert plots.save(figure, tmp_path / "new" / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in plots.save(figure, tmp_path / "a.svg").read_bytes()
    assert plots.save(figure, tmp_path / "a.html").read_bytes().startswith(b"<!doctype html>")
    pdf = plots.save(figure, tmp_path / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert plots.render(figure, ".pdf") == pdf
    assert b"/CreationDate" not in pdf
    with pytest.raises(UsageError, match=r"ends in .png, .svg, .pdf, .html"):
        plots.save(figure, tmp_path / "a.gif")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_settings_of_others_are_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with actstore.open(make(tmp_path)) as store:
        mpl.rcParams["lines.linewidth"] = 9
        try:
            one = plots.render(plots.norms(store.select()), ".svg")
            assert mpl.rcParams["lines.linewidth"] == 9
        finally:
            mpl.rcParams.update(before)
        assert plots.render(plots.norms(store.select()), ".svg") == one


def test_a_long_title_is_made_to_fit(tmp_path: Path) -> None:
    root = make(tmp_path, layers=(0,))
    with actstore.open(root) as store:
        figure = plots.similarity(store.select())
    with looks.styled():
        looks.finish(figure, "Similarity of " + "many very long words " * 9, "note")
    title = figure._suptitle  # type: ignore[attr-defined]
    assert title.get_window_extent().width <= figure.bbox.width
    assert title.get_text().endswith("…")
    assert title.get_text().startswith("Similarity of many")


def test_a_title_of_the_users_stands_alone(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        figure = plots.norms(store.select())
        assert figure.heading in drawn_texts(figure)
        figure.axes[0].set_title("Mine")
        assert "Mine" in drawn_texts(figure)
        assert figure.heading not in drawn_texts(figure)
        figure.suptitle("Above")
        assert {"Mine", "Above"} <= set(drawn_texts(figure))
        scaled = plots.similarity(store.select())
        scaled.axes[0].set_title("Mine")
        assert scaled.heading not in drawn_texts(scaled)
        panels = plots.pca(store.select())
        assert panels.heading in drawn_texts(panels)
        panels.axes[0].set_title("Mine")
        assert {panels.heading, "Mine"} <= set(drawn_texts(panels))


def test_text_is_taken_as_it_is() -> None:
    assert looks.plain("a $b$\nc") == r"a \$b\$ c"
    assert looks.plain("x" * 50, 10) == "xxxxxx…xxx"


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from actstore.errors import MissingExtraError\n"
        "try:\n    import actstore.analysis.plots\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'actstore[plot]'" in done.stdout


@pytest.mark.parametrize("style", ["screen", "paper", "dark"])
def test_every_style_is_read_on_its_ground(style: looks.Style, tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0, 1))) as store:
        figure = plots.norms(store.select(), style=style)
    look = looks.LOOKS[style]
    texts = [figure.axes[0].xaxis.label, *figure.legends[0].get_texts()]
    for colour in [
        look.ink,
        look.soft,
        *look.colours,
        *(mpl.colors.to_hex(text.get_color()) for text in texts),
    ]:
        # The palest of Okabe and Ito's on white; text and marks tell such lines apart as well.
        assert contrast(colour, look.ground) > 2.2
    assert contrast(look.ink, look.ground) > 7
    png = plots.render(figure, ".png")
    assert mpl.colors.to_hex(pixel(png)) == look.ground.lower()


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG has it."""
    lights = []
    for colour in (one, other):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
        lights.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] + 0.05)
    return max(lights) / min(lights)


def rgb(colour: str) -> tuple[float, float, float]:
    return mpl.colors.to_rgb(colour)


def pixel(png: bytes) -> tuple[float, float, float]:
    """The colour of a picture's corner."""
    read = mpl.image.imread(io.BytesIO(png), format="png")
    return tuple(read[0, 0, :3].tolist())


def test_a_style_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store, pytest.raises(UsageError, match="screen, paper"):
        plots.norms(store.select(), style="comic")  # type: ignore[arg-type]


GIVEN: list[tuple[looks.Style, str | None]] = [
    ("screen", None),
    ("paper", None),
    ("paper", "T $1"),
    ("screen", ""),
]


def test_paper_leaves_title_and_note_to_the_caption(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        usual, paper, titled, bare = (
            plots.norms(store.select(), **given)  # type: ignore[arg-type]
            for given in (
                {},
                {"style": "paper"},
                {"style": "paper", "title": "T $1"},
                {"title": ""},
            )
        )
    assert usual.heading == paper.heading
    assert usual.caption == paper.caption
    assert (usual.get_suptitle(), usual.get_supxlabel()) == (usual.heading, usual.caption)
    assert (paper.get_suptitle(), paper.get_supxlabel()) == ("", "")
    assert "T $1" in drawn_texts(titled)
    assert bare.get_suptitle() == ""
    assert bare.get_supxlabel() == usual.caption
    assert paper.get_figwidth() == pytest.approx(5.5)
