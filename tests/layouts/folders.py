"""Folders of activations that no recipe describes, as people save them, with the rows they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tests.layouts import folders_of_classes as classes
from tests.layouts import folders_of_numbers as numbers
from tests.layouts import folders_of_tools as tools
from tests.layouts import folders_with_tables as tables
from tests.layouts.drawing import WIDTH, Row, draw, row, rows_of


class Shape(NamedTuple):
    """One way to save activations."""

    write: Callable[[Path], list[Row]]
    """Writes the folder and returns its rows."""
    guessed: set[str]
    """``role = place`` of each guess."""


def _vector_per_layer(folder: Path) -> list[Row]:
    rows = []
    for number in range(3):
        vectors = {f"L{layer}": draw(WIDTH) for layer in (3, 10)}
        torch.save(vectors, folder / f"prompt_{number}.pt")
        rows += [
            row(vectors[f"L{layer}"], example_id=f"prompt_{number}", layer=layer)
            for layer in (3, 10)
        ]
    return rows


def _tokens_per_layer(folder: Path) -> list[Row]:
    rows = []
    for number in range(3):
        states = {layer: draw(2 + number, WIDTH) for layer in (0, 1)}
        torch.save(states, folder / f"prompt_{number}.pt")
        for layer, matrix in states.items():
            rows += rows_of(matrix, example_id=f"prompt_{number}", layer=layer, pooling="none")
    return rows


def _bare_matrices(folder: Path) -> list[Row]:
    rows = []
    for layer in (2, 5):
        matrix = draw(4, WIDTH)
        torch.save(matrix, folder / f"layer_{layer:02d}.pt")
        rows += [
            row(vector, example_id=str(at), example_index=at, layer=layer, position=None)
            for at, vector in enumerate(matrix)
        ]
    return rows


def _nested(folder: Path) -> list[Row]:
    rows = []
    for name in ("a", "b"):
        acts = {
            layer: {site: draw(WIDTH) for site in ("resid_post", "mlp_out")} for layer in (0, 1, 2)
        }
        torch.save({"acts": acts, "prompt": f"Why {name}?"}, folder / f"{name}.pt")
        rows += [
            row(vector, example_id=name, layer=layer, site=site, question=f"Why {name}?")
            for layer, sites in acts.items()
            for site, vector in sites.items()
        ]
    return rows


def _list_of_dicts(folder: Path) -> list[Row]:
    records = [
        {
            "id": f"x{number}",
            "prompt": f"Q{number}",
            "label": number % 2,
            "difficulty": 0.5,
            "acts": {f"layer_{layer}": draw(WIDTH) for layer in (4, 8)},
        }
        for number in range(5)
    ]
    torch.save(records, folder / "all.pt")
    return [
        row(
            record["acts"][f"layer_{layer}"],  # type: ignore[index]
            example_id=record["id"],
            question=record["prompt"],
            label=str(record["label"]),
            layer=layer,
            extra='{"difficulty": 0.5}',
            source=f"all.pt#{number}.acts.layer_{layer}",
        )
        for number, record in enumerate(records)
        for layer in (4, 8)
    ]


def _files_of_a_folder_per_layer(folder: Path) -> list[Row]:
    rows = []
    for layer in (1, 2):
        (folder / f"layer_{layer}").mkdir()
        for name in ("x", "y", "z"):
            vector = draw(WIDTH)
            torch.save(vector, folder / f"layer_{layer}" / f"{name}.pt")
            rows.append(row(vector, example_id=name, layer=layer))
    return rows


def _padded_batch(folder: Path) -> list[Row]:
    states = draw(2, 4, WIDTH)
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    ids = torch.arange(8).reshape(2, 4)
    document = {"layer_6": states, "attention_mask": mask, "input_ids": ids}
    torch.save(document, folder / "batch.pt")
    return [
        row(
            states[example, token],
            example_id=f"batch:{example}",
            layer=6,
            token_id=int(ids[example, token]),
            position=token,
        )
        for example in range(2)
        for token in range(4)
        if mask[example, token]
    ]


def _examples_by_key(folder: Path) -> list[Row]:
    concepts = {name: draw(WIDTH) for name in ("a cat", "a dog", "v1.0")}
    torch.save(concepts, folder / "concepts.pt")
    return [row(vector, example_id=name) for name, vector in concepts.items()]


def _hook_in_the_file_name(folder: Path) -> list[Row]:
    rows = []
    for layer in (0, 3):
        matrix = draw(3, WIDTH)
        torch.save(matrix, folder / f"blocks.{layer}.hook_resid_post.pt")
        rows += [
            row(vector, example_id=str(at), layer=layer, site="resid_post")
            for at, vector in enumerate(matrix)
        ]
    return rows


def _pickles(folder: Path) -> list[Row]:
    import pickle

    rows = []
    for number in range(2):
        vectors = {f"layer_{layer}": draw(WIDTH).numpy() for layer in (0, 1)}
        with (folder / f"sample_{number}.pkl").open("wb") as file:
            pickle.dump({"acts": vectors, "label": "x"}, file)
        rows += [
            {"example_id": f"sample_{number}", "layer": layer, "label": "x", "activation": vector}
            for layer, vector in enumerate(vectors.values())
        ]
    return rows


def _numpy_sequences(folder: Path) -> list[Row]:
    rows = []
    for number in range(3):
        matrix = draw(2 + number, WIDTH)
        np.savez(folder / f"prompt_{number}.npz", layer_7=matrix.numpy())
        rows += rows_of(matrix, example_id=f"prompt_{number}", layer=7, pooling="none")
    return rows


def _safetensors_stacks(folder: Path) -> list[Row]:
    from safetensors.torch import save_file

    rows = []
    for number in range(2):
        stack = draw(3, 4 + number, WIDTH)
        save_file({"acts": stack}, folder / f"p{number}.safetensors")
        for layer in range(3):
            rows += rows_of(stack[layer], example_id=f"p{number}", layer=layer)
    return rows


def _layers_of_sites(folder: Path) -> list[Row]:
    """A list of one dict per layer: nothing in it tells of an example."""
    layers = [{site: draw(1, 3, WIDTH) for site in ("resid_post", "mlp_out")} for _ in range(4)]
    torch.save(layers, folder / "run.pt")
    return [
        each
        for layer, sites in enumerate(layers)
        for site, tensor in sites.items()
        for each in rows_of(tensor[0], example_id="run", layer=layer, site=site)
    ]


def _entries_of_layers(folder: Path) -> list[Row]:
    matrices = {layer: draw(3, WIDTH) for layer in (2, 7)}
    entries = [{"layer": layer, "acts": matrix} for layer, matrix in matrices.items()]
    torch.save(entries, folder / "run.pt")
    return [
        row(vector, example_id=f"run:{at}", example_index=at, layer=layer)
        for layer, matrix in matrices.items()
        for at, vector in enumerate(matrix)
    ]


def _two_depths(folder: Path) -> list[Row]:
    rows = []
    for name in ("all", "none"):
        vector = draw(WIDTH)
        torch.save({"L9": vector}, folder / f"{name}.pt")
        rows.append(row(vector, example_id=name, layer=9))
    for layer in (1, 2):
        (folder / f"layer_{layer}").mkdir()
        for name in ("x", "y"):
            vector = draw(WIDTH)
            torch.save(vector, folder / f"layer_{layer}" / f"{name}.pt")
            rows.append(row(vector, example_id=name, layer=layer))
    return rows


def _layers_behind_names(folder: Path) -> list[Row]:
    from safetensors.torch import save_file

    rows = []
    for name in ("one", "two"):
        vectors = {f"{site}_{layer}": draw(WIDTH) for site in ("resid", "foo") for layer in (8, 9)}
        save_file(vectors, folder / f"{name}.safetensors")
        for key, vector in vectors.items():
            site, _, layer = key.partition("_")
            where = {"site": "resid_post" if site == "resid" else site, "layer": int(layer)}
            rows.append(row(vector, example_id=name, **where))
    return rows


_WHOLE = "layer = key1"
_TOKENS = "token = axis0"

SHAPES = {
    "vector per layer": Shape(_vector_per_layer, set()),
    "tokens per layer": Shape(_tokens_per_layer, {_WHOLE, _TOKENS}),
    "bare matrices": Shape(_bare_matrices, {"example = axis0"}),
    "acts[layer][site]": Shape(_nested, {_WHOLE}),
    "list of dicts": Shape(_list_of_dicts, set()),
    "stack with csv": Shape(tables.stack_beside_table, {"layer = axis0"}),
    "stack with jsonl": Shape(tables.stack_beside_jsonl, {"layer = axis0"}),
    "stack with parquet": Shape(tables.stack_beside_parquet, {"layer = axis0"}),
    "TransformerLens": Shape(tools.transformer_lens, set()),
    "nnsight list": Shape(tools.nnsight_list, {_WHOLE, "token = axis1"}),
    "nnsight paths": Shape(tools.nnsight_paths, {"token = axis1"}),
    "speculators": Shape(tools.speculators, {_WHOLE}),
    "folder per layer": Shape(_files_of_a_folder_per_layer, set()),
    "matrix with labels": Shape(classes.matrix_with_labels, set()),
    "two classes": Shape(classes.two_classes, {"example = axis0"}),
    "padded batch": Shape(_padded_batch, set()),
    "examples by key": Shape(_examples_by_key, {"example = key1"}),
    "hook as file name": Shape(_hook_in_the_file_name, {"example = axis0"}),
    "layers of sites": Shape(_layers_of_sites, {_WHOLE, "token = axis1"}),
    "entries of layers": Shape(_entries_of_layers, {"example = axis0"}),
    "splits as keys": Shape(classes.splits_as_keys, set()),
    "both sides of a prompt": Shape(classes.both_sides_of_a_prompt, set()),
    "classes in names": Shape(classes.classes_in_names, {"label = name"}),
    "classes before batches": Shape(
        classes.classes_before_batches, {"example = axis0", "label = name"}
    ),
    "classes as folders": Shape(classes.classes_as_folders, set()),
    "two depths": Shape(_two_depths, set()),
    "classes and layers in names": Shape(classes.classes_and_layers_in_names, {_WHOLE}),
    "layers behind names": Shape(_layers_behind_names, {_WHOLE, "site = foo_{…}"}),
    "modules beside a table": Shape(
        tables.modules_beside_table, {_WHOLE, "site = {…}.mlp", "site = {…}.attn"}
    ),
    "layers and examples in keys": Shape(
        numbers.layers_and_examples_in_keys, {"site = model.layers.{…}.mlp/ex_{…}"}
    ),
    "examples before layers in keys": Shape(numbers.examples_before_layers_in_keys, set()),
    "npy in folders of layers": Shape(numbers.numpy_in_folders_of_layers, set()),
    "npy of layers and splits": Shape(numbers.numpy_of_layers_and_splits, {"example = axis0"}),
    "npy in folders of classes": Shape(numbers.numpy_in_folders_of_classes, set()),
    "pickles": Shape(_pickles, set()),
    "npz of sequences": Shape(_numpy_sequences, {_TOKENS}),
    "safetensors of stacks": Shape(_safetensors_stacks, {"layer = axis0", "token = axis1"}),
}
