"""`actstore verify`: checks every byte of a store, and whether it keeps a contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.exits import Exit
from actstore.commands.options import at_option, json_option, store_argument
from actstore.commands.progress import bar

if TYPE_CHECKING:
    from actstore.ingestion.contract import Count
    from actstore.storage.snapshot import Snapshot


@click.command("verify")
@store_argument
@click.option(
    "--contract",
    metavar="NAME|FILE",
    help="Also hold the rows against a contract (`actstore contracts` lists them).",
)
@at_option
@json_option
def command(store: Path, contract: str | None, at: int | None, as_json: bool) -> int:
    """Check STORE: hashes, page checksums, schema, unique keys, finite values.

    Every bad file is named with what is wrong with it. With --contract every violation is
    listed too, with the labels as they are now. Either makes the exit code 4.

    \b
    Examples:
      actstore verify runs.store
      actstore verify runs.store --contract faithfulness-v1
    """
    from actstore.ingestion import contract as contracts
    from actstore.storage.snapshot import open_snapshot
    from actstore.storage.verification import verify

    rules = contracts.load(contract) if contract is not None else None
    snapshot = open_snapshot(store, at)
    size = sum(shard.bytes for shard in snapshot.shards)
    with bar("verifying", size) as report:
        problems = verify(snapshot, progress=report)
    violations = contracts.check(rules, _counts(snapshot)) if rules is not None else ()
    snapshot.close()
    if as_json:
        output.print_json(
            {
                "commit": snapshot.manifest.number,
                "shards": len(snapshot.shards),
                "rows": snapshot.rows,
                "bytes": size,
                "problems": [problem._asdict() for problem in problems],
                "violations": violations,
            }
        )
        return Exit.DAMAGED if problems or violations else Exit.DONE
    for problem in problems:
        click.echo(f"{problem.path}: {problem.reason}")
    if not problems:
        click.echo(
            f"sound: {output.count(len(snapshot.shards), 'shard')}, "
            f"{output.count(snapshot.rows, 'row')}, {output.size(size)} checked"
        )
    for violation in violations:
        click.echo(f"{contract}: {violation}")
    if rules is not None and not violations:
        click.echo(f"the contract {rules.name} is kept")
    return Exit.DAMAGED if problems or violations else Exit.DONE


def _counts(snapshot: Snapshot) -> list[Count]:
    """Count rows by shard, data set and label: a shard settles everything else."""
    import pyarrow.parquet as pq

    from actstore.ingestion.contract import Count

    with pq.ParquetFile(snapshot.metadata_file()) as file:
        table = file.read(columns=["shard", "dataset", "label"])
    groups = table.group_by(["shard", "dataset", "label"]).aggregate([([], "count_all")])
    counts = []
    for row in groups.to_pylist():
        shard = snapshot.shards[row["shard"]]
        counts.append(
            Count(
                model=shard.model,
                dataset=row["dataset"],
                site=shard.site,
                layer=shard.layer,
                label=row["label"],
                width=shard.width,
                dtype=shard.dtype,
                rows=row["count_all"],
            )
        )
    return counts
