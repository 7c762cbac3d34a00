"""Folders whose names and keys hold several numbers, or tell layer and class in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from tests.layouts.drawing import WIDTH, Row, draw, row


def layers_and_examples_in_keys(folder: Path) -> list[Row]:
    """One file, with keys such as `model.layers.12.mlp/ex_0042`."""
    places = [(layer, example) for layer in (2, 12) for example in (0, 7)]
    vectors = {f"model.layers.{n}.mlp/ex_{e:04d}": draw(WIDTH) for n, e in places}
    save_file(vectors, folder / "acts.safetensors")
    known = {"site": "mlp_out"}
    return [
        row(vector, layer=layer, example_id=str(example), **known)
        for (layer, example), vector in zip(places, vectors.values(), strict=True)
    ]


def examples_before_layers_in_keys(folder: Path) -> list[Row]:
    places = [(layer, example) for layer in (2, 12) for example in (0, 7)]
    vectors = {f"prompt_{e}_layer_{n}": draw(WIDTH) for n, e in places}
    save_file(vectors, folder / "acts.safetensors")
    return [
        row(vector, layer=layer, example_id=str(example))
        for (layer, example), vector in zip(places, vectors.values(), strict=True)
    ]


def numpy_in_folders_of_layers(folder: Path) -> list[Row]:
    """Vectors as `resid_post/layer_3/q1.npy`."""
    rows = []
    for site in ("resid_post", "mlp_out"):
        for layer in (3, 10):
            below = folder / site / f"layer_{layer}"
            below.mkdir(parents=True)
            for name in ("q1", "q2"):
                vector = draw(WIDTH)
                np.save(below / f"{name}.npy", vector.numpy())
                rows.append(row(vector, site=site, layer=layer, example_id=name))
    return rows


def numpy_of_layers_and_splits(folder: Path) -> list[Row]:
    """Matrices as `layer3_train.npy`."""
    rows = []
    for layer in (3, 10):
        for split in ("train", "test"):
            matrix = draw(5, WIDTH)
            np.save(folder / f"layer{layer}_{split}.npy", matrix.numpy())
            rows += [
                row(vector, layer=layer, split=split, example_id=str(at))
                for at, vector in enumerate(matrix)
            ]
    return rows


def numpy_in_folders_of_classes(folder: Path) -> list[Row]:
    rows = []
    for side in ("harmful", "harmless"):
        (folder / side).mkdir()
        for name in ("p1", "p2"):
            vector = draw(WIDTH)
            np.save(folder / side / f"{name}.npy", vector.numpy())
            rows.append(row(vector, example_id=name, label=side, variant=side))
    return rows
