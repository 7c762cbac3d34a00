"""Saving pictures, and that our style stays ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

import actstore
from actstore.analysis import plots
from actstore.analysis.plots import looks
from actstore.errors import UsageError
from tests.analysis.plots.pictures import make


def test_files_are_what_their_names_say(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path / "store")) as store:
        figure = plots.norms(store.select())
    assert plots.save(figure, tmp_path / "new" / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in plots.save(figure, tmp_path / "a.svg").read_bytes()
    assert plots.save(figure, tmp_path / "a.html").read_bytes().startswith(b"<!doctype html>")
    with pytest.raises(UsageError, match=r"ends in .png, .svg, .html"):
        plots.save(figure, tmp_path / "a.gif")
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


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
