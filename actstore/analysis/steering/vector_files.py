"""Steering vectors on disk: bare tensors by layer, and one file that knows their origin."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis.examples import lineages, previous_report
from actstore.analysis.examples.place_rows import ActivationPlace, layer_word
from actstore.errors import MismatchError, UsageError
from actstore.storage import unfinished

if TYPE_CHECKING:
    from actstore.analysis.steering.vectors import SteeringVector, SteeringVectors

RAW, NORMALIZED = "vectors", "normalized_vectors"
FILE = "steering.safetensors"
_TABLE = "steering.json"
_FORMAT = "actstore-steering-1"


def save(vectors: SteeringVectors, out: Path) -> list[Path]:
    """Write vectors as document 002's consumers read them, and once as safetensors.

    ``vectors/layer_L.pt`` and ``normalized_vectors/layer_L.pt`` are bare float32 tensors
    ``[width]`` that open with ``weights_only=True``; ``steering.safetensors`` holds both
    and where they came from, ``steering.json`` what is shown on the screen. Vectors that an
    earlier run into the same folder listed there are removed.
    """
    import torch
    from safetensors.numpy import save_file

    for layer in (entry.get("layer") for entry in previous_report.entries(out / _TABLE)):
        if layer is None or isinstance(layer, int):
            for folder in (RAW, NORMALIZED):
                (out / folder / f"layer_{layer_word(layer)}.pt").unlink(missing_ok=True)
    tensors: dict[str, np.ndarray] = {}
    written: list[Path] = []
    for one in vectors.vectors:
        name = f"layer_{layer_word(one.place.layer)}"
        for folder, values in ((RAW, one.vector), (NORMALIZED, one.normalized)):
            path = out / folder / f"{name}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Into memory: in a file torch writes the name that this has while it is a draft.
            content = io.BytesIO()
            torch.save(torch.from_numpy(values.copy()), content)
            with unfinished.replacing(path) as draft:
                draft.write_bytes(content.getvalue())
            tensors[f"{folder}/{name}"] = values
            written.append(path)
        tensors[f"{lineages.TENSOR}/{name}"] = one.made_of
    about = {
        "format": _FORMAT,
        "lineage": vectors.lineage,
        "layers": [_entry(one) for one in vectors.vectors],
    }
    with unfinished.replacing(out / FILE) as draft:
        save_file(tensors, draft, metadata={"actstore": json.dumps(about, ensure_ascii=False)})
    text = json.dumps(about["layers"], indent=2, ensure_ascii=False, allow_nan=False)
    unfinished.write_text(out / _TABLE, text + "\n")
    return [*written, out / FILE, out / _TABLE]


def summary(vectors: SteeringVectors) -> list[dict[str, Any]]:
    """Return what ``steering.json`` says, one entry for each layer."""
    return [_entry(one) for one in vectors.vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVector:
    """A vector as read from a file, and its origin where the file's folder says it."""

    layer: int | None
    vector: np.ndarray
    """Float32 ``[width]``."""
    place: ActivationPlace | None
    """Where it was made; None for files that others wrote."""
    lineage: dict[str, Any]
    made_of: np.ndarray | None
    """Keys of the rows it was made of; None where the file does not say."""
    path: Path


def load(folder: Path) -> list[LoadedVector]:
    """Return the vectors of a folder, ordered by layer.

    Args:
        folder: one with ``layer_L.pt`` files, ours or document 002's (bare tensors
            ``[width]`` or ``[1, width]``), or one that holds ``normalized_vectors``.

    Raises:
        UsageError: there are none, one is no bare vector, or its origin cannot be read.
    """
    inside = folder / NORMALIZED if (folder / NORMALIZED).is_dir() else folder
    paths = sorted(inside.glob("layer_*.pt"))
    if not paths:
        raise UsageError(
            f"{folder}: no layer_L.pt here; `actstore steer STORE --out {folder}` would write them"
        )
    origins = _origins(inside.parent / FILE)
    found = [_loaded(path, origins) for path in paths]
    return sorted(found, key=lambda each: (each.layer is None, each.layer or 0))


def one(path: str | Path, layer: int | None = None) -> LoadedVector:
    """Return one vector, as long as it was made: of strength 1, it is the difference of the means.

    Args:
        path: a folder as for :func:`load`, of which the vectors that are not normalised are
            taken where there are any, or one ``layer_L.pt`` file.
        layer: which of a folder; may be left out where it has one.

    Raises:
        UsageError: there are several, or none of this layer.
    """
    path = Path(path)
    if path.is_file():
        return _loaded(path, _origins(path.parent.parent / FILE))
    found = load(path / RAW if (path / RAW).is_dir() else path)
    chosen = [each for each in found if layer is None or each.layer == layer]
    if len(chosen) != 1:
        there = ", ".join(layer_word(each.layer) for each in found)
        asked = "several" if layer is None else f"none of layer {layer}"
        raise UsageError(f"{path} has vectors of the layers {there}, {asked}: name one (--layers)")
    return chosen[0]


def check_width(vector: LoadedVector, width: int, name: str) -> None:
    """Refuse vectors of another width.

    Raises:
        MismatchError: names both sides.
    """
    if len(vector.vector) != width:
        raise MismatchError(
            f"{vector.path} has {len(vector.vector)} values, the vectors of {name} have {width}: "
            "it was made for another model or site"
        )


def _read(path: Path) -> np.ndarray:
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # of anything that is no tensor, the unpickler raises anything
        raise UsageError(f"{path} cannot be read as a tensor that torch saved") from error
    single = isinstance(tensor, torch.Tensor) and tensor.ndim and tensor.numel() == tensor.shape[-1]
    if not single:
        shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise UsageError(f"{path}: expected one vector as a bare tensor, got {shape}")
    vector: np.ndarray = tensor.detach().reshape(-1).float().numpy()
    if not np.isfinite(vector).all():
        raise UsageError(f"{path} holds NaN or infinity")
    return vector


def _loaded(path: Path, origins: dict[int | None, _Origin]) -> LoadedVector:
    word = path.stem.removeprefix("layer_")
    if word != "unknown" and not word.lstrip("-").isdigit():
        raise UsageError(f"{path}: the name does not say which layer it is for: layer_L.pt")
    layer = None if word == "unknown" else int(word)
    place, lineage, made_of = origins.get(layer, (None, {}, None))
    return LoadedVector(
        layer=layer,
        vector=_read(path),
        place=place,
        lineage=lineage,
        made_of=made_of,
        path=path,
    )


_Origin = tuple[ActivationPlace | None, dict[str, Any], np.ndarray | None]


def _origins(path: Path) -> dict[int | None, _Origin]:
    """Return place, lineage and keys of each layer; nothing where the file is not there."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    found: dict[int | None, _Origin] = {}
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["actstore"])
            names = set(file.keys())
            for entry in about["layers"]:
                place = ActivationPlace.of(entry)
                tensor = f"{lineages.TENSOR}/layer_{layer_word(place.layer)}"
                made_of = file.get_tensor(tensor) if tensor in names else None
                found[place.layer] = place, dict(about["lineage"]), made_of
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return found


def _entry(one: SteeringVector) -> dict[str, Any]:
    return {
        **one.place.named,
        "width": len(one.vector),
        "positives": one.rows[0],
        "negatives": one.rows[1],
        "norm": one.norm,
        "mean_activation_norm": one.mean_norm,
        "separation": one.separation,
        "auroc": None if one.auroc is None else one.auroc.value,
        "auroc_interval": None if one.auroc is None else [one.auroc.low, one.auroc.high],
        "p_family": one.p_family,
        "cosine_to_next_layer": one.cosine_next,
        "rows_hash": one.rows_hash,
    }
