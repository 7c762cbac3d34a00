"""Steering vectors: the difference of two classes' means at each layer, and how they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore.analysis import cells, classes, earlier, folds, metrics
from actstore.analysis.cells import Cell, Choice, Place, layer_word
from actstore.analysis.classes import Classes
from actstore.analysis.metrics import Estimate
from actstore.errors import MismatchError, TooFewRowsError, UsageError

if TYPE_CHECKING:
    from actstore.store import Store

RAW, NORMALIZED = "vectors", "normalized_vectors"
FILE = "steering.safetensors"
_TABLE = "steering.json"
_FORMAT = "actstore-steering-1"
_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A steering vector: the positive class's mean minus the negative one's."""

    place: Place
    vector: np.ndarray
    """Float32 ``[width]``, not normalised."""
    norm: float
    mean_norm: float
    """Mean L2 norm of the vectors it was made of, to judge a scale by."""
    separation: float | None
    """Distance of the classes' means along the vector in standard deviations (Cohen's d),
    on rows that the vector was not made of; None where they are too few."""
    auroc: Estimate | None
    """Of the projection on the vector, on rows that it was not made of."""
    cosine_next: float | None
    """Cosine with the vector of the next layer that was made."""
    rows: tuple[int, int]
    """Of the positive and the negative class."""
    rows_hash: str

    @property
    def normalized(self) -> np.ndarray:
        """The vector with norm 1."""
        return (self.vector / self.norm).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """The vectors of one site and pooling, by layer."""

    vectors: list[Vector]
    classes: Classes
    lineage: dict[str, Any]
    notes: list[str]


def steer(
    store: Store,
    *,
    positive: str | Sequence[str] | None = None,
    negative: str | Sequence[str] | None = None,
    label: str = "label",
    choice: Choice | None = None,
    group_by: str | None = None,
    seed: int = 0,
) -> Vectors:
    """Make a steering vector for each layer: mean of ``positive`` minus mean of ``negative``.

    Tokens of one example are averaged first, so that long examples do not count more.

    Args:
        store: where the rows are.
        positive: value or values of the class to steer towards.
        negative: of the class to steer away from; all others when missing.
        label: column with the classes.
        choice: which rows; they must be of one model, site and pooling.
        group_by: as for probes, where the separation is measured.
        seed: of the folds in which it is.

    Raises:
        UsageError: rows of several models, sites or poolings.
        TooFewRowsError: a class has no rows in some layer, or vectors are not finite.
        NotInStoreError: there are no such rows or classes.
    """
    chosen = choice or Choice()
    notes: list[str] = []
    selection, values = cells.labels_of(store, chosen, label)
    sides = classes.find(label, values, positive, negative)
    found = cells.cells(selection, sides, group_by, notes)
    kinds = {cell.place._replace(layer=None) for cell in found}
    if len(kinds) > 1:
        told = ", ".join(sorted(f"{k.site} ({k.pooling}, {k.region})" for k in kinds))
        raise UsageError(
            f"a vector is for one site and pooling, and the rows have {told}: choose with --site, "
            "--pooling or --where"
        )
    made = [_vector(cell, seed) for cell in found]
    lineage = {
        "store": cells.store_name(store),
        "commit": store.commit,
        "store_fingerprint": store.fingerprint,
        "query": chosen.text,
        "label": label,
        "positive": list(sides.positive),
        "negative": list(sides.negative),
        "seed": seed,
    }
    return Vectors(vectors=_with_cosines(made), classes=sides, lineage=lineage, notes=notes)


def save(vectors: Vectors, out: Path) -> list[Path]:
    """Write vectors as document 002's consumers read them, and once as safetensors.

    ``vectors/layer_L.pt`` and ``normalized_vectors/layer_L.pt`` are bare float32 tensors
    ``[width]`` that open with ``weights_only=True``; ``steering.safetensors`` holds both
    and where they came from, ``steering.json`` what is shown on the screen. Vectors that an
    earlier run into the same folder listed there are removed.
    """
    import torch
    from safetensors.numpy import save_file

    for layer in (entry.get("layer") for entry in earlier.entries(out / _TABLE)):
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
            torch.save(torch.from_numpy(values.copy()), path)
            tensors[f"{folder}/{name}"] = values
            written.append(path)
    about = {
        "format": _FORMAT,
        "lineage": vectors.lineage,
        "layers": [_entry(one) for one in vectors.vectors],
    }
    save_file(tensors, out / FILE, metadata={"actstore": json.dumps(about, ensure_ascii=False)})
    text = json.dumps(about["layers"], indent=2, ensure_ascii=False, allow_nan=False)
    (out / _TABLE).write_text(text + "\n", encoding="utf-8")
    return [*written, out / FILE, out / _TABLE]


def summary(vectors: Vectors) -> list[dict[str, Any]]:
    """Return what ``steering.json`` says, one entry for each layer."""
    return [_entry(one) for one in vectors.vectors]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVector:
    """A vector as read from a file, and its origin where the file's folder says it."""

    layer: int | None
    vector: np.ndarray
    """Float32 ``[width]``."""
    place: Place | None
    """Where it was made; None for files that others wrote."""
    lineage: dict[str, Any]
    path: Path


def load(folder: Path) -> list[LoadedVector]:
    """Return the vectors of a folder, ordered by layer.

    Args:
        folder: one with ``layer_L.pt`` files, ours or document 002's (bare tensors
            ``[width]`` or ``[1, width]``), or one that holds ``normalized_vectors``.

    Raises:
        UsageError: there are none, or one is no bare vector.
    """
    inside = folder / NORMALIZED if (folder / NORMALIZED).is_dir() else folder
    paths = {path.stem.removeprefix("layer_"): path for path in inside.glob("layer_*.pt")}
    if not paths:
        raise UsageError(
            f"{folder}: no layer_L.pt here; `actstore steer STORE --out {folder}` would write them"
        )
    origins = _origins(inside.parent / FILE)
    found = []
    for word, path in paths.items():
        if word != "unknown" and not word.lstrip("-").isdigit():
            raise UsageError(f"{path}: the name does not say which layer it is for")
        layer = None if word == "unknown" else int(word)
        place, lineage = origins.get(layer, (None, {}))
        found.append(
            LoadedVector(layer=layer, vector=_read(path), place=place, lineage=lineage, path=path)
        )
    return sorted(found, key=lambda one: (one.layer is None, one.layer or 0))


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


def _origins(path: Path) -> dict[int | None, tuple[Place | None, dict[str, Any]]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})["actstore"])
        entries = {entry["layer"]: entry for entry in about["layers"]}
        return {
            layer: (Place(**{name: entry[name] for name in Place._fields}), about["lineage"])
            for layer, entry in entries.items()
        }
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _entry(one: Vector) -> dict[str, Any]:
    return {
        **one.place._asdict(),
        "width": len(one.vector),
        "positives": one.rows[0],
        "negatives": one.rows[1],
        "norm": one.norm,
        "mean_activation_norm": one.mean_norm,
        "separation": one.separation,
        "auroc": None if one.auroc is None else one.auroc.value,
        "auroc_interval": None if one.auroc is None else [one.auroc.low, one.auroc.high],
        "cosine_to_next_layer": one.cosine_next,
        "rows_hash": one.rows_hash,
    }


def _vector(cell: Cell, seed: int) -> Vector:
    count = int(cell.positive.sum())
    if not 0 < count < len(cell):
        raise TooFewRowsError(
            f"{cell.place.text}: {count} rows of the positive class among {len(cell)}; both "
            "classes are needed in every layer"
        )
    vectors = cell.vectors()
    weights = _weights(cell)
    vector = ((weights * np.where(cell.positive, 1, -1)) @ vectors).astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if norm == 0:
        raise TooFewRowsError(f"{cell.place.text}: both classes have the same mean, no direction")
    separation, auroc = _separated(cell, vectors, seed)
    return Vector(
        place=cell.place,
        vector=vector,
        norm=norm,
        mean_norm=float(np.linalg.norm(vectors, axis=1).mean()),
        separation=separation,
        auroc=auroc,
        cosine_next=None,
        rows=(count, len(cell) - count),
        rows_hash=cells.rows_hash(cell),
    )


def _weights(cell: Cell, rows: np.ndarray | None = None) -> np.ndarray:
    """Return each row's share in its class's mean: examples count alike, whatever their tokens."""
    names = ["dataset", "split", "example_id", "mode", "variant"]
    keys = list(zip(*(cell.table[name].to_pylist() for name in names), strict=True))
    numbers: dict[object, int] = {}
    codes = np.array(
        [
            numbers.setdefault((k, p), len(numbers))
            for k, p in zip(keys, cell.positive.tolist(), strict=True)
        ],
        np.int64,
    )
    used = np.ones(len(codes), bool)
    if rows is not None:
        used[:] = False
        used[rows] = True
    tokens = np.bincount(codes[used], minlength=len(numbers))
    weights = np.zeros(len(codes), np.float32)
    for side in (True, False):
        chosen = used & (cell.positive == side)
        examples = len(np.unique(codes[chosen]))
        weights[chosen] = 1 / (tokens[codes[chosen]] * max(1, examples))
    return weights


def _separated(cell: Cell, vectors: np.ndarray, seed: int) -> tuple[float | None, Estimate | None]:
    """Return Cohen's d and AUROC along vectors made of the other folds' rows."""
    groups = np.unique(cell.groups, return_inverse=True)[1]
    divisions = None
    for count in range(_FOLDS, 1, -1):
        try:
            divisions = folds.grouped(cell.positive, groups, count, seed)
            break
        except TooFewRowsError:
            continue
    if divisions is None or any(
        not 0 < int(cell.positive[part].sum()) < len(part) for fold in divisions for part in fold
    ):
        return None, None
    signs = np.where(cell.positive, 1, -1)
    scores = np.zeros(len(cell))
    distances = []
    for fold in divisions:
        direction = (_weights(cell, fold.train) * signs) @ vectors
        length = float(np.linalg.norm(direction)) or 1.0  # 0 where the means are the same
        scores[fold.test] = vectors[fold.test] @ (direction / length)
        first = scores[fold.test][cell.positive[fold.test]]
        second = scores[fold.test][~cell.positive[fold.test]]
        freedom = len(first) + len(second) - 2
        if freedom > 0:
            pooled = (first.var() * len(first) + second.var() * len(second)) / freedom
            if pooled > 0:
                distances.append((first.mean() - second.mean()) / np.sqrt(pooled))
    separation = float(np.mean(distances)) if distances else None
    return separation, metrics.auroc_interval(scores, cell.positive, groups, divisions)


def _with_cosines(made: list[Vector]) -> list[Vector]:
    from dataclasses import replace

    found = []
    for number, one in enumerate(made):
        cosine = None
        if number + 1 < len(made):
            other = made[number + 1]
            if len(other.vector) == len(one.vector):
                cosine = float(one.normalized @ other.normalized)
        found.append(replace(one, cosine_next=cosine))
    return found
