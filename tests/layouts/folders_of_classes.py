"""Folders of activations whose names, keys or numbers say the class of each vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.layouts.drawing import WIDTH, Row, draw, row


def matrix_with_labels(folder: Path) -> list[Row]:
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


def two_classes(folder: Path) -> list[Row]:
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


def splits_as_keys(folder: Path) -> list[Row]:
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


def both_sides_of_a_prompt(folder: Path) -> list[Row]:
    rows = []
    for name in ("p1", "p2"):
        sides = {"pos": draw(WIDTH), "neg": draw(WIDTH)}
        torch.save(sides, folder / f"{name}.pt")
        rows += [
            row(vector, example_id=name, label=side, variant=side) for side, vector in sides.items()
        ]
    return rows


def classes_as_folders(folder: Path) -> list[Row]:
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


def classes_and_layers_in_names(folder: Path) -> list[Row]:
    rows = []
    for name in ("q17", "q18"):
        for side in ("true", "false"):
            vectors = {layer: draw(WIDTH) for layer in (8, 16)}
            known = {"example_id": name, "label": side, "variant": side}
            rows += [row(vector, layer=layer, **known) for layer, vector in vectors.items()]
        each = {f"{r['label']}_{r['layer']}": r["activation"] for r in rows[-4:]}
        np.savez(folder / f"{name}.npz", **each)
    return rows


def classes_in_names(folder: Path) -> list[Row]:
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


def classes_before_batches(folder: Path) -> list[Row]:
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
