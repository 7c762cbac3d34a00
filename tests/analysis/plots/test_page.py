"""Pictures as pages: self-contained, hover text escaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import actstore
from actstore.analysis import plots
from tests.analysis.plots.pictures import make


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_points_tell_their_question(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(0,), rows=10)) as store:
        html = plots.render(plots.pca(store.select()), ".html").decode()
    parser = Tags()
    parser.feed(html)
    assert "script" not in parser.seen
    assert html.count("<title>") == 11
    assert "question: 3: &lt;/title&gt;&lt;script&gt;$x$ 你好" in html


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        html = plots.render(plots.norms(store.select()), ".html").decode()
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(link|img|script|iframe)", html)
