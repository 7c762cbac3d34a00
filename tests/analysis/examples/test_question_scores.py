"""Scores by question, tokens of one example together."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actstore.analysis.examples import question_scores
from actstore.analysis.examples.place_rows import ActivationPlace


def test_tokens_of_an_example_become_one_line(tmp_path: Path) -> None:
    table = pa.table(
        {
            "example_id": ["b", "a", "b", "b"],
            "question": ['Ü, "so"?\nyes', None, 'Ü, "so"?\nyes', 'Ü, "so"?\nyes'],
            "label": ["deploy", "test", "deploy", "test"],
            "position": pa.array([0, 0, 1, 0], pa.int32()),
        }
    )
    scores = np.array([1.0, 5.0, 3.0, 7.0])
    entries = question_scores.by_question(table, scores, "label")
    assert [entry[:3] for entry in entries] == [
        ("b", 'Ü, "so"?\nyes', "deploy"),
        ("a", None, "test"),
        ("b", 'Ü, "so"?\nyes', "test"),
    ]
    assert entries[0][3:] == pytest.approx((2, 3, 1, 1))
    assert entries[1][3:] == pytest.approx((5, 5, 5, 0))
    question_scores.write(tmp_path / "x.csv", entries)
    import pandas as pd

    read = pd.read_csv(tmp_path / "x.csv")
    assert tuple(read.columns) == question_scores.COLUMNS
    assert read["question"][0] == 'Ü, "so"?\nyes'
    assert read["mean_score"].tolist() == [2, 5, 7]


def test_nothing_gives_nothing() -> None:
    table = pa.table(
        {"example_id": pa.array([], pa.string()), "question": pa.array([], pa.string())}
    )
    table = table.append_column("label", pa.array([], pa.string()))
    assert question_scores.by_question(table, np.empty(0), "label") == []


def test_files_have_folders_only_where_layers_come_again() -> None:
    place = ActivationPlace("m", "resid_post", 6, "last", None)
    other = place._replace(layer=None)
    assert set(question_scores.folders([place, other]).values()) == {""}
    assert question_scores.file_name(other) == "probe_stats_layerunknown.csv"
    embedded = place._replace(site="embeddings", layer=-1)
    assert set(question_scores.folders([embedded, place]).values()) == {""}
    strange = place._replace(site="../blocks.0/x", region="prompt")
    found = question_scores.folders([place, strange])
    assert found[place] == "resid_post-last"
    assert found[strange] == "_blocks.0_x-last-prompt"
