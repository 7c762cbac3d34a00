"""`actstore probe`: one probe per layer, with its report, files and picture."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.analysis import labelled
from tests.analysis.probes import test_numbers_probing as numbers
from tests.analysis.probes import test_several_classes as several
from tests.commands.conftest import Command


@pytest.fixture
def probed(tmp_path: Path) -> Path:
    labelled.layered(
        tmp_path / "s", {3: 2.5, None: 0.0}, rows=60, width=32, split=["train"] * 40 + ["val"] * 20
    )
    return tmp_path / "s"


def test_table_files_and_picture(actstore: Command, probed: Path, tmp_path: Path) -> None:
    done = actstore("probe", probed, "--positive", "yes", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "logistic probe, yes (positive) against no, 5 folds, 95 % intervals"
    assert lines[1].split()[:6] == ["site", "pooling", "layer", "rows", "groups", "auroc"]
    assert lines[1].split()[-5:] == ["shuffled", "p", "p_family", "band", "verdict"]
    assert lines[2].endswith("above 65 %  linear direction")
    assert lines[3].split()[2] == "unknown"
    assert "kept together by example_id or question: 60 groups of 60 rows" in done.err
    assert "best of 2: layer 3 of resid_post (last), AUROC" in done.err
    assert "(nested):" in done.err
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    }
    assert written == {
        *("report.json", "auroc.png", "auroc.svg"),
        *("probe_stats_layer3.csv", "probe_stats_layerunknown.csv"),
        *("probes/layer_3.safetensors", "probes/layer_unknown.safetensors"),
    }


def test_figures_are_told_to_three_digits(actstore: Command, tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {3: 0.5}, rows=59, width=32)
    words = ("--permutations", 19, "--positive", "yes", "--out", tmp_path / "out")
    (told,) = re.findall(r"3 +59 .*", actstore("probe", tmp_path / "s", *words).out)
    assert f" {30 / 59:.3f} " in told  # the majority
    assert not re.search(r"\.\d{4}", told)


def test_json_is_the_report(actstore: Command, probed: Path, tmp_path: Path) -> None:
    words = ("--method", "ridge", "--folds", 4, "--permutations", 10, "--layers", "3", "--json")
    done = actstore("probe", probed, *words, "--out", tmp_path / "out")
    assert json.loads(done.out) == json.loads((tmp_path / "out/report.json").read_text())
    (entry,) = json.loads(done.out)
    assert (entry["method"], entry["folds"], entry["layer"]) == ("ridge", 4, 3)
    assert entry["baselines"]["permutation"]["runs"] == 10
    assert entry["baselines"]["permutation"]["p_family"] == entry["p_family"]
    assert entry["baselines"]["words"]["auroc_interval"][0] <= entry["baselines"]["words"]["auroc"]
    assert (entry["grouped_by"], entry["groups"]) == ("example_id or question", 60)
    assert entry["effect"]["over"] in ("words", "chance")
    assert entry["best"] is None


def test_what_stays_together_may_be_anything_of_a_row(actstore: Command, tmp_path: Path) -> None:
    cities = [f'{{"city": "c{number // 2}"}}' for number in range(60)]
    labelled.layered(tmp_path / "s", {0: 1.0}, rows=60, width=8, extra=cities)
    for by in ("extra.city", "json_extract_string(extra, '$.city')", "row_id // 2"):
        words = ("--group-by", by, "--permutations", 20, "--json")
        done = actstore("probe", tmp_path / "s", *words, "--out", tmp_path / "out")
        (entry,) = json.loads(done.out)
        assert (entry["grouped_by"], entry["groups"]) == (by, 30)
    for by, message in (("extra.town", "there is no column extra.town"), ("1 +", "error: ")):
        done = actstore("probe", tmp_path / "s", "--group-by", by, "--out", tmp_path / "out")
        assert done.code != 0
        assert message in done.err
        assert len(done.err.splitlines()) == 1


def test_a_table_needs_no_folder(actstore: Command, probed: Path, tmp_path: Path) -> None:
    done = actstore("probe", probed, "--layers", 3, "--permutations", 0)
    assert done.code == 0, done.err
    assert "auroc" in done.out
    assert "--out DIR keeps the probes" in done.err
    assert sorted(tmp_path.iterdir()) == [probed]
    (entry,) = json.loads(
        actstore("probe", probed, "--layers", 3, "--permutations", 0, "--json").out
    )
    turned = done.err.split("--positive ")[1].split()[0]
    assert [turned] == entry["negative"]
    assert f"positive is {entry['positive'][0]}" in done.err
    named = actstore("probe", probed, "--layers", 3, "--permutations", 0, "--positive", turned)
    assert f"{turned} (positive) against" in named.out
    assert "turns it round" not in named.err


def test_several_classes_have_a_table_of_their_own(actstore: Command, tmp_path: Path) -> None:
    several.layered(tmp_path / "s", {3: 3.0, 4: 0.0}, rows=60)
    done = actstore("probe", tmp_path / "s", "--permutations", 20, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("logistic probes, each of 3 classes against the rest, 5 folds")
    assert lines[1].split()[5:7] == ["macro", "auroc"]
    assert lines[2].endswith("linear directions")
    assert lines[5].startswith("layer 3 of resid_post (last): how often")
    assert lines[6].split()[-6:] == ["named", "a", "named", "b", "named", "c"]
    assert sum(int(number) for line in lines[7:] for number in line.split()[-3:]) == 60
    assert "label has 3 values, and each is held against the rest; --positive a" in done.err
    assert "macro AUROC" in done.err
    assert "6 probes written" in done.err
    assert (tmp_path / "out/auroc.svg").is_file()
    asked = ("probe", tmp_path / "s", "--permutations", 20, "--task", "classes")
    done = actstore(*asked, "--json")
    entries = json.loads((tmp_path / "out/report.json").read_text())
    for entry in entries:
        del entry["probes"], entry["scores"]
    assert json.loads(done.out) == entries
    done = actstore(*asked, "--format", "csv")
    assert len(done.out.splitlines()) == 3
    assert "confusion table of each class: --json" in done.err
    assert "values, and each" not in done.err
    drawn = actstore(
        *("plot", tmp_path / "s", "--kind", "auroc", "--probes", tmp_path / "out"),
        *("-o", tmp_path / "x.svg"),
    )
    assert drawn.code == 2
    assert "probes of several classes, and the picture is one of two" in drawn.err


def test_numbers_have_r2_a_picture_and_scores(actstore: Command, tmp_path: Path) -> None:
    numbers.layered(tmp_path / "s", {0: 2.0, 1: 0.0})
    numbers.layered(
        *(tmp_path / "new", {0: 2.0, 1: 0.0}),
        rows=20,
        seed=1,
        first=100,
        questions=[f"another {number}?" for number in range(20)],
    )
    words = ("--label", numbers.COLUMN, "--permutations", 19)
    done = actstore("probe", tmp_path / "s", *words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "ridge probes of extra.level, 5 folds, 95 % intervals" in done.out
    assert "extra.level holds numbers, and each probe predicts them; --task classes" in done.err
    assert "chosen without the fold that judges (nested)" in done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.json", "probes", "probe_stats_layer0.csv", "probe_stats_layer1.csv"),
        *("r2.png", "r2.svg"),
    }
    first, _ = json.loads((tmp_path / "out/report.json").read_text())
    assert (first["task"], first["method"]) == ("number", "ridge")
    assert first["r2_interval"][0] < first["r2"] < first["r2_interval"][1]
    assert first["best"]["nested_r2"] is not None
    stats = (tmp_path / "out/probe_stats_layer0.csv").read_text().splitlines()
    assert stats[0].startswith("question_id,question,number,mean_predicted,")
    assert len(stats) == 61
    done = actstore("score", tmp_path / "new", "--probe", tmp_path / "out", "--json")
    assert [entry["rows"] for entry in json.loads(done.out)] == [20, 20]
    assert json.loads(done.out)[0]["spearman"] > 0.5
    assert "auroc" not in json.loads(done.out)[0]
    done = actstore("score", tmp_path / "new", "--probe", tmp_path / "out")
    assert "mean predicted" in done.out
    named = ("--probe", tmp_path / "out", "--write-label", "class", "--layers", 0)
    done = actstore("score", tmp_path / "new", *named)
    assert "predicts numbers, not classes: --write-label score" in done.err
    done = actstore("validate", tmp_path / "new", "--vectors", tmp_path / "out")
    assert "holds probes, not steering vectors: `actstore score STORE --probe" in done.err
    picture = ("--kind", "auroc", "--probes", tmp_path / "out", "-o", tmp_path / "a.png")
    done = actstore("plot", tmp_path / "s", *picture)
    assert "these are probes of numbers, which have no AUROC" in done.err


def test_layers_are_joined(actstore: Command, probed: Path, tmp_path: Path) -> None:
    positive = labelled.layered(tmp_path / "j", {5: 2.0, 10: 2.0}, rows=60, width=16)
    some = ["yes" if each else "no" for each in positive[:58]]
    labelled.add(tmp_path / "j", labelled.vectors_of_noise(58, 16), some, layer=15)
    labelled.layered(tmp_path / "new", {5: 2.0, 10: 2.0}, rows=20, width=16, first=60)
    words = ("--join-layers", "--permutations", 0, "--out", tmp_path / "out")
    done = actstore("probe", tmp_path / "j", "--layers", "5,10", *words)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[1].split()[:4] == ["site", "pooling", "layers", "rows"]
    assert lines[2].startswith("resid_post  last     5, 10   ")
    assert "no picture: it would be by layer, and these join several" in done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.json", "probes", "probe_stats_layers_5_10.csv")
    }
    done = actstore("score", tmp_path / "new", "--probe", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].startswith("resid_post  last     5, 10   ")
    scores = tmp_path / "scores.csv"
    done = actstore(
        *("score", tmp_path / "new", "--probe", tmp_path / "out", "-o", scores),
        *("--write-label", "class", "--json"),
    )
    (entry,) = json.loads(done.out)
    assert (entry["layer"], entry["layers"], entry["lacking"]) == (None, [5, 10], 0)
    assert len(scores.read_text().splitlines()) == 21
    done = actstore("probe", tmp_path / "j", *words, "--json")
    assert done.code == 0, done.err
    (entry,) = json.loads(done.out)
    assert (entry["layers"], entry["rows"]) == ([5, 10, 15], 58)
    assert "2 of 60 examples left out" in entry["notes"][0]
    done = actstore("score", tmp_path / "new", "--probe", tmp_path / "out")
    assert "made for layers 5, 10, 15 of resid_post (last), region not recorded of" in done.err
    done = actstore("probe", probed, *words, "--layers", 3)
    assert done.code == 2
    assert "name two numbered layers or more with --layers" in done.err
    picture = ("--kind", "auroc", "--probes", tmp_path / "out", "-o", tmp_path / "a.png")
    done = actstore("plot", tmp_path / "j", *picture)
    assert "these probes join several layers, and the picture is one by layer" in done.err
    done = actstore("validate", tmp_path / "new", "--vectors", tmp_path / "out")
    assert "holds probes, not steering vectors" in done.err


def test_conditions_and_other_stores(actstore: Command, probed: Path, tmp_path: Path) -> None:
    words = ("--train", "split = 'train'", "--test", "split = 'val'", "--json")
    done = actstore("probe", probed, *words, "--out", tmp_path / "out")
    assert [entry["rows"] for entry in json.loads(done.out)] == [20, 20]
    labelled.layered(
        tmp_path / "b",
        {3: 2.5},
        rows=30,
        width=32,
        seed=2,
        questions=[f"new {number}" for number in range(30)],
        dataset=["other"] * 30,
        first=30,
    )
    labelled.layered(tmp_path / "a", {3: 2.5}, rows=30, width=32)
    done = actstore(
        "probe", tmp_path / "a", "--test-store", tmp_path / "b", "--json", "--out", tmp_path / "o"
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--layers", "3,x"), 2, "'x' is no layer"),
        (("--layers", "5"), 1, "layer 5 is not in the store"),
        (("--folds", "50"), 1, "50 folds need 50"),
        (("--positive", "maybe"), 1, "no row has label 'maybe'"),
        (("--label", "task"), 1, "two classes are needed"),
        (("--label", "lable"), 1, "did you mean label"),
        (("--train", "split = 'train'"), 2, "rows to test on"),
        (("--where", "norm < 0"), 1, "no row of"),
        (("--layers", "3-1"), 2, "'3-1' is no layer"),
        (("--seed", "-1"), 2, "x>=0"),
        (("--strength", "1e11"), 2, "between 1e-10 and 1e+10, got 100000000000.0"),
        (("--strength", "inf"), 2, "'inf' is no finite number"),
        (("--strength", "nan"), 2, "'nan' is no finite number"),
        (("--strength", "0"), 2, "0.0 is not in the range x>0"),
    ],
)
def test_what_goes_wrong_is_one_line(
    actstore: Command, probed: Path, tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = actstore("probe", probed, *words, "--out", tmp_path / "out")
    assert done.code == code
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_several_models_are_listed(actstore: Command, tmp_path: Path) -> None:
    for model in ("a/one", "b/two"):
        labelled.layered(tmp_path / "s", {0: 1.0}, rows=20, width=8, model=model)
    done = actstore("probe", tmp_path / "s", "--out", tmp_path / "out")
    assert done.code == 2
    assert "a/one, b/two" in done.err
    done = actstore("probe", tmp_path / "s", "--model", "b/two", "--out", tmp_path / "out")
    assert done.code == 0


def test_regions_of_one_pooling_are_told_apart(actstore: Command, tmp_path: Path) -> None:
    for region in ("prompt", "response"):
        columns: dict[str, Any] = {"pooling": "mean", "region": [region] * 20}
        labelled.layered(tmp_path / "s", {0: 2.0}, rows=20, width=8, **columns)
        labelled.layered(tmp_path / "new", {0: 2.0}, rows=20, width=8, first=20, **columns)
    probed = actstore("probe", tmp_path / "s", "--permutations", 0, "--out", tmp_path / "out")
    scored = actstore("score", tmp_path / "new", "--probe", tmp_path / "out")
    for done in (probed, scored):
        assert done.code == 0, done.err
        rows = [line for line in done.out.splitlines() if line.startswith("resid_post")]
        assert [row.split("  ")[1].strip() for row in rows] == ["mean (prompt)", "mean (response)"]
