"""The page of a report: self-contained, and hostile texts stay texts."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import actstore
from actstore.analysis import report
from actstore.analysis.report.page import page
from tests.analysis.plots.pictures import make
from tests.querying import stores

HOSTILE = "</script></title><img src=x onerror=alert(1)>\"'&\x00\u2028"


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(html: str) -> Elements:
    elements = Elements()
    elements.feed(html)
    return elements


def test_hostile_texts_are_shown_and_do_nothing(tmp_path: Path) -> None:
    stores.add(
        tmp_path / "<b>.store",
        stores.vectors(12, 6, "float16", 0),
        model="<i>m</i>",
        site="<u>site",
        example_id=[f"{HOSTILE}{number}" for number in range(12)],
        label=[HOSTILE, "b"] * 6,
        task=[HOSTILE] * 12,
        question=[HOSTILE] * 12,
        oracle=[HOSTILE] * 12,
        prediction=[HOSTILE] * 12,
    )
    with actstore.open(tmp_path / "<b>.store") as store:
        html = page(report.collect(store.select()))
    found = parsed(html)
    assert found.tags.count("script") == 1
    assert {"img", "b", "i", "u"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert "\x00" not in html
    assert any("<img src=x onerror=alert(1)>" in text for text in found.text)


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        html = page(report.collect(store.select()))
    found = parsed(html)
    assert not {"link", "img", "iframe", "object", "embed"} & set(found.tags)
    addresses = [value for name, value in found.attributes if name in ("src", "href")]
    assert addresses
    assert all(str(address).startswith("#") for address in addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", html)


def test_every_point_tells_its_row(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, layers=(4,), rows=20)) as store:
        html = page(report.collect(store.select()))
    for number in range(20):
        assert f"question: {number}: &lt;/title&gt;" in html
    assert "Principal components, layer 4" in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_pages_of_little_and_of_nothing(tmp_path: Path) -> None:
    stores.add(tmp_path, np.full((3, 4), np.nan, np.float32), layer=None, label=[None] * 3)
    with actstore.open(tmp_path) as store:
        assert "There are no rows" in page(report.collect(store.select("false")))
        html = page(report.collect(store.select()))
    assert "3 with a norm that is not finite" in html
    assert "no two values of label" in html


def test_what_a_table_leaves_out_is_said(tmp_path: Path) -> None:
    stores.add(
        tmp_path,
        stores.vectors(60, 4, "float16", 0),
        label=[f"label {number % 10}" for number in range(60)],
        task=[f"task {number % 15}" for number in range(60)],
    )
    with actstore.open(tmp_path) as store:
        html = page(report.collect(store.select()))
    assert "… and 3 more tasks, 2 more of label" in html


def test_one_row_and_names_that_differ_at_their_ends(tmp_path: Path) -> None:
    stores.add(tmp_path / "one", stores.vectors(1, 4, "float16", 0))
    with actstore.open(tmp_path / "one") as store:
        html = page(report.collect(store.select()))
    assert "1 row at commit" in html
    assert "1 rows" not in html
    long = "the same beginning of both classes " * 9
    labels = [long + "left", long + "right"] * 6
    stores.add(tmp_path / "two", stores.vectors(12, 4, "float16", 0), label=labels)
    with actstore.open(tmp_path / "two") as store:
        html = page(report.collect(store.select()))
    cells = re.findall(r"<td[^>]*>(the same[^<]*)</td>", html)
    assert len(set(cells)) == 2


def test_of_tokens_it_is_told_which(tmp_path: Path) -> None:
    matrix = stores.vectors(12, 4, "float16", 0)
    matrix[7] *= 50
    stores.add(
        tmp_path / "tokens",
        matrix,
        example_id=["e"] * 12,
        pooling=["none"] * 12,
        position=list(range(12)),
        token_role=["user"] * 12,
    )
    with actstore.open(tmp_path / "tokens") as store:
        html = page(report.collect(store.select()))
    first = html.split("Rows of largest norm")[1].split("<tr>")[1]
    assert '<td class="n" data-name="position">7</td>' in first
    assert "position: 7\ntoken_role: user" in html
    stores.add(tmp_path / "pooled", matrix)
    with actstore.open(tmp_path / "pooled") as store:
        html = page(report.collect(store.select()))
    assert "position" not in html.split("Rows of largest norm")[1]
    assert "position: 7" not in html


def test_no_two_things_of_the_page_have_the_same_id_and_all_that_are_meant_are_there(
    tmp_path: Path,
) -> None:
    make(tmp_path, layers=(0, 1, 2, 3))
    stores.add(tmp_path, stores.vectors(30, 12, "float16", 0), site="mlp_out", layer=2)
    with actstore.open(tmp_path) as store:
        html = page(report.collect(store.select()))
    found = parsed(html)
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 20
    meant = {str(value)[1:] for name, value in found.attributes if name == "href"}
    meant |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert meant <= set(ids)


def test_every_row_that_stands_out_leads_to_all_that_is_known_of_it(tmp_path: Path) -> None:
    matrix = stores.vectors(40, 16, "float32", 1)
    matrix[7] *= 20
    prediction = ["a very long answer " * 20 + str(number) for number in range(40)]
    stores.add(tmp_path / "runs.store", matrix, prediction=prediction)
    with actstore.open(tmp_path / "runs.store") as store:
        html = page(report.collect(store.select()))
        assert store.rows_at([7]).table(["example_id"])["example_id"].to_pylist() == ["e7"]
    table, _, rows = html.split("Rows of largest norm")[1].partition('<details id="row-7">')
    assert '<a href="#row-7">e7</a>' in table
    row = rows.partition("</details>")[0]
    assert prediction[7] in row
    command = "SELECT * FROM activations WHERE row_id = 7&#x27; --at 1"
    assert f"actstore query runs.store &#x27;{command}" in row


def test_colours_are_the_page_s_in_light_and_in_dark(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path, labels=("yes", "no", None))) as store:
        html = page(report.collect(store.select()))
    for chart in re.findall(r'<svg[^>]*class="chart".*?</svg>', html):
        assert not re.search(r"(fill|stroke): #", chart)
    assert "var(--c0)" in html
    named = set(re.findall(r"var\(--([a-z0-9]+)\)", html))
    light, dark = re.findall(r":root \{([^}]*)\}", html)
    for scheme in (light, dark):
        assert named <= set(re.findall(r"--([a-z0-9]+):", scheme))


def test_what_made_the_page_stands_on_it(tmp_path: Path) -> None:
    with actstore.open(make(tmp_path)) as store:
        html = page(report.collect(store.select(), command="actstore report runs.store -o a.html"))
    made = html.split("How this was made")[1]
    assert "<pre>actstore report runs.store -o a.html</pre>" in made
    assert ">test</td>" in made  # the kind of run that wrote these rows


def test_a_page_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    sizes = []
    for rows in (1000, 4000):
        root = tmp_path / str(rows)
        make(root, layers=(0, 1), rows=rows)
        with actstore.open(root) as store:
            sizes.append(len(page(report.collect(store.select()))))
    assert sizes[1] < 1.05 * sizes[0]


def test_without_matplotlib_the_tables_stay(tmp_path: Path) -> None:
    root = make(tmp_path / "s")
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'matplotlib': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "sys.modules['matplotlib'] = None\n"
        "import actstore\n"
        "from actstore.analysis import report\n"
        f"with actstore.open({str(root)!r}) as store:\n"
        f"    report.write(report.collect(store.select()), {str(tmp_path / 'a.html')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    html = (tmp_path / "a.html").read_text()
    assert "pip install 'actstore[plot]'" in html
    assert "Rows of largest norm" in html
    assert "<svg" not in html
