"""`python -m docs.study.tensors STORE FOLDER`: writes states as another project's `.pt` files.

The layout is that of the evaluation-awareness project's validation caches: a folder per layer with
one stacked tensor ``[examples, 1, width]``, and two JSON files that say what the rows are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import actstore

LAYERS = (5, 10, 15, 20, 25)


def write(root: Path, folder: Path, layers: tuple[int, ...] = LAYERS) -> int:
    """Write the states of some layers of the store at ``root``; return the number of files."""
    with actstore.open(root) as store:
        for layer in layers:
            rows = store.select(layer=layer, site="resid_post", pooling="last")
            place = folder / f"layer_{layer}"
            place.mkdir(parents=True, exist_ok=True)
            states = rows.tensor()
            torch.save(states[:, None, :].clone(), place / "activations.pt")
        told = rows.table(["question", "label"]).to_pylist()
    entries = [
        {"idx": number, "question": row["question"], "type": row["label"]}
        for number, row in enumerate(told)
    ]
    info = {
        "layers": list(layers),
        "num_examples": len(entries),
        "activation_shape": [1, states.shape[-1]],
    }
    (folder / "metadata.json").write_text(json.dumps(entries, ensure_ascii=False))
    (folder / "layer_info.json").write_text(json.dumps(info))
    return len(layers) + 2


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    if len(given) != 2:
        sys.exit("give a store and the folder to write")
    print(f"{write(given[0], given[1])} files written to {given[1]}")
