"""Folders of activations that no recipe describes, as people save them, with the rows they hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

WIDTH = 8
Row = dict[str, Any]


class Shape(NamedTuple):
    """One way to save activations."""

    write: Callable[[Path], list[Row]]
    """Writes the folder and returns its rows."""
    guessed: set[str]
    """``role = place`` of each guess."""


def draw(*shape: int) -> torch.Tensor:
    """Return values that no other tensor of the test holds."""
    draw.count = getattr(draw, "count", 0) + 1  # type: ignore[attr-defined]
    return torch.randn(*shape, generator=torch.Generator().manual_seed(draw.count))  # type: ignore[attr-defined]


def rows_of(tensor: torch.Tensor, **columns: Any) -> list[Row]:
    """Return a row per vector of a matrix, each a token."""
    return [{**columns, "position": at, "activation": v.numpy()} for at, v in enumerate(tensor)]


def row(vector: torch.Tensor, **columns: Any) -> Row:
    """Return the row of one vector."""
    return {**columns, "activation": vector.numpy()}


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


def _stack_beside_table(folder: Path) -> list[Row]:
    stack = draw(3, 6, WIDTH)
    torch.save(stack, folder / "acts.pt")
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt", "label", "difficulty"])
        table.writerows([f"r{at}", f"Q{at}", "ab"[at % 2], at] for at in range(6))
    return _rows_of_stack(stack, difficulty=str)


def _rows_of_stack(stack: torch.Tensor, difficulty: Callable[[int], Any]) -> list[Row]:
    return [
        row(
            stack[layer, at],
            example_id=f"r{at}",
            example_index=at,
            question=f"Q{at}",
            label="ab"[at % 2],
            layer=layer,
            extra=json.dumps({"difficulty": difficulty(at)}),
        )
        for layer in range(3)
        for at in range(6)
    ]


def _records(folder: Path) -> torch.Tensor:
    stack = draw(3, 6, WIDTH)
    torch.save({"acts": stack}, folder / "acts.pt")
    return stack


def _table_rows() -> list[dict[str, Any]]:
    return [
        {"id": f"r{at}", "prompt": f"Q{at}", "label": "ab"[at % 2], "difficulty": at}
        for at in range(6)
    ]


def _stack_beside_jsonl(folder: Path) -> list[Row]:
    stack = _records(folder)
    text = "".join(json.dumps(record) + "\n" for record in _table_rows())
    (folder / "prompts.jsonl").write_text(text)
    return _rows_of_stack(stack, difficulty=int)


def _stack_beside_parquet(folder: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stack = _records(folder)
    pq.write_table(pa.Table.from_pylist(_table_rows()), folder / "meta.parquet")
    return _rows_of_stack(stack, difficulty=int)


def _transformer_lens(folder: Path) -> list[Row]:
    """``torch.save(dict(cache.items()))``: hook names, [batch, pos, …]."""
    rows = []
    for number in range(2):
        tokens = 3 + number
        cache = {"hook_embed": draw(1, tokens, WIDTH)}
        for layer in (0, 1):
            cache[f"blocks.{layer}.hook_resid_pre"] = draw(1, tokens, WIDTH)
            cache[f"blocks.{layer}.ln1.hook_scale"] = draw(1, tokens, 1)
            cache[f"blocks.{layer}.attn.hook_pattern"] = draw(1, 2, tokens, tokens)
            cache[f"blocks.{layer}.attn.hook_z"] = draw(1, tokens, 2, WIDTH // 2)
            cache[f"blocks.{layer}.hook_mlp_out"] = draw(1, tokens, WIDTH)
        torch.save(cache, folder / f"cache_{number}.pt")
        known = {"example_id": f"cache_{number}", "pooling": "none"}
        rows += rows_of(cache["hook_embed"][0], site="embeddings", layer=-1, **known)
        for layer in (0, 1):
            for site in ("resid_pre", "mlp_out"):
                tensor = cache[f"blocks.{layer}.hook_{site}"][0]
                rows += rows_of(tensor, site=site, layer=layer, **known)
    return rows


def _nnsight_list(folder: Path) -> list[Row]:
    """``torch.save([layer.output[0].save() for layer in model.transformer.h])``."""
    saved = [draw(1, 5, WIDTH) for _ in range(4)]
    torch.save(saved, folder / "run.pt")
    return [
        each
        for layer, states in enumerate(saved)
        for each in rows_of(states[0], example_id="run", layer=layer, pooling="none")
    ]


def _nnsight_paths(folder: Path) -> list[Row]:
    """``torch.save({path: cache[path].output …})`` of ``tracer.cache()``."""
    rows = []
    for name in ("first", "second"):
        states = {
            f"model.transformer.h.{layer}{part}": draw(1, 4, WIDTH)
            for layer in (0, 1)
            for part in ("", ".mlp")
        }
        torch.save(states, folder / f"{name}.pt")
        for path, tensor in states.items():
            layer = int(path.split(".")[3])
            site = "mlp_out" if path.endswith(".mlp") else "resid_post"
            rows += rows_of(tensor[0], example_id=name, layer=layer, site=site, pooling="none")
    return rows


def _speculators(folder: Path) -> list[Row]:
    """``data_{i}.pt`` of speculators' data_generation_offline: a list of chosen layers."""
    rows = []
    for number in range(2):
        tokens = 5 + number
        states = [draw(tokens, WIDTH) for _ in range(3)]
        document = {
            "input_ids": torch.arange(100, 100 + tokens),
            "hidden_states": states,
            "loss_mask": torch.ones(tokens, dtype=torch.long),
        }
        torch.save(document, folder / f"data_{number}.pt")
        for layer, matrix in enumerate(states):
            found = rows_of(matrix, example_id=f"data_{number}", layer=layer)
            rows += [{**each, "token_id": 100 + each["position"]} for each in found]
    return rows


def _files_of_a_folder_per_layer(folder: Path) -> list[Row]:
    rows = []
    for layer in (1, 2):
        (folder / f"layer_{layer}").mkdir()
        for name in ("x", "y", "z"):
            vector = draw(WIDTH)
            torch.save(vector, folder / f"layer_{layer}" / f"{name}.pt")
            rows.append(row(vector, example_id=name, layer=layer))
    return rows


def _matrix_with_labels(folder: Path) -> list[Row]:
    matrix = draw(5, WIDTH)
    document = {
        "activations": matrix,
        "labels": torch.tensor([0, 1, 0, 1, 1]),
        "prompts": [f"Q{at}" for at in range(5)],
        "model": "org/model",
    }
    torch.save(document, folder / "acts.pt")
    return [
        row(vector, example_id=f"acts:{at}", label="01011"[at], question=f"Q{at}")
        for at, vector in enumerate(matrix)
    ]


def _two_classes(folder: Path) -> list[Row]:
    rows = []
    for layer in (0, 1):
        classes = {"pos": draw(3, WIDTH), "neg": draw(2, WIDTH)}
        torch.save(classes, folder / f"layer_{layer}.pt")
        rows += [
            row(vector, example_id=f"{name}:{at}", label=name, layer=layer)
            for name, matrix in classes.items()
            for at, vector in enumerate(matrix)
        ]
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


def _splits_as_keys(folder: Path) -> list[Row]:
    matrices = {"train": draw(4, WIDTH), "test": draw(3, WIDTH)}
    splits = {
        name: {"acts": matrix, "labels": torch.arange(len(matrix)) % 2}
        for name, matrix in matrices.items()
    }
    torch.save(splits, folder / "data.pt")
    return [
        row(vector, example_id=f"data:{at}", split=name, label=str(at % 2))
        for name, matrix in matrices.items()
        for at, vector in enumerate(matrix)
    ]


def _both_sides_of_a_prompt(folder: Path) -> list[Row]:
    rows = []
    for name in ("p1", "p2"):
        sides = {"pos": draw(WIDTH), "neg": draw(WIDTH)}
        torch.save(sides, folder / f"{name}.pt")
        rows += [
            row(vector, example_id=name, label=side, variant=side) for side, vector in sides.items()
        ]
    return rows


def _classes_as_folders(folder: Path) -> list[Row]:
    rows = []
    for side in ("neg", "pos"):
        (folder / side).mkdir()
        for name in ("p1", "p2"):
            places = [(site, layer) for site in ("resid_post", "mlp_out") for layer in (3, 7)]
            vectors = {f"{site}_{layer}": draw(WIDTH) for site, layer in places}
            torch.save(vectors, folder / side / f"{name}.pt")
            known = {"example_id": name, "label": side, "variant": side}
            rows += [
                row(vectors[f"{site}_{layer}"], site=site, layer=layer, **known)
                for site, layer in places
            ]
    return rows


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


def _classes_and_layers_in_names(folder: Path) -> list[Row]:
    rows = []
    for name in ("q17", "q18"):
        for side in ("true", "false"):
            vectors = {layer: draw(WIDTH) for layer in (8, 16)}
            known = {"example_id": name, "label": side, "variant": side}
            rows += [row(vector, layer=layer, **known) for layer, vector in vectors.items()]
        each = {f"{r['label']}_{r['layer']}": r["activation"] for r in rows[-4:]}
        np.savez(folder / f"{name}.npz", **each)
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


def _modules_beside_table(folder: Path) -> list[Row]:
    names = {"mlp": "mlp_out", "attn": "attn_out"}
    acts = {layer: {name: draw(5, WIDTH) for name in names} for layer in (0, 1)}
    torch.save(acts, folder / "acts.pt")
    lines = [json.dumps({"id": f"e{at}", "label": "ab"[at % 2]}) for at in range(5)]
    (folder / "meta.jsonl").write_text("\n".join(lines))
    return [
        row(vector, example_id=f"e{at}", label="ab"[at % 2], layer=layer, site=site)
        for layer, tensors in acts.items()
        for name, site in names.items()
        for at, vector in enumerate(tensors[name])
    ]


def _classes_in_names(folder: Path) -> list[Row]:
    rows = []
    for number in (17, 18):
        for side in ("true", "false"):
            vectors = {f"resid_{layer}": draw(WIDTH) for layer in (8, 16)}
            torch.save(vectors, folder / f"my_q{number}_{side}.pt")
            known = {"example_id": f"my_q{number}", "variant": side, "label": side}
            known["site"] = "resid_post"
            for layer in (8, 16):
                rows.append(row(vectors[f"resid_{layer}"], layer=layer, **known))
    return rows


def _classes_before_batches(folder: Path) -> list[Row]:
    rows = []
    for number in (0, 1):
        for side in ("pos", "neg"):
            matrix = draw(3, WIDTH)
            torch.save({"L3": matrix}, folder / f"{side}-batch_{number}.pt")
            known = {"variant": side, "label": side, "layer": 3}
            rows += [
                row(vector, example_id=f"{side}-batch_{number}:{at}", **known)
                for at, vector in enumerate(matrix)
            ]
    return rows


_WHOLE = "layer = key1"
_TOKENS = "token = axis0"

SHAPES = {
    "vector per layer": Shape(_vector_per_layer, set()),
    "tokens per layer": Shape(_tokens_per_layer, {_WHOLE, _TOKENS}),
    "bare matrices": Shape(_bare_matrices, {"example = axis0"}),
    "acts[layer][site]": Shape(_nested, {_WHOLE}),
    "list of dicts": Shape(_list_of_dicts, set()),
    "stack with csv": Shape(_stack_beside_table, {"layer = axis0"}),
    "stack with jsonl": Shape(_stack_beside_jsonl, {"layer = axis0"}),
    "stack with parquet": Shape(_stack_beside_parquet, {"layer = axis0"}),
    "TransformerLens": Shape(_transformer_lens, set()),
    "nnsight list": Shape(_nnsight_list, {_WHOLE, "token = axis1"}),
    "nnsight paths": Shape(_nnsight_paths, {"token = axis1"}),
    "speculators": Shape(_speculators, {_WHOLE}),
    "folder per layer": Shape(_files_of_a_folder_per_layer, set()),
    "matrix with labels": Shape(_matrix_with_labels, set()),
    "two classes": Shape(_two_classes, {"example = axis0"}),
    "padded batch": Shape(_padded_batch, set()),
    "examples by key": Shape(_examples_by_key, {"example = key1"}),
    "hook as file name": Shape(_hook_in_the_file_name, {"example = axis0"}),
    "layers of sites": Shape(_layers_of_sites, {_WHOLE, "token = axis1"}),
    "entries of layers": Shape(_entries_of_layers, {"example = axis0"}),
    "splits as keys": Shape(_splits_as_keys, set()),
    "both sides of a prompt": Shape(_both_sides_of_a_prompt, set()),
    "classes in names": Shape(_classes_in_names, {"label = name"}),
    "classes before batches": Shape(_classes_before_batches, {"example = axis0", "label = name"}),
    "classes as folders": Shape(_classes_as_folders, set()),
    "two depths": Shape(_two_depths, set()),
    "classes and layers in names": Shape(_classes_and_layers_in_names, {_WHOLE}),
    "layers behind names": Shape(_layers_behind_names, {_WHOLE, "site = foo_{…}"}),
    "modules beside a table": Shape(
        _modules_beside_table, {_WHOLE, "site = {…}.mlp", "site = {…}.attn"}
    ),
    "pickles": Shape(_pickles, set()),
    "npz of sequences": Shape(_numpy_sequences, {_TOKENS}),
    "safetensors of stacks": Shape(_safetensors_stacks, {"layer = axis0", "token = axis1"}),
}
