"""Which number in a name is the layer, and what is refused where none can be told to be."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import RecipeError, UsageError
from actstore.ingestion.folder import recipe_of
from actstore.ingestion.run import ingest
from tests.ingestion.storing import stored_rows
from tests.layouts.drawing import WIDTH, draw

MODEL = "org/model"


def steering_files(folder: Path, *layers: int) -> None:
    """Files as contrastive activation addition saves them, with the model's name behind."""
    folder.mkdir()
    for layer in layers:
        for side in ("pos", "neg"):
            vectors = torch.full((5, WIDTH), float(layer))
            torch.save(vectors, folder / f"activations_{side}_{layer}_Llama-2-7b-chat-hf.pt")


def test_the_number_that_differs_is_the_layer(tmp_path: Path) -> None:
    steering_files(tmp_path / "f", 9, 13)
    said: dict[str, Any] = {"layer_from": "name", "example_from": "axis0"}
    summary = ingest(tmp_path / "f", tmp_path / "s", model=MODEL, **said)
    assert summary.layers == (9, 13)
    for row in stored_rows(tmp_path / "s"):
        assert row["activation"][0] == row["layer"]
        assert row["variant"] in ("activations_pos", "activations_neg")


def test_of_several_numbers_that_never_differ_none_is_taken(tmp_path: Path) -> None:
    steering_files(tmp_path / "f", 13)
    said: dict[str, Any] = {"example_from": "axis0"}
    with pytest.raises(UsageError, match=r"several numbers.*--layer 13"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL, layer_from="name", **said)
    assert ingest(tmp_path / "f", tmp_path / "s", model=MODEL, layer=13, **said).layers == (13,)


def test_the_number_of_an_example_is_not_that_of_the_layer(tmp_path: Path) -> None:
    for layer in (9, 13):
        for number in (1, 2):
            vector = torch.full((WIDTH,), float(layer))
            torch.save(vector, tmp_path / f"acts_{layer}_ex_{number}.pt")
    summary = ingest(tmp_path, tmp_path / "s", model=MODEL, layer_from="name")
    assert summary.layers == (9, 13)
    assert all(row["activation"][0] == row["layer"] for row in stored_rows(tmp_path / "s"))


def test_names_of_unlike_numbers_tell_no_layer(tmp_path: Path) -> None:
    for name in ("acts_13_Llama-2-7b", "acts_14_gpt2-xl"):
        torch.save(draw(5, WIDTH), tmp_path / f"{name}.pt")
    with pytest.raises(UsageError, match=r"acts_13_Llama-2-7b holds several numbers"):
        ingest(tmp_path, tmp_path / "s", model=MODEL, layer_from="name", example_from="axis0")


@pytest.mark.parametrize("key", [-1, "-1", "layer_-1", "blocks.-1"])
def test_layers_counted_from_the_end_are_refused(tmp_path: Path, key: int | str) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({key: np.ones((3, WIDTH), np.float32)}))
    with pytest.raises(RecipeError, match=r"below 0 counts from the end.*own numbers, from 0"):
        ingest(tmp_path / "f.pkl", tmp_path / "s", model=MODEL, yes=True)


def test_a_shorter_list_is_refused_not_shifted(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for number, layers in enumerate(((3, 4, 5), (3, 5), (3, 4, 5))):
        vectors = [torch.full((WIDTH,), float(layer)) for layer in layers]
        torch.save(vectors, tmp_path / "f" / f"p{number}.pt")
    summary = ingest(tmp_path / "f", tmp_path / "s", model=MODEL, layer_from="key1")
    assert [each.path for each in summary.refused] == ["p1.pt"]
    assert "2 tensors {layer:int}, expected 3" in summary.refused[0].reason
    assert {(row["layer"], float(row["activation"][0])) for row in stored_rows(tmp_path / "s")} == {
        (0, 3.0),
        (1, 4.0),
        (2, 5.0),
    }


def test_what_is_said_to_be_the_example_is_no_layer(tmp_path: Path) -> None:
    torch.save({f"layer_{n}": draw(WIDTH) for n in range(3)}, tmp_path / "p.pt")
    summary = ingest(tmp_path / "p.pt", tmp_path / "s", model=MODEL, example_from="key1", layer=7)
    assert summary.layers == (7,)
    assert sorted(row["example_id"] for row in stored_rows(tmp_path / "s")) == ["0", "1", "2"]


def test_rows_that_are_taken_for_layers_can_be_said_to_be_examples(tmp_path: Path) -> None:
    for step in (100, 200):
        torch.save(draw(6, WIDTH), tmp_path / f"step_{step}.pt")
    with pytest.raises(UsageError, match=r"it could be tokens or examples.*--example-from"):
        ingest(tmp_path, tmp_path / "s", model=MODEL)
    ingest(tmp_path, tmp_path / "s", model=MODEL, layer=3, example_from="axis0")
    assert len({row["example_id"] for row in stored_rows(tmp_path / "s")}) == 12


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    held = io.BytesIO()
    torch.save({"layer_1": draw(WIDTH)}, held)
    with zipfile.ZipFile(tmp_path / "f" / "all.zip", "w") as archive:
        archive.writestr("p0.pt", held.getvalue())
    with pytest.raises(RecipeError, match=r"all\.zip is packed: unpack such files"):
        ingest(tmp_path / "f", tmp_path / "s", model=MODEL)
    with zipfile.ZipFile(tmp_path / "f" / "all.zip") as archive:
        archive.extractall(tmp_path / "f")
    assert ingest(tmp_path / "f", tmp_path / "s", model=MODEL).rows_written == 1


def test_the_recipe_of_two_numbers_in_a_key_is_its_own(tmp_path: Path) -> None:
    torch.save({"layer_1/prompt_2": draw(WIDTH)}, tmp_path / "p.pt")
    assert 'key = "layer_{layer:int}/prompt_{example:int}"' in recipe_of(tmp_path).recipe.text


def test_layers_in_front_of_sites(tmp_path: Path) -> None:
    places = [(layer, site) for layer in (2, 10) for site in ("attn_out", "mlp_out")]
    matrices = {place: draw(3, WIDTH) for place in places}
    for (layer, site), matrix in matrices.items():
        torch.save(matrix, tmp_path / f"layer_{layer}_{site}.pt")
    ingest(tmp_path, tmp_path / "s", model=MODEL, example_from="axis0")
    rows = stored_rows(tmp_path / "s")
    assert {(row["layer"], row["site"]) for row in rows} == {*places}
    for row in rows:
        vector = matrices[row["layer"], row["site"]][row["example_index"]]
        assert row["activation"].tobytes() == vector.numpy().tobytes()
