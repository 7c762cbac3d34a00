"""Hook pickles come back as safe torch files, and document 004's load and compare code works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import actstore
from actstore.errors import ExportError
from actstore.ingestion.run import ingest
from tests.exporting.trips import assert_same_files, assert_same_rows, export, load, round_trip
from tests.layouts import hook_pickle

RENAMED = (".pkl", ".pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decoded_steps_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    source = tmp_path / "activations"
    hook_pickle.write_decoded(source, dtype=dtype)
    hook_pickle.write_direct(source)
    out = round_trip(source, tmp_path, "hook-pickle", changed=("source",))
    assert_same_files(source, out, "*.pkl", renamed=RENAMED)


@pytest.mark.parametrize("generated", [0, 3])
def test_whole_sequences_come_back(tmp_path: Path, generated: int) -> None:
    source = tmp_path / "activations"
    hook_pickle.write_full_sequence(source, generated=generated, dtype=torch.bfloat16)
    out = round_trip(source, tmp_path, "hook-pickle", changed=("source",))
    assert_same_files(source, out, "*.pkl", renamed=RENAMED)


def test_torch_files_keep_even_their_source(tmp_path: Path) -> None:
    hook_pickle.write_torch(tmp_path / "source")
    out = round_trip(tmp_path / "source", tmp_path, "hook-pickle")
    assert_same_files(tmp_path / "source", out)


def test_names_that_differ_in_case_come_back(tmp_path: Path) -> None:
    for number, name in enumerate(("a.pkl", "A.pickle")):
        hook_pickle.write_full_sequence(tmp_path / "source", name=name, seed=number)
    out = round_trip(tmp_path / "source", tmp_path, "hook-pickle", changed=("source",))
    assert sorted(path.name for path in out.glob("*.pt")) == ["A.pt", "a.pt"]


def test_verdicts_come_back_with_the_logs(tmp_path: Path) -> None:
    source = tmp_path / "project"
    hook_pickle.write_decoded(source / "activations")
    hook_pickle.write_results(source, hook_pickle.QUESTIONS[:2])
    round_trip(source, tmp_path, "hook-pickle", changed=("source",))


def test_a_label_without_any_log_is_said_to_be_lost(tmp_path: Path) -> None:
    source = tmp_path / "project"
    hook_pickle.write_decoded(source / "activations")
    hook_pickle.write_results(source, hook_pickle.QUESTIONS[:1])
    ingest(source, tmp_path / "store", recipe="hook-pickle")
    done = export(tmp_path / "store", "hook-pickle", tmp_path / "out", "label = 'incorrect'")
    assert any("labels are not written" in note for note in done.notes)
    assert not (tmp_path / "out/results").exists()


def test_the_documents_code_loads_and_compares(tmp_path: Path) -> None:
    source = tmp_path / "activations"
    hook_pickle.write_decoded(source)
    ingest(source, tmp_path / "store", recipe="hook-pickle")
    export(tmp_path / "store", "hook-pickle", tmp_path / "out")
    for original, safe in zip(sorted(source.iterdir()), _files(tmp_path / "out"), strict=True):
        ours, theirs = load_activations(safe), load(original)
        assert list(ours["activations"]) == ["embeddings", "layer_0", "layer_1", "layer_2"]
        assert _statistics(ours) == _statistics(theirs)
    first, second = (load_activations(path) for path in _files(tmp_path / "out")[:2])
    one = first["activations"]["layer_0"].float().flatten()
    other = second["activations"]["layer_0"].float().flatten()
    similarity = torch.nn.functional.cosine_similarity(one[None], other[None]).item()
    assert -1 <= similarity < 1


def load_activations(path: Path) -> dict[str, Any]:
    """The document's function, with the safe loader where it had pickle.load."""
    data: dict[str, Any] = torch.load(path, weights_only=True)
    return data


def _statistics(data: dict[str, Any]) -> dict[str, Any]:
    return {
        name: (tensor.float().mean().item(), tensor.float().std().item(), tensor.shape)
        for name, tensor in data["activations"].items()
    }


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"))


def test_other_sites_are_refused(tmp_path: Path) -> None:
    from tests.querying.stores import layered

    layered(tmp_path / "store", layers=2, rows=3)
    export(tmp_path / "store", "hook-pickle", tmp_path / "out")
    data = torch.load(tmp_path / "out/e1.pt", weights_only=True)
    assert list(data["activations"]) == ["layer_0", "layer_1"]
    assert data["activations"]["layer_1"].shape == (1, 1, 8)
    from tests.querying.stores import add, vectors

    add(tmp_path / "other", vectors(2, 4, "float16", 0), site="mlp_out")
    with pytest.raises(ExportError, match="--sites resid_post"):
        export(tmp_path / "other", "hook-pickle", tmp_path / "out2")


def test_a_store_of_the_export_equals_one_of_the_pickles(tmp_path: Path) -> None:
    hook_pickle.write_decoded(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="hook-pickle")
    export(tmp_path / "store", "hook-pickle", tmp_path / "out")
    ingest(tmp_path / "out", tmp_path / "again")
    assert_same_rows(tmp_path / "store", tmp_path / "again", ("source",))


def test_a_key_named_like_the_logs_is_no_log(tmp_path: Path) -> None:
    hook_pickle.write_torch(tmp_path / "source")
    for path in (tmp_path / "source").glob("*.pt"):
        torch.save({**torch.load(path, weights_only=True), "logs": ["a", "b"]}, path)
    out = round_trip(tmp_path / "source", tmp_path, "hook-pickle")
    assert_same_files(tmp_path / "source", out)


def test_names_too_long_for_a_file(tmp_path: Path) -> None:
    """A name counts in bytes; two that are cut to the same one are told apart by nothing."""
    from tests.querying.stores import add, vectors

    name = "\u8cea" * 100
    add(tmp_path / "one", vectors(1, 8, "float16", 1), example_id=[name])
    export(tmp_path / "one", "hook-pickle", tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.pt")
    assert name.startswith(path.stem)
    add(tmp_path / "two", vectors(2, 8, "float16", 1), example_id=[f"{name}a", f"{name}b"])
    with pytest.raises(ExportError, match="would both become"):
        export(tmp_path / "two", "hook-pickle", tmp_path / "out 2")


def test_layers_that_were_renamed_have_their_new_numbers(tmp_path: Path) -> None:
    hook_pickle.write_torch(tmp_path / "source")
    ingest(tmp_path / "source", tmp_path / "store", recipe="hook-pickle")
    with actstore.open(tmp_path / "store") as store:
        store.rename("layer = layer + 1", "site = 'resid_post'")
    export(tmp_path / "store", "hook-pickle", tmp_path / "out")
    assert not ingest(tmp_path / "out", tmp_path / "again", recipe="hook-pickle").refused
    assert_same_rows(tmp_path / "store", tmp_path / "again", changed=("source",))
