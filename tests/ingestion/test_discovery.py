"""Finding files: natural order, links, hidden files, caches, and which recipe fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actstore.errors import RecipeError, RefusedError, UsageError
from actstore.ingestion import recipes
from actstore.ingestion.discovery import assign, cache_names, discover
from actstore.ingestion.recipe import Recipe
from actstore.ingestion.run import ingest
from actstore.ingestion.source_file import evenly
from actstore.ingestion.walking import Passed, natural, walk
from tests.layouts import amber, spatialeval


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def simple(path: str, name: str = "r", more: str = "") -> Recipe:
    return recipes.parse(
        f'name = "{name}"\ncontainer = "numpy"\n{more}\n[[files]]\npath = "{path}"\n'
        '[[tensors]]\nkey = "v"\naxes = [["hidden"]]\n'
        '[columns]\nexample_id = "{stem}"\nsite = "s"\npooling = "last"\nmodel = "m"\n'
    )


def test_natural_order() -> None:
    names = ["batch_10", "batch_2", "batch_02b", "a", "10", "9", ""]
    assert sorted(names, key=natural) == ["", "9", "10", "a", "batch_02b", "batch_2", "batch_10"]


def test_walk_goes_folder_by_folder_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "L10/b_1.pt", "L2/b_10.pt", "L2/b_9.pt", "L2-old/b_1.pt", "a.csv")
    found = [entry.relative for entry in walk([tmp_path])]
    assert found == ["L2/b_9.pt", "L2/b_10.pt", "L2-old/b_1.pt", "L10/b_1.pt", "a.csv"]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden.pt", ".git/x.pt", "a/.cache/y.pt", "a/b.pt")
    assert [entry.relative for entry in walk([tmp_path])] == ["a/b.pt"]


def test_names_that_are_no_text_are_made_readable(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    np.savez(tmp_path / "f/a.npz", v=np.ones(3, np.float32))
    os.rename(os.fsencode(tmp_path / "f/a.npz"), os.fsencode(tmp_path / "f") + b"/caf\xe9.npz")
    summary = ingest(tmp_path, tmp_path / "store", recipe=simple("{task}/{k}.npz"))
    assert not summary.refused
    assert summary.first_row is not None
    assert summary.first_row["source"] == "f/caf\ufffd.npz#v"


def test_sources_within_each_other_are_one_list(tmp_path: Path) -> None:
    touch(tmp_path, "a/x_2.pt", "a/x_10.pt", "a/x/1.pt", "a/01/y.pt", "a/1/y.pt", "b.pt", "a.pt")
    whole = walk([tmp_path])
    names = ["a/01/y.pt", "a/1/y.pt", "a/x/1.pt", "a/x_2.pt", "a/x_10.pt", "a.pt", "b.pt"]
    assert [entry.relative for entry in whole] == names
    assert walk([tmp_path, tmp_path / "a", tmp_path / "b.pt"]) == whole
    inner = walk([tmp_path / "a/x", tmp_path])
    assert [entry.path for entry in inner] == [entry.path for entry in whole]
    assert [entry.relative for entry in inner if entry.root != tmp_path] == ["1.pt"]


def test_links_do_not_lead_out_of_the_source(tmp_path: Path) -> None:
    touch(tmp_path, "outside/secret.pt", "source/inside/a.pt")
    source = tmp_path / "source"
    (source / "folder").symlink_to(tmp_path / "outside")
    (source / "file.pt").symlink_to(tmp_path / "outside/secret.pt")
    (source / "dangling").symlink_to(tmp_path / "nowhere")
    (source / "same.pt").symlink_to(source / "inside/a.pt")
    (source / "inside" / "loop").symlink_to(source)
    assert [entry.relative for entry in walk([source])] == ["inside/a.pt", "same.pt"]


def test_a_source_may_itself_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "far/away/a.pt")
    (tmp_path / "activations").symlink_to(tmp_path / "far/away")
    (found,) = walk([tmp_path / "activations"])
    assert found.relative == "a.pt"
    assert found.path == tmp_path / "activations" / "a.pt"


def test_overlapping_sources_give_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.pt", "a/2.pt", "b/1.pt")
    found = walk([tmp_path / "a", tmp_path / "a/1.pt", tmp_path / "b"])
    assert [entry.path.relative_to(tmp_path).as_posix() for entry in found] == [
        "a/1.pt",
        "a/2.pt",
        "b/1.pt",
    ]


def test_a_source_must_exist_and_hold_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        walk([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no file"):
        discover([tmp_path / "empty"], recipe=simple("{k}.npz"))


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/r/a", "/r/b"], ["a", "b"]),
        (["/r/p1/data/acts", "/r/p2/data/acts"], ["p1", "p2"]),
        (["/r/p1/acts", "/r/p2/x/acts"], ["p1", "p2/x"]),
        (["/r", "/r/val"], ["r", "val"]),
        (["/r/a/x", "/r/a/y", "/r/b/x"], ["a/x", "a/y", "b/x"]),
    ],
)
def test_caches_are_named_by_what_sets_them_apart(folders: list[str], names: list[str]) -> None:
    found = cache_names({Path(folder): Path("/r") for folder in folders})
    assert [found[Path(folder)] for folder in folders] == names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["/home/me/acts", "/mnt/data/acts"], ["me", "data"]),
        (["/home/me/one", "/mnt/data/two"], ["one", "two"]),
        (["/home/me/x/acts", "/mnt/me/x/acts"], ["home", "mnt"]),
        (["/home/me/x/acts", "/mnt/you/x/acts"], ["me", "you"]),
        (["/home/me/one", "/one"], ["me", "one"]),
        (["/home/me/proj", "/home/me/proj/sub"], ["proj", "sub"]),
    ],
)
def test_folders_above_sources_are_named_where_they_must_be(
    sources: list[str], names: list[str]
) -> None:
    found = cache_names({Path(source): Path(source) for source in sources})
    assert [found[Path(source)] for source in sources] == names


def test_several_sources_are_several_caches(tmp_path: Path) -> None:
    touch(tmp_path, "one/acts/L1/x.npz", "two/acts/L1/x.npz", "two/acts/L2/x.npz")
    entries = walk([tmp_path / "one/acts", tmp_path / "two"])
    files, others = assign(simple("L{layer:int}/x.npz"), entries)
    assert [(file.cache, file.parts["layer"]) for file in files] == [
        ("one", 1),
        ("two", 1),
        ("two", 2),
    ]
    assert not others
    files, _ = assign(simple("L{layer:int}/x.npz"), walk([tmp_path / "two"]))
    assert [file.cache for file in files] == [None, None]


def test_folders_above_the_source_complete_a_template(tmp_path: Path) -> None:
    touch(tmp_path, "cache/L7/x.npz")
    (file,), _ = assign(simple("L{layer:int}/x.npz"), walk([tmp_path / "cache/L7"]))
    assert (file.relative, file.parts) == ("x.npz", {"layer": 7})
    assert file.folder == tmp_path / "cache"
    (found,), _ = assign(simple("L{layer:int}/x.npz"), walk([tmp_path / "cache/L7/x.npz"]))
    assert found.parts == {"layer": 7}
    assert assign(simple("{task}/x.npz"), walk([tmp_path / "cache/L7"]))[0] == []


def test_a_pattern_may_ask_for_a_file_beside(tmp_path: Path) -> None:
    touch(tmp_path, "d/train/state.npz", "d/marker.json", "e/train/state.npz")
    text = simple("{split}/state.npz").text.replace(
        "[[tensors]]",
        'beside = "../marker.json"\nfolder = true\n[[files]]\npath = "state.npz"\n[[tensors]]',
    )
    files, others = assign(recipes.parse(text), walk([tmp_path]))
    assert [file.parts for file in files] == [{"split": "train"}, {}]
    assert files[0].content == tmp_path / "d/train"
    assert not others


def test_the_first_pattern_that_fits_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "tqa/x.npz", "x.npz")
    text = simple("{mode:tqa|vqa}/{k}.npz").text.replace(
        "[[tensors]]", '[[files]]\npath = "{k}.npz"\nconstants = { mode = "none" }\n[[tensors]]'
    )
    files, _ = assign(recipes.parse(text), walk([tmp_path]))
    assert [file.parts["mode"] for file in files] == ["tqa", "none"]


def test_the_recipe_is_found_by_path_and_content(tmp_path: Path) -> None:
    spatialeval.write_cache(tmp_path / "a")
    amber.write_samples(tmp_path / "b", samples=2, layers=2)
    known = list(recipes.known().values())
    for folder, name in (("a", "spatialeval"), ("b", "amber")):
        found = discover([tmp_path / folder], recipe=None, recipes=known)
        assert (found.recipe.name, found.detected) == (name, True)
    with pytest.raises(RecipeError, match=r"2 recipes fit \(amber, spatialeval\).*--recipe NAME"):
        discover([tmp_path], recipe=None, recipes=known)
    chosen = discover([tmp_path], recipe=recipes.load("amber"))
    assert not chosen.detected
    assert len(chosen.files) == 2


def test_a_damaged_sample_does_not_hide_the_layout(tmp_path: Path) -> None:
    amber.write_samples(tmp_path, samples=30, layers=1)
    for path in (tmp_path / "sample_0000.pt", tmp_path / "sample_0029.pt"):
        path.write_bytes(b"PK garbage")
    found = discover([tmp_path], recipe=None, recipes=recipes.known().values())
    assert found.recipe.name == "amber"


def test_where_nothing_fits_the_error_says_what_was_seen(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(3)}, tmp_path / "probe.pt")
    touch(tmp_path, "notes.txt", "more.txt")
    with pytest.raises(RecipeError) as caught:
        discover([tmp_path], recipe=None, recipes=recipes.known().values())
    text = str(caught.value)
    for words in ("no recipe fits", "3 files (2 .txt, 1 .pt)", "probe.pt", "amber", "--recipe"):
        assert words in text
    assert "weights: [3]: by its name no activations" in text
    with pytest.raises(RecipeError, match=r"no file fits recipe amber \(sample_"):
        discover([tmp_path], recipe=recipes.load("amber"))


def test_generic_recipes_come_second(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", v=np.ones(3, np.float32))
    special = simple("{k}.npz", "special")
    generic = simple("{k}.npz", "generic", "generic = true")
    assert discover([tmp_path], recipe=None, recipes=[generic, special]).recipe is special
    assert discover([tmp_path], recipe=None, recipes=[generic]).recipe is generic


def test_samples_are_spread_evenly(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.npz" for number in range(100)))
    files, _ = assign(simple("{k:int}.npz"), walk([tmp_path]))
    assert [file.parts["k"] for file in evenly(files, 4)] == [0, 33, 66, 99]
    assert len(evenly(files[:3], 4)) == 3


def test_links_that_are_not_followed_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "far/a.npz", "source/README.md")
    source = tmp_path / "source"
    (source / "activations").symlink_to(tmp_path / "far")
    (source / "gone").symlink_to(tmp_path / "nowhere")
    (source / "loop").symlink_to(source)
    passed = Passed()
    walk([source], passed)
    assert sorted(passed.links) == [
        "activations -> …/far",
        "gone -> …/nowhere, which does not exist",
    ]
    with pytest.raises(RecipeError, match=r"1 file \(1 \.md\).*not followed: .*far"):
        discover([source], recipe=simple("{k}.npz"))
    (source / "README.md").unlink()
    with pytest.raises(UsageError, match=r"holds no file .*activations -> .*name such a link"):
        discover([source], recipe=None)
    np.savez(source / "b.npz", v=np.ones(3, np.float32))
    summary = ingest(source, tmp_path / "store", recipe=simple("{k}.npz"))
    assert any("not followed" in note and "activations -> " in note for note in summary.notes)


def test_sidecars_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", v=np.ones(3, np.float32))
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.npz").write_bytes((tmp_path / f"{name}.npz").read_bytes())
        (tmp_path / name / "t.json").write_text('[{"id": "x", "label": "a"}]')
        (tmp_path / f"{name}.npz").unlink()
    recipe = recipes.parse(
        'name = "r"\ncontainer = "numpy"\n[[files]]\npath = "{k}.npz"\n'
        '[[tensors]]\nkey = "v"\naxes = [["hidden"]]\n'
        '[columns]\nexample_id = "{path.k}"\nsite = "s"\npooling = "last"\nmodel = "m"\n'
        'label = "{sidecar.t.label}"\n'
        '[[sidecars]]\nname = "t"\npaths = ["t.json"]\non = { id = "{column.example_id}" }\n'
    )
    summary = ingest(tmp_path, tmp_path / "store", recipe=recipe)
    assert any("sidecar t: one/t.json, two/t.json" in note for note in summary.notes)


def test_no_recipe_fits_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"junk")
    with pytest.raises(RecipeError, match=r"no recipe fits.* a\.pt: is not a torch file"):
        discover([tmp_path], recipe=None, recipes=recipes.known().values())


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_may_not_be_listed_is_refused_by_name(tmp_path: Path, mode: int) -> None:
    for name in ("a", "b/inner", "c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        np.save(tmp_path / "in" / name / "layer_3.npy", np.ones((2, 4), np.float32))
    for folder in (*tmp_path.parents, tmp_path):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o777)
    closed = tmp_path / "in" / "b" / "inner"
    closed.chmod(mode)
    own = os.geteuid()
    options: dict[str, Any] = {"model": "m", "site": "resid_post", "recipe": "numpy"}
    try:
        os.seteuid(65534 if own == 0 else own)  # root may list anything
        with pytest.raises(UsageError, match=r"holds no file .*no permission"):
            ingest(closed, tmp_path / "s" / "closed", **options)
        summary = ingest(tmp_path / "in", tmp_path / "s" / "all", **options)
        with pytest.raises(RefusedError, match="b/inner"):
            ingest(tmp_path / "in", tmp_path / "s" / "strict", strict=True, **options)
    finally:
        os.seteuid(own)
        closed.chmod(0o755)
    (refused,) = summary.refused
    named = "b/inner" if mode == 0 else "b/inner/layer_3.npy"
    assert (refused.path, "no permission to look into" in refused.reason) == (named, True)
    assert summary.rows_written == 4
