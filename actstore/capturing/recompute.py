"""Captures some stored rows again and compares: is what the store holds what the model computes?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actstore.capturing.prompts.example import Example, ExampleKey
from actstore.capturing.run import provenance
from actstore.capturing.run.capture import capture
from actstore.capturing.run.tables import NOT_ASKED, fields_in
from actstore.errors import NotInStoreError, UsageError
from actstore.models.blocks import PATTERN
from actstore.models.wrappers import unwrap
from actstore.storage.manifest import Run
from actstore.storage.scratch import scratch
from actstore.storage.snapshot import Snapshot, open_snapshot

TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest distance allowed, relative to the stored vector's norm, by what the model computes in:
batches of another make-up round in another way."""
STORED_HALF = 2e-3
"""The same where vectors were rounded to float16 for storage."""
_KEY = ("example_id", "example_index", "split", "mode", "variant")
_PLACE = ("site", "layer", "pooling", "region", "position")
_OWN = ("max_new_tokens", "max_length", "return_dict_in_generate", "disable_compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One row that was captured again."""

    row_id: int
    example_id: str
    site: str
    layer: int | None
    pool: str
    run_id: str
    distance: float | None
    """Of the two vectors, relative to the stored one's norm; None where there is no second. Of
    int8 what is beyond one step of each value: a sum's last bits decide which way it is rounded."""
    tolerance: float
    reason: str | None = None
    """Why there is nothing to compare."""
    skipped: bool = False
    """Whether that is no fault of the store."""

    @property
    def ok(self) -> bool:
        """Whether the row is what the model computes, or cannot be held against it."""
        return self.skipped or (self.distance is not None and self.distance <= self.tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What came of it."""

    rows: tuple[Compared, ...]
    differences: tuple[str, ...]
    """Settings that are not those of the stored run: another template, weights, versions."""

    @property
    def outside(self) -> list[Compared]:
        """Rows that are not what the model computes."""
        return [row for row in self.rows if not row.ok]

    @property
    def largest(self) -> float | None:
        """The largest distance."""
        return max((row.distance for row in self.rows if row.distance is not None), default=None)


def captured_runs(snapshot: Snapshot, model: str | None = None) -> list[Run]:
    """Return the captures that a store holds of a model, the latest last.

    ``model`` may be None, or call the model otherwise, where there is only one.

    Raises:
        NotInStoreError: there is none, or several models to choose from.
    """
    runs = [run for run in snapshot.manifest.runs if run.kind == "capture"]
    if not runs:
        raise NotInStoreError(
            f"{snapshot.name} holds no rows of `actstore capture`: of others nothing says how to "
            "compute them again"
        )
    models = sorted({str(run.settings.get("model")) for run in runs})
    if model in models:
        return [run for run in runs if run.settings.get("model") == model]
    if len(models) > 1:
        raise NotInStoreError(
            f"{snapshot.name} holds captures of {', '.join(models)}: say which with --model-name"
        )
    return runs


def run_dtype(run: Run) -> str:
    """Return what the model computed in."""
    return str(run.settings.get("values", {}).get("dtype") or "float32")


def run_attention(runs: Sequence[Run]) -> str | None:
    """Return the attention to load the model with: patterns are computed by eager alone."""
    if any(PATTERN in run.settings.get("sites", ()) for run in runs):
        return "eager"
    used: str | None = runs[-1].settings.get("values", {}).get("attention")
    return used


def recompute(
    snapshot: Snapshot,
    count: int,
    *,
    model: Any,
    processor: Any,
    runs: Sequence[Run] | None = None,
    examples: Iterable[Example] | None = None,
    chat_template: str | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> Recomputed:
    """Capture random rows again with the settings of their run, and compare.

    Args:
        snapshot: the store.
        count: how many rows; all if there are fewer.
        model: the model that made them, loaded.
        processor: its tokenizer or processor.
        runs: of :func:`captured_runs`; all by default. Those that computed in another type than
            the model are left out.
        examples: the questions, where the rows do not hold everything that was asked (images,
            conversations).
        chat_template: the template's text, where it was not the model's own.
        seed: for the choice of rows.
        tolerance: instead of :data:`TOLERANCES`.

    Raises:
        NotInStoreError: there are no rows to choose from.
        UsageError: images or conversations were asked, and no ``examples`` are given.
        ModelError, HookError, ExampleError: the capture fails.
    """
    dtype = str(getattr(unwrap(model), "dtype", "float32")).removeprefix("torch.")
    known = captured_runs(snapshot) if runs is None else runs
    chosen_runs = {run.run_id: run for run in known if run_dtype(run) == dtype}
    if not chosen_runs:
        made = ", ".join(sorted({run_dtype(run) for run in known}))
        raise NotInStoreError(f"the rows were computed in {made}, the model computes in {dtype}")
    rows = _choose(snapshot, list(chosen_runs), count, seed)
    given = None if examples is None else {example.key: example for example in examples}
    compared: list[Compared] = []
    differences: dict[str, None] = {}
    for run_id, run in chosen_runs.items():
        own = [row for row in rows if row["run_id"] == run_id]
        if own:
            found, unlike = _again(
                snapshot, run, own, model, processor, given, chat_template, tolerance
            )
            compared += found
            differences.update(dict.fromkeys(unlike))
    compared.sort(key=lambda each: each.row_id)
    return Recomputed(rows=tuple(compared), differences=tuple(differences))


def _choose(snapshot: Snapshot, runs: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    with snapshot.opened_metadata() as file:
        ids = file.read(columns=["run_id"])["run_id"].to_numpy(zero_copy_only=False)
        possible = np.flatnonzero(np.isin(ids.astype(str), list(runs)))
        if not len(possible):
            raise NotInStoreError(f"{snapshot.name} holds no rows of {', '.join(runs)}")
        draw = np.random.default_rng(seed)
        chosen = np.sort(draw.choice(possible, min(count, len(possible)), replace=False))
        bounds = np.cumsum(
            [0, *(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))]
        )
        rows: list[dict[str, Any]] = []
        groups = np.searchsorted(bounds, chosen, "right") - 1
        for group in np.unique(groups).tolist():
            table = file.read_row_group(group)
            numbers = chosen[groups == group]
            found = table.take(numbers - bounds[group]).to_pylist()
            rows += [
                {**row, "row_id": number}
                for row, number in zip(found, numbers.tolist(), strict=True)
            ]
    return rows


def _again(
    snapshot: Snapshot,
    run: Run,
    rows: Sequence[Mapping[str, Any]],
    model: Any,
    processor: Any,
    given: Mapping[ExampleKey, Example] | None,
    chat_template: str | None,
    tolerance: float | None,
) -> tuple[list[Compared], list[str]]:
    """Capture the examples of some rows of one run again, and compare the rows."""
    values: Mapping[str, Any] = run.settings.get("values", {})
    sees = getattr(processor, "tokenizer", processor) is not processor
    examples: dict[ExampleKey, Example] = {}
    unknown: set[ExampleKey] = set()
    for row in rows:
        key = _key(row)
        found = given.get(key) if given is not None else _example(row, sees)
        if found is None:
            unknown.add(key)
        else:
            examples[key] = found
    generation = values.get("generation") or {}
    regions = {row["region"] for row in rows}
    layers = sorted(
        {row["layer"] for row in rows if row["layer"] is not None and row["layer"] >= 0}
    )
    with scratch("recompute") as folder:
        fresh: dict[tuple[Any, ...], tuple[int, str | None]] = {}
        again: Snapshot | None = None
        unlike: list[str] = []
        if examples:
            capture(
                model,
                processor,
                list(examples.values()),
                store=Path(folder) / "again",
                layers=layers or [0],
                sites=sorted({row["site"] for row in rows}),
                pool=sorted({_pool(row) for row in rows}),
                pattern_length=provenance.pattern_length(run.settings) or 1,
                exclude=values.get("exclude", ()),
                batch_size=run.settings.get("batch_size", 1),
                max_new_tokens=int(run.settings.get("max_new_tokens") or 0),
                generation={n: v for n, v in generation.items() if n not in _OWN} or None,
                seed=values.get("seed") or 0,
                chat_template=chat_template or values.get("prompt") != "raw",
                system=values.get("system"),
                template_options=values.get("template_options") or None,
                grade=run.settings.get("grade") if "answer" in regions else None,
                model_name=str(run.settings["model"]),
                dataset=run.settings.get("dataset"),
                blocks=values.get("blocks"),
                padding_side=_side(run),
                storage_dtype=values.get("storage_dtype"),
                resume=False,
                self_check=False,
            )
            try:
                again = open_snapshot(Path(folder) / "again")
            except FileNotFoundError:  # every example was refused
                again = None
        if again is not None:
            (made,) = again.manifest.runs
            unlike = provenance.differences(made.settings["values"], values)
            fresh = _index(again)
        try:
            compared = [
                _compare(snapshot, again, row, fresh, unknown, run, tolerance) for row in rows
            ]
        finally:
            if again is not None:
                again.close()
    return compared, unlike


def _side(run: Run) -> Any:
    return (
        "auto" if run.settings.get("max_new_tokens") else run.settings.get("padding_side", "auto")
    )


def _pool(row: Mapping[str, Any]) -> str:
    return f"{row['region']}.{'tokens' if row['pooling'] == 'none' else row['pooling']}"


def _key(row: Mapping[str, Any]) -> ExampleKey:
    return ExampleKey(*(row[name] for name in _KEY))


def _index(snapshot: Snapshot) -> dict[tuple[Any, ...], tuple[int, str | None]]:
    with snapshot.opened_metadata() as file:
        table = file.read(columns=["prediction", *_KEY, *_PLACE])
    return {
        tuple(row[name] for name in (*_KEY, *_PLACE)): (number, row["prediction"])
        for number, row in enumerate(table.to_pylist())
    }


def _example(row: Mapping[str, Any], sees: bool) -> Example:
    """Make the example of a row again.

    Raises:
        UsageError: the row may not hold all that was asked.
    """
    if row["question"] is None or sees:
        raise UsageError(
            f"example {row['example_id']!r}: the store does not hold "
            f"{'the images that may have been shown' if sees else 'the conversation'}: give the "
            "questions with --data"
        )
    extra = json.loads(row["extra"]) if row["extra"] else {}
    further = fields_in(extra)
    extra = {name: each for name, each in extra.items() if name not in (*further, NOT_ASKED)}
    choices = further.pop("choices", None)
    return Example(
        id=row["example_id"],
        index=row["example_index"],
        question=row["question"],
        oracle=row["oracle"],
        choices=None if choices is None else tuple(choices),
        extra=extra,
        **further,
        **{name: row[name] for name in ("task", "label", "split", "mode", "variant")},
    )


def _compare(
    snapshot: Snapshot,
    again: Snapshot | None,
    row: Mapping[str, Any],
    fresh: Mapping[tuple[Any, ...], tuple[int, str | None]],
    unknown: set[ExampleKey],
    run: Run,
    tolerance: float | None,
) -> Compared:
    dtype = run_dtype(run)
    values = run.settings.get("values", {})
    generation = values.get("generation") or {}
    allowed = TOLERANCES.get(dtype, TOLERANCES["float32"])
    if values.get("storage_dtype") in ("float16", "compact16"):
        allowed = max(allowed, STORED_HALF)
    place = fresh.get(tuple(row[name] for name in (*_KEY, *_PLACE)))
    distance: float | None = None
    reason: str | None = None
    skipped = False
    later = row["region"] in ("response", "answer", "all") and bool(generation)
    if _key(row) in unknown:
        reason, skipped = "its question is not among the data", True
    elif later and generation.get("do_sample"):
        reason, skipped = "the response was drawn at random", True
    elif later and place is not None and place[1] != row["prediction"]:
        # In half precision two tokens that are nearly as likely change places.
        reason, skipped = "the model answers otherwise now", dtype in ("bfloat16", "float16")
    elif place is None or again is None:
        reason = "the model has no such row now"
    else:
        stored = snapshot.gather(np.array([row["row_id"]]))[0].astype(np.float64)
        computed = again.gather(np.array([place[0]]))[0].astype(np.float64)
        if stored.shape != computed.shape:
            reason = f"the vector has width {len(computed)} now, {len(stored)} in the store"
        else:
            size = max(float(np.linalg.norm(stored)), 1e-30)
            beyond = np.maximum(np.abs(computed - stored) - _step(snapshot, row["row_id"]), 0)
            distance = float(np.linalg.norm(beyond)) / size
    return Compared(
        row_id=row["row_id"],
        example_id=row["example_id"],
        site=row["site"],
        layer=row["layer"],
        pool=f"{row['region']}.{row['pooling']}",
        run_id=run.run_id,
        distance=distance,
        tolerance=allowed if tolerance is None else tolerance,
        reason=reason,
        skipped=skipped,
    )


def _step(snapshot: Snapshot, row: int) -> float:
    """Return the distance between neighbouring values of a stored vector; 0 of floats."""
    _, scales = snapshot.stored(np.array([row]))
    return 0.0 if scales is None else float(scales[0])
