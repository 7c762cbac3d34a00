"""Rows that something was made of are known in any store, and left out of figures."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import actstore
from actstore.analysis.examples import example_groups, lineages
from actstore.analysis.examples.place_rows import RowChoice
from actstore.analysis.probes import probe_files, probing, scoring
from actstore.analysis.probes.splits import ProbeSettings
from actstore.analysis.steering import validation, vector_files, vectors
from actstore.errors import TooFewRowsError
from actstore.ingestion.labeling import label_by_expression
from actstore.storage import compaction
from tests.analysis import labelled

HALF = "example_index % 2 = 0"
QUICK = ProbeSettings(permutations=0, folds=2)


def noise(root: Path, *, rows: int = 40, width: int = 64, seed: int = 0, **columns: Any) -> Path:
    """Make a store of one layer whose labels mean nothing."""
    columns.setdefault("example_index", list(range(rows)))
    labelled.layered(root, {3: 0.0}, rows=rows, width=width, seed=seed, **columns)
    return root


def made(root: Path, out: Path, **given: Any) -> Path:
    with actstore.open(root) as store:
        vector_files.save(vectors.steer(store, **given), out)
    return out


def flags(root: Path, run: Path, where: str | None = None) -> list[bool]:
    """Return which rows of a store count as rows of a saved vector's making."""
    (one,) = vector_files.load(run)
    with actstore.open(root) as store:
        own = lineages.own_rows(store.select(where), store, one.made_of, one.lineage, one.place)
    assert own is not None
    return [bool(each) for each in own]


def test_keys_are_as_the_page_says() -> None:
    text = json.dumps(["question", "Wie heißt du?"], ensure_ascii=False, separators=(",", ":"))
    expected = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert lineages.asked(np.array([int(expected, 16)], np.uint64), "Wie heißt du?")
    assert not lineages.asked(np.array([int(expected, 16)], np.uint64), "wie heißt du?")


def test_noise_is_a_half_held_out_and_perfect_only_in_sample(tmp_path: Path) -> None:
    held, own = [], []
    for seed in range(12):
        root = noise(tmp_path / str(seed), seed=seed)
        run = made(root, tmp_path / f"run{seed}", choice=RowChoice(where=HALF))
        with actstore.open(root) as store:
            (one,) = validation.validate(store, run).layers
            assert one.in_sample == (20, False)
            assert one.examples == 20
            held.append(one.auroc.value)
            (one,) = validation.validate(
                store, run, choice=RowChoice(where=HALF), in_sample=True
            ).layers
            assert one.in_sample == (20, True)
            own.append(one.auroc.value)
    assert np.mean(held) == pytest.approx(0.5, abs=0.08)
    assert np.mean(own) > 0.98


def test_a_signal_is_found_on_the_half_that_is_left(tmp_path: Path) -> None:
    labelled.layered(tmp_path / "s", {3: 2.0}, example_index=list(range(60)))
    run = made(tmp_path / "s", tmp_path / "run", choice=RowChoice(where=HALF))
    with actstore.open(tmp_path / "s") as store:
        (one,) = validation.validate(store, run).layers
    assert one.auroc.low > 0.7


def test_nothing_left_is_one_error_that_says_what_to_do(tmp_path: Path) -> None:
    root = noise(tmp_path / "s")
    run = made(root, tmp_path / "run")
    with (
        actstore.open(root) as store,
        pytest.raises(TooFewRowsError, match=r"all 40 rows .*--where .*--in-sample"),
    ):
        validation.validate(store, run)
    with actstore.open(root) as store:
        probe_files.save(probing.probe(store, settings=QUICK), tmp_path / "probes")
        with pytest.raises(TooFewRowsError, match=r"all 40 rows .*--test .*--in-sample"):
            scoring.score(store, tmp_path / "probes")
        (one,) = scoring.score(store, tmp_path / "probes", in_sample=True)
        assert one.in_sample == (40, True)
        assert scoring.table(store, [one])["in_sample"].to_pylist() == [True] * 40
        number = scoring.write_labels(store, [one], "class")
        assert number is not None
        assert "IN-SAMPLE" in store.refresh()._snapshot.manifest.message


def test_rows_are_known_in_copies_and_after_relabelling_and_compaction(tmp_path: Path) -> None:
    root = noise(tmp_path / "s")
    run = made(root, tmp_path / "run", choice=RowChoice(where=HALF))
    shutil.copytree(root, tmp_path / "copy")
    expected = [number % 2 == 0 for number in range(40)]
    assert flags(tmp_path / "copy", run) == expected
    label_by_expression(tmp_path / "copy", "'else'")
    labelled.add(tmp_path / "copy", np.ones((2, 64), np.float16), ["a", "b"], layer=3, first=90)
    done = compaction.compact(tmp_path / "copy")
    assert (done.shards_after, done.labels_folded) == (1, 40)
    assert flags(tmp_path / "copy", run) == [*expected, False, False]


@pytest.mark.parametrize(
    ("columns", "known"),
    [
        ({}, True),  # the same questions
        ({"question": [f"another {number}" for number in range(40)]}, False),
        ({"question": [None] * 40}, True),  # nothing but the ids, and they are the same
        ({"dataset": ["d"] * 40, "question": ["?"] * 40}, False),
    ],
)
def test_examples_of_another_store_are_known_by_question_or_id(
    tmp_path: Path, columns: dict[str, Any], known: bool
) -> None:
    run = made(noise(tmp_path / "s"), tmp_path / "run")
    ids = [f"e{number}" for number in range(40)]
    stores_add(tmp_path / "t", example_id=ids, run="another", **columns)
    assert flags(tmp_path / "t", run) == [known] * 40


def stores_add(root: Path, run: str, **columns: Any) -> None:
    from actstore.storage.manifest import Run
    from actstore.storage.rows import RowBatch
    from actstore.storage.writer import StoreWriter

    given = {"question": [f"question {n}?" for n in range(40)], "label": ["a", "b"] * 20}
    constants = {
        "model": labelled.MODEL,
        "site": "resid_post",
        "layer": 3,
        "pooling": "last",
    }
    with StoreWriter(root, run=Run(run_id=run, kind="test", started_at="")) as writer:
        matrix = np.random.default_rng(1).standard_normal((40, 64)).astype(np.float32)
        writer.add(RowBatch(vectors=matrix, constants=constants, columns={**given, **columns}))
        writer.commit(operation="test", message="rows")


def test_a_data_set_s_name_and_split_make_examples_known(tmp_path: Path) -> None:
    names: dict[str, Any] = {"dataset": ["d"] * 40, "split": ["train"] * 40}
    run = made(noise(tmp_path / "s", **names), tmp_path / "run", choice=RowChoice(where=HALF))
    other = [f"Put otherwise, {number}?" for number in range(40)]
    ids = [f"e{number}" for number in range(40)]
    for split, known in (("train", True), ("test", False)):
        stores_add(
            tmp_path / split,
            run="another",
            example_id=ids,
            question=other,
            dataset=["d"] * 40,
            split=[split] * 40,
        )
        expected = [known and number % 2 == 0 for number in range(40)]
        assert flags(tmp_path / split, run) == expected


def test_rows_that_got_the_name_of_their_data_set_later_are_known(tmp_path: Path) -> None:
    root = noise(tmp_path / "s", questions=[" "] * 40)
    run = made(root, tmp_path / "run", choice=RowChoice(where=HALF))
    expected = [number % 2 == 0 for number in range(40)]
    assert flags(root, run) == expected
    with actstore.open(root) as store:
        store.rename({"dataset": "mine", "split": "train"})
    assert flags(root, run) == expected


def test_the_other_phrasing_of_a_pair_is_of_the_making(tmp_path: Path) -> None:
    pairs: dict[str, Any] = {
        "example_id": [f"e{number // 2}" for number in range(40)],
        "variant": ["a", "b"] * 20,
    }
    root = noise(tmp_path / "s", **pairs)
    run = made(root, tmp_path / "run", choice=RowChoice(where="variant = 'a'"))
    assert flags(root, run) == [True] * 40


def test_a_named_group_takes_the_place_of_the_question(tmp_path: Path) -> None:
    same: dict[str, Any] = {"questions": ["Is there a dog?", "Is there a cat?"] * 20}
    cities: dict[str, Any] = {
        "extra": [json.dumps({"city": f"c{number // 4}"}) for number in range(40)]
    }
    root = noise(tmp_path / "s", **same, **cities)
    few = RowChoice(where="example_index < 6")
    assert flags(root, made(root, tmp_path / "a", choice=few)) == [True] * 40
    run = made(root, tmp_path / "b", choice=few, group_by="example_id")
    assert flags(root, run) == [number < 6 for number in range(40)]
    run = made(root, tmp_path / "c", choice=few, group_by="extra.city")
    assert flags(root, run) == [number < 8 for number in range(40)]
    run = made(root, tmp_path / "d", choice=few, group_by="row_id")
    assert flags(root, run) == [number < 6 for number in range(40)]


def without_keys(path: Path) -> None:
    """Make a file as versions before keys wrote it."""
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
        kept = {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 - no dict
            if not name.startswith(lineages.TENSOR)
        }
    save_file(kept, path, metadata=metadata)


def test_files_without_keys_go_by_their_lineage_or_say_that_nobody_knows(tmp_path: Path) -> None:
    root = noise(tmp_path / "s")
    choice = RowChoice(where=HALF, layers=[3], model=labelled.MODEL, site="resid_post")
    run = made(root, tmp_path / "run", choice=choice)
    without_keys(run / vector_files.FILE)
    (one,) = vector_files.load(run)
    assert one.made_of is None
    expected = [number % 2 == 0 for number in range(40)]
    assert flags(root, run) == expected
    # The store has grown since: its earlier commit has the fingerprint.
    labelled.add(root, np.ones((2, 64), np.float32), ["yes", "no"], layer=3, first=90)
    assert flags(root, run) == [*expected, False, False]
    # Another store: nobody knows, and it is said.
    other = noise(tmp_path / "t", seed=5)
    with actstore.open(other) as store:
        found = validation.validate(store, run)
    assert found.layers[0].in_sample == (None, False)
    assert any("not known which rows" in note for note in found.notes)
    assert validation.summary(found)[0]["in_sample"] is None


def test_a_lineage_that_says_nothing_readable_says_that_nobody_knows(tmp_path: Path) -> None:
    root = noise(tmp_path / "s")
    (one,) = vector_files.load(made(root, tmp_path / "run"))
    with actstore.open(root) as store:
        for query, known in (("layer = [3]", True), ("layer = [3 4]", False), ("layer = [", False)):
            lineage = {**one.lineage, "query": query}
            own = lineages.own_rows(store.select(), store, None, lineage, one.place)
            assert (own is not None) is known


def test_a_probe_of_a_training_part_knows_that_part(tmp_path: Path) -> None:
    root = noise(tmp_path / "s")
    with actstore.open(root) as store:
        report = probing.probe(store, settings=QUICK, train=HALF, test="example_index % 2 = 1")
        probe_files.save(report, tmp_path / "probes")
        (one,) = scoring.score(store, tmp_path / "probes")
        assert one.in_sample == (20, False)
        assert one.rows.tolist() == list(range(1, 40, 2))
        assert scoring.table(store, [one])["in_sample"].to_pylist() == [False] * 20
        (path,) = (tmp_path / "probes").rglob("*.safetensors")
        without_keys(path)
        (again,) = scoring.score(store, tmp_path / "probes")
    assert again.rows.tolist() == one.rows.tolist()


def test_probes_on_noise_are_a_half_on_rows_that_are_left(tmp_path: Path) -> None:
    held, own = [], []
    for seed in range(8):
        root = noise(tmp_path / str(seed), seed=seed)
        with actstore.open(root) as store:
            out = tmp_path / f"probes{seed}"
            report = probing.probe(store, settings=QUICK, choice=RowChoice(where=HALF))
            probe_files.save(report, out)
            (one,) = scoring.score(store, out)
            assert one.auroc is not None
            held.append(one.auroc.value)
            (one,) = scoring.score(store, out, choice=RowChoice(where=HALF), in_sample=True)
            assert one.auroc is not None
            own.append(one.auroc.value)
    assert np.mean(held) == pytest.approx(0.5, abs=0.1)
    assert np.mean(own) > 0.98


def test_one_question_for_all_rows_is_no_key(tmp_path: Path) -> None:
    root = noise(tmp_path / "s", questions=["Describe this image."] * 40)
    run = made(root, tmp_path / "run", choice=RowChoice(where=HALF))
    assert flags(root, run) == [number % 2 == 0 for number in range(40)]
    (one,) = vector_files.load(run)
    assert one.lineage["group_by"] == example_groups.EXAMPLE


def test_blank_questions_are_no_question_that_rows_share(tmp_path: Path) -> None:
    for name, first in (("s", 0), ("new", 40)):
        labelled.add(
            tmp_path / name,
            np.random.default_rng(first).standard_normal((40, 4)).astype(np.float32),
            ["yes", "no"] * 20,
            questions=["", " "] * 20,
            dataset=["set"] * 40,
            first=first,
        )
    with actstore.open(tmp_path / "s") as made, actstore.open(tmp_path / "new") as new:
        keys = lineages.keys(made.select(), "example_id or question")
        assert lineages.shared(made.select(), keys, "example_id or question").all()
        assert not lineages.shared(new.select(), keys, "example_id or question").any()
