"""`actstore plot`: files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actstore.analysis.plots.looks import LOOKS
from actstore.commands.plot import KINDS, STYLES
from docs import two_choice
from tests.analysis import labelled
from tests.analysis.plots import pictures
from tests.commands.conftest import Command
from tests.querying import stores

OF_OTHERS = ("positions", "lens", "dose")
"""Kinds that are not of any rows: of tokens, or of a model."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_OTHERS])
def test_every_kind_is_drawn(actstore: Command, store: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / f"{kind}.svg"
    done = actstore("plot", store, "--kind", kind, "-o", target)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{target}: ")
    assert b"<svg" in target.read_bytes()


def test_positions_are_of_tokens(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--kind", "positions", "-o", tmp_path / "a.svg")
    refused = actstore("plot", store, *words)
    assert refused.code == 1
    assert "--pool tokens" in refused.err
    matrix = stores.vectors(12, 6, "float16", 0)
    stores.add(tmp_path / "s", matrix, pooling=["none"] * 12, position=[0, 1, 2] * 4)
    assert "12 rows, 3 positions" in actstore("plot", tmp_path / "s", *words).out


def test_a_title_and_a_style(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("plot", store, "--kind", "norms", "-o", tmp_path / "a.svg", "--json")
    usual = json.loads(actstore(*words).out)
    assert usual["title"] in (tmp_path / "a.svg").read_text().partition("</metadata>")[2]
    paper = json.loads(actstore(*words, "--style", "paper").out)
    assert paper == usual
    drawn = (tmp_path / "a.svg").read_text()
    metadata, _, picture = drawn.partition("</metadata>")
    assert usual["title"] in metadata
    assert usual["caption"] in metadata
    assert usual["title"] not in picture
    assert usual["caption"] not in picture
    titled = json.loads(actstore(*words, "--style", "paper", "--title", "Figure 3").out)
    assert titled["title"] == "Figure 3"
    assert "Figure 3" in (tmp_path / "a.svg").read_text().partition("</metadata>")[2]
    assert actstore(*words, "--style", "comic").code == 2
    assert tuple(LOOKS) == STYLES


def test_conditions_and_json(actstore: Command, store: Path, tmp_path: Path) -> None:
    words = ("--kind", "pca", "--layer", 3, "--by", "", "--rows", 5, "-o", tmp_path / "a.html")
    document = json.loads(actstore("plot", store, "label = 'faithful'", *words, "--json").out)
    assert document["kind"] == "pca"
    assert "layer 3" in document["title"]
    html = (tmp_path / "a.html").read_text()
    assert "unfaithful" not in html
    assert html.count("example_id: ") == 5


def test_a_probe_s_report(actstore: Command, store: Path, tmp_path: Path) -> None:
    results = [{"layer": 3, "auroc": 0.8, "rows": 20, "auroc_interval": [0.7, 0.9]}]
    (tmp_path / "report.json").write_text(json.dumps({"results": results}))
    words = ("--kind", "auroc", "--report", tmp_path, "-o", tmp_path / "a.svg")
    assert actstore("plot", store, *words).code == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--kind", "pca", "-o", "a.gif"), 2, ".png, .svg, .pdf or .html"),
        (("--kind", "pie", "-o", "a.svg"), 2, "pie"),
        (("--kind", "pca", "--positive", "x", "-o", "a.svg"), 2, "for --kind auroc"),
        (("--kind", "norms", "--rows", "5", "-o", "a.svg"), 2, "--rows is for"),
        (("--kind", "pca", "--rows", "2", "-o", "a.svg"), 2, "give 3 or more"),
        (("--kind", "pca", "--target", "x", "-o", "a.svg"), 2, "--target is for --kind lens, dose"),
        (("--kind", "lens", "--doses", "1", "-o", "a.svg"), 2, "--doses is for --kind dose"),
        (("--kind", "dose", "--target", "x", "-o", "a.svg"), 2, "--vectors DIR"),
        (("--kind", "lens", "-o", "a.svg"), 2, "pooled by mean"),
        (("--kind", "auroc", "--by", "", "-o", "a.svg"), 2, "needs a column"),
        (("false", "--kind", "pca", "-o", "a.svg"), 1, "no rows"),
        (("--kind", "auroc", "--report", "nowhere", "-o", "a.svg"), 2, "no report of a probe"),
    ],
)
def test_what_is_refused(
    actstore: Command,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = actstore("plot", store, *words)
    assert done.code == code
    assert told in done.err
    assert not (tmp_path / "a.svg").exists()


def test_both_classes_can_be_named(actstore: Command, tmp_path: Path) -> None:
    labels = [("a", "b", "c")[number % 3] for number in range(60)]
    stores.add(tmp_path / "s", stores.vectors(60, 6, "float16", 0), label=labels)
    words = ("plot", tmp_path / "s", "--kind", "auroc", "-o", tmp_path / "a.svg", "--json")
    document = json.loads(actstore(*words, "--positive", "c", "--negative", "a").out)
    assert document["title"].startswith("c against a · ")
    told = actstore(*words).err
    assert "--positive" in told
    assert "--negative" in told
    assert "another column with --by" in actstore(*words, "label = 'a'").err


def test_regions_are_told_apart(actstore: Command, tmp_path: Path) -> None:
    for seed, region in enumerate(("prompt", "response")):
        matrix = stores.vectors(12, 6, "float16", seed)
        stores.add(tmp_path / "s", matrix, region=[region] * 12)
    words = ("plot", tmp_path / "s", "--kind", "pca", "-o", tmp_path / "a.svg", "--json")
    refused = actstore(*words)
    assert refused.code == 1
    assert "2 regions" in refused.err
    title = json.loads(actstore(*words, "--region", "prompt").out)["title"]
    assert "prompt.last" in title


def test_a_probe_run_beside_the_store_is_shown(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {3: 1.5, 5: 0.0}, rows=40, width=16)
    words = ("plot", tmp_path / "s", "--kind", "auroc", "-o", tmp_path / "a.svg")
    done = actstore(*words)
    assert "difference of means, not a trained probe" in done.out
    assert "mean difference (no probe)" in (tmp_path / "a.svg").read_text()
    assert actstore("probe", tmp_path / "s", "--out", tmp_path / "run").code == 0
    done = actstore(*words)
    assert "logistic probes in run/, 5 folds" in done.out
    assert "mean difference" not in (tmp_path / "a.svg").read_text()
    # Nothing is said of probes that tell other classes apart, or of other rows.
    assert "not a trained probe" in actstore(*words, "--positive", "no").out
    assert "not a trained probe" in actstore(*words, "example_id < 'e3'").out
    assert "not a trained probe" in actstore(*words, "--no-probes").out
    assert actstore(*words, "--no-probes", "--probes", tmp_path / "run").code == 2
    assert "logistic" in actstore(*words, "--layer", 3).out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "chooser"
    two_choice.make(folder, steps=4)
    return folder


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    two_choice.write_questions(path, 6, seed=2)
    return path


def test_a_lens_reads_a_capture_by_the_folder_of_its_model(
    actstore: Command, tmp_path: Path, model: Path, asked: Path
) -> None:
    given = ("--data", asked, "--store", tmp_path / "s", "--raw", "--pool", "prompt.last")
    done = actstore("capture", "--model", model, *given, "--sites", "resid_post,final_norm")
    assert done.code == 0, done.err
    words = ("plot", tmp_path / "s", "--kind", "lens", "-o", tmp_path / "lens.html")
    done = actstore(*words, "--model", model, "--target", "first", "--rows", 2, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["title"] == "Logit lens · chooser · prompt.last"
    assert found["caption"] == "2 examples of 6; colour: probability of 'first'"
    assert len(found["rows"]) == 2 * (4 + 1)
    assert found["rows"][0].keys() >= {"layer", "top", "probabilities", "target_rank"}
    assert "target " in (tmp_path / "lens.html").read_text()
    refused = actstore(*words, "--model", "org/other")
    assert refused.code == 1
    assert "only of chooser; where the model is loaded from is --load" in refused.err
    other = tmp_path / "chooser"
    two_choice.make(other, steps=1)
    refused = actstore(*words, "--model", other)
    assert refused.code == 1
    assert "is not the model that these rows were captured from" in refused.err


def test_a_dose_curve(actstore: Command, tmp_path: Path, model: Path, asked: Path) -> None:
    labelled.layered(tmp_path / "s", {2: 2.0}, rows=20, width=64, model=str(model))
    done = actstore("steer", tmp_path / "s", "--out", tmp_path / "steering")
    assert done.code == 0, done.err
    measured = ("--target", "first", "--against", "second", "--doses=-3,3")
    words: tuple[object, ...] = ("plot", tmp_path / "s", "--kind", "dose", *measured)
    words += ("--vectors", tmp_path / "steering", "-o", tmp_path / "a.svg")
    done = actstore(*words, "--data", asked, "--random", 2)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("change of log P('first') - log P('second') by strength, layer 2")
    assert [line.split()[0] for line in lines[2:5]] == ["-3", "0", "3"]
    assert lines[3].split()[1] == "+0.000"
    assert "6 prompts, band: 95 % interval" in lines[-1]
    found = json.loads(actstore(*words, "--data", asked, "--json").out)
    assert len(found["rows"]) == 5 * 3
    refused = actstore(*words)
    assert refused.code == 1
    assert "the vector was made of all 20 prompts" in refused.err
    own = actstore(*words, "--in-sample", "--rows", 5)
    assert own.code == 0, own.err
    assert "IN-SAMPLE: the vector was made of 20 of these prompts" in own.err
    assert "5 of 20 prompts" in own.err


def test_a_dose_is_added_at_the_first_block_too(
    actstore: Command, tmp_path: Path, model: Path, asked: Path
) -> None:
    labelled.layered(tmp_path / "s", {-1: 2.0, 0: 2.0}, rows=20, width=64, model=str(model))
    done = actstore("steer", tmp_path / "s", "--out", tmp_path / "steering")
    assert done.code == 0, done.err
    words: tuple[object, ...] = ("plot", tmp_path / "s", "--kind", "dose", "--data", asked)
    words += ("--target", "first", "--doses", "1", "--vectors", tmp_path / "steering")
    words += ("-o", tmp_path / "a.svg")
    done = actstore(*words, "--layer", 0)
    assert done.code == 0, done.err
    assert "by strength, layer 0," in done.out
    refused = actstore(*words, "--layer", -1)
    assert refused.code == 2
    assert "a vector is added at a block" in refused.err


def test_a_histogram_of_norms_and_along_a_steering_vector(
    actstore: Command, tmp_path: Path
) -> None:
    store = pictures.make(tmp_path / "s", layers=(3,))
    words = ("plot", store, "--kind", "histogram", "-o", tmp_path / "a.svg", "--json")
    assert json.loads(actstore(*words, "--of", "norm").out)["title"].startswith("Norms")
    assert actstore("steer", store, "--out", tmp_path / "v").code == 0
    vector = tmp_path / "v" / "vectors" / "layer_3.pt"
    along = json.loads(actstore(*words, "--of", vector).out)
    assert along["title"].startswith("Along layer_3.pt")
    assert "IN-SAMPLE" in along["caption"]
    bare = tmp_path / "layer_3.pt"
    bare.write_bytes(vector.read_bytes())
    assert "perhaps in-sample" in json.loads(actstore(*words, "--of", bare).out)["caption"]
    refused = actstore(*words, "--of", "norms")
    assert refused.code == 2
    assert "neither norm nor a file" in refused.err
    other = actstore("plot", store, "--kind", "pca", "--of", "norm", "-o", tmp_path / "b.svg")
    assert other.code == 2
