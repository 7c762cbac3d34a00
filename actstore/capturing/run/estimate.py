"""What a capture will take: rows, bytes on disk, memory, minutes; and whether the disk has it."""

from __future__ import annotations

import io
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from actstore import schema
from actstore.capturing.forward.pooling import Pool
from actstore.errors import DiskSpaceError
from actstore.models.blocks import HookPoint
from actstore.storage import backing
from actstore.storage.rows import RowBatch
from actstore.wording import size

_SHARD_BYTES = 20_000
"""What a shard has besides rows: its schema, statistics and footer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureEstimate:
    """What the whole run takes, from a first batch that was timed."""

    examples: int
    rows: int
    bytes: int
    """On disk, metadata included."""
    free_bytes: int
    """On the disk that the store is on."""
    peak_memory: int
    """Bytes: of the accelerator where the model is on one, else of this process."""
    memory_of: str
    """Whose memory that is: ``cuda:0``, ``cpu``."""
    seconds: float
    """Of the model; storing goes on beside it."""

    @property
    def minutes(self) -> float:
        """The same in minutes."""
        return self.seconds / 60

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "minutes": round(self.minutes, 2)}


def free_bytes(store: Path) -> int:
    """Return what is free on the disk where ``store`` is, or will be made."""
    folder = store.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(store: Path, needed: int, free: int) -> None:
    """Refuse a run that the disk cannot hold.

    Raises:
        DiskSpaceError: with both numbers and what makes a run smaller.
    """
    # Of a store in a bucket no more than waits for a commit is ever on this disk.
    if needed > free and backing.of(store) is None:
        raise DiskSpaceError(
            f"the run would write {size(needed)} to {store}, where {size(free)} are free; capture "
            "fewer layers, sites or pools (prompt.last instead of prompt.tokens), fewer examples "
            "(--first-k), in float16 (--storage-dtype), or to another disk"
        )


def total_width(points: Sequence[HookPoint], state_width: int) -> int:
    """Return about how many values a token has at all places together."""
    shapes = [point.shape for point in points]
    return sum(state_width if shape is None else shape.heads * shape.width for shape in shapes)


def rows_of(pools: Sequence[Pool], length: int, max_new_tokens: int) -> int:
    """Return about how many vectors an example has at each place.

    Args:
        pools: what is pooled.
        length: tokens of its prompt.
        max_new_tokens: the most tokens of its response.
    """
    rows = 0
    for pool in pools:
        if pool.pool != "tokens":
            rows += 1
        elif pool.region == "response":
            rows += max_new_tokens
        else:
            rows += length + (max_new_tokens if pool.region == "all" else 0)
    return rows


def bytes_per_example(batches: Sequence[RowBatch], examples: int) -> float:
    """Return what an example takes on disk, going by the rows of some.

    Vectors are stored as they are; metadata are compressed, and stored with every layer.
    """
    if not examples:
        return 0.0
    vectors = sum(batch.vectors.nbytes for batch in batches)
    metadata = 0
    measured: dict[int, int] = {}
    for batch in batches:
        # Batches of all layers share their columns: one of them is measured.
        key = id(batch.columns)
        if key not in measured:
            measured[key] = _metadata_bytes(batch)
        metadata += measured[key]
    return (vectors + metadata) / examples


def shard_overhead(shards: int) -> int:
    """Return the bytes that files take besides rows."""
    return shards * _SHARD_BYTES


def _metadata_bytes(batch: RowBatch) -> int:
    types = schema.metadata_schema()
    columns = {
        name: pa.array(cells, types.field(name).type) for name, cells in batch.columns.items()
    }
    columns["norm"] = pa.array([float(row) for row in range(len(batch))], pa.float32())
    written = io.BytesIO()
    pq.write_table(pa.table(columns), written, compression="zstd")
    return written.tell()


class MemoryWatch:
    """The most memory that was in use since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        """Return bytes: of the accelerator, or of this whole process."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
