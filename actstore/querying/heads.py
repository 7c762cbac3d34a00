"""Gives vectors by head their two axes, as the record of the run that took them has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from actstore.errors import UsageError

if TYPE_CHECKING:
    from actstore.querying.selected import SelectedRows


def by_head(rows: SelectedRows, *, mixed: bool) -> np.ndarray:
    """Return the vectors as ``[rows, heads, width]``; see ``Selection.heads``."""
    matrix = rows.numpy(mixed=mixed)
    return matrix.reshape(len(matrix), *head_shape(rows))


def head_shape(rows: SelectedRows) -> tuple[int, int]:
    """Return how many heads the vectors of some rows have, and how wide each is.

    Raises:
        UsageError: a run does not say so, or they differ.
    """
    runs = {run.run_id: run for run in rows.snapshot.manifest.runs}
    taken = sorted(str(each) for each in rows.values_of("run_id")) if len(rows) else list(runs)
    found: set[tuple[int, int]] = set()
    for site, layer in {(shard.site, shard.layer) for shard in rows.shards}:
        here: set[tuple[int, int]] = set()
        for run_id in taken:
            run = runs.get(run_id)
            shapes = run.settings.get("shapes", {}).get(site) if run is not None else None
            if shapes is None and len(rows):
                raise UsageError(
                    f"rows of {site} from run {run_id} are not by head, as far as its record "
                    "says: head_out and attn_pattern are, as `actstore capture` takes them; of "
                    "others, reshape numpy() yourself"
                )
            shape = (shapes or {}).get(str(layer))
            here |= {(int(shape[0]), int(shape[1]))} if shape else set()
        if not here:
            raise UsageError(f"no run says how many heads {site} of layer {layer} has")
        found |= here
    if len(found) != 1:
        told = ", ".join(f"{heads} of {width}" for heads, width in sorted(found)) or "none"
        raise UsageError(
            f"the rows do not have one shape by head ({told}): select one site, and layers whose "
            "heads are alike"
        )
    return found.pop()
