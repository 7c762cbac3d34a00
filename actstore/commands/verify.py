"""`actstore verify`: checks every byte of a store, and whether it keeps a contract."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.commands.options import (
    LocalPath,
    Number,
    at_option,
    bucket_store_argument,
    bundle,
    format_options,
    seed_option,
)
from actstore.commands.progress import bar, quiet
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.capturing.recompute import Recomputed
    from actstore.ingestion.contract import Count
    from actstore.storage.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What is captured again, and how."""

    recompute: int | None
    model: str | None
    model_name: str | None
    data: str | None
    recipe: str | None
    image_dir: Path | None
    template_file: Path | None
    device: str | None
    tolerance: float | None
    seed: int
    trust_remote_code: bool


again_options = bundle(
    "again",
    Again,
    click.option(
        "--recompute",
        type=click.IntRange(min=1),
        metavar="K",
        help="Also capture K random rows again and compare them with what is stored.",
    ),
    click.option(
        "--model",
        metavar="ID|FOLDER",
        help="With --recompute: the model that the rows were captured from.",
    ),
    click.option(
        "--model-name",
        metavar="NAME",
        help="What the store calls it; by default what --model says.",
    ),
    click.option(
        "--data",
        metavar="FILE|ID",
        help="With --recompute: the questions, as `actstore capture` takes them, where the rows "
        "do not "
        "hold all that was asked: images, conversations.",
    ),
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        help="How records of --data become examples, as in a capture.",
    ),
    click.option(
        "--image-dir",
        type=LocalPath(file_okay=False),
        metavar="FOLDER",
        help="Where relative paths of images in --data start.",
    ),
    click.option(
        "--template-file",
        type=LocalPath(exists=True, dir_okay=False),
        metavar="FILE",
        help="The chat template of the capture, where it was not the model's own.",
    ),
    click.option("--device", metavar="NAME", help="With --recompute: cpu, cuda, cuda:1 …."),
    click.option(
        "--tolerance",
        type=Number(min=0),
        metavar="X",
        help="Largest difference allowed, relative to the vector's norm; by default 1e-4 for "
        "models in "
        "float32, 0.05 in bfloat16, 0.01 in float16.",
    ),
    seed_option("For the choice of rows to recompute."),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that the model brings."
    ),
)


@click.command("verify")
@bucket_store_argument
@click.option(
    "--contract",
    metavar="NAME|FILE",
    help="Also hold the rows against a contract (`actstore contracts` lists them).",
)
@again_options
@at_option()
@format_options
def command(
    store: str | Path,
    contract: str | None,
    again: Again,
    at: int | None,
    as_json: bool,
) -> int:
    """Check STORE: hashes, page checksums, schema, unique keys, finite values.

    Every bad file is named with what is wrong with it. With --contract every violation is
    listed too, with the labels as they are now. With --recompute some rows are captured again,
    with the settings of their run, and must be what they were but for rounding. Each makes the
    exit code 4.

    \b
    Examples:
      actstore verify runs.store
      actstore verify s3://bucket/runs.store
      actstore verify runs.store --contract faithfulness-v1
      actstore verify runs.store --recompute 20 --model Qwen/Qwen3-0.6B
    """
    if (again.recompute is None) != (again.model is None):
        raise click.UsageError("--recompute K and --model belong together")
    from actstore.ingestion import contract as contracts
    from actstore.remote.working import looking
    from actstore.storage.snapshot import open_snapshot
    from actstore.storage.verification import verify

    rules = contracts.load(contract) if contract is not None else None
    with looking(store, at, history=True) as root:
        snapshot = open_snapshot(root, at)
        size = sum(shard.bytes for shard in snapshot.shards)
        with bar("verifying", size) as report:
            problems = verify(snapshot, progress=report)
        violations = contracts.check(rules, _counts(snapshot)) if rules is not None else ()
        done = None
        if again.recompute is not None and again.model is not None and not problems:
            done = _recompute(snapshot, again.recompute, again.model, again)
        snapshot.close()
    wrong = bool(problems or violations or (done and done.outside))
    if as_json:
        output.print_json(
            {
                "commit": snapshot.manifest.number,
                "shards": len(snapshot.shards),
                "rows": snapshot.rows,
                "bytes": size,
                "problems": [problem._asdict() for problem in problems],
                "violations": violations,
                **({"recomputed": _plain(done)} if done else {}),
            }
        )
        return Exit.DAMAGED if wrong else Exit.DONE
    for problem in problems:
        click.echo(f"{problem.path}: {problem.reason}")
    if not problems:
        click.echo(
            f"sound: {counted(len(snapshot.shards), 'shard')}, "
            f"{counted(snapshot.rows, 'row')}, {output.size(size)} checked"
        )
    for violation in violations:
        click.echo(f"{contract}: {violation}")
    if rules is not None and not violations:
        click.echo(f"the contract {rules.name} is kept")
    if done is not None:
        _show(done)
    elif again.recompute is not None:
        output.note("nothing was captured again: repair the files first")
    return Exit.DAMAGED if wrong else Exit.DONE


def _recompute(snapshot: Snapshot, count: int, model: str, again: Again) -> Recomputed:
    """Load the model as the captures had it, and capture rows again."""
    from actstore.capturing.prompts import capture_recipes
    from actstore.capturing.prompts.data import open_questions
    from actstore.capturing.recompute import captured_runs, recompute, run_attention, run_dtype
    from actstore.capturing.run.provenance import without_folders
    from actstore.models import loading

    runs = captured_runs(snapshot, again.model_name or without_folders(model))
    examples = None
    if again.data is not None:
        recipe = None if again.recipe is None else capture_recipes.load(again.recipe)
        examples = open_questions(again.data, recipe=recipe, images=again.image_dir)
    template = again.template_file
    with quiet():
        loaded = loading.load(
            model,
            revision=runs[-1].settings.get("revision"),
            dtype=run_dtype(runs[-1]),
            device=again.device,
            attn=run_attention(runs),
            generate=any(run.settings.get("max_new_tokens") for run in runs),
            trust_remote_code=again.trust_remote_code,
        )
        return recompute(
            snapshot,
            count,
            model=loaded.model,
            processor=loaded.processor,
            runs=runs,
            examples=examples,
            chat_template=None if template is None else template.read_text(encoding="utf-8"),
            seed=again.seed,
            tolerance=again.tolerance,
        )


def _plain(done: Recomputed) -> dict[str, Any]:
    rows = [{**dataclasses.asdict(row), "ok": row.ok} for row in done.rows]
    return {
        "rows": rows,
        "outside": len(done.outside),
        "largest": done.largest,
        "differences": list(done.differences),
    }


def _show(done: Recomputed) -> None:
    compared = [row for row in done.rows if row.distance is not None]
    tolerance = max((row.tolerance for row in done.rows), default=0.0)
    largest = "nothing to compare" if done.largest is None else f"{done.largest:.2g}"
    click.echo(
        f"captured {counted(len(compared), 'row')} again: largest difference {largest}, "
        f"tolerance {tolerance:.2g}"
    )
    for row in done.outside:
        what = row.reason or f"differs by {row.distance:.3g} (tolerance {row.tolerance:.2g})"
        layer = "" if row.layer is None else f", layer {row.layer}"
        click.echo(f"row {row.row_id} ({row.example_id}, {row.site}{layer}, {row.pool}): {what}")
    for text in done.differences:
        output.note(f"not as in the stored run: {text}")
    skipped: dict[str, int] = {}
    for row in done.rows:
        if row.skipped and row.reason:
            skipped[row.reason] = skipped.get(row.reason, 0) + 1
    for reason, count in skipped.items():
        output.note(f"not compared: {counted(count, 'row')}: {reason}")


def _counts(snapshot: Snapshot) -> list[Count]:
    """Count rows by shard, data set and label: a shard settles everything else."""
    from actstore.ingestion.contract import Count

    with snapshot.opened_metadata() as file:
        table = file.read(columns=["dataset", "label"])
    table = table.append_column("shard", [snapshot.shard_numbers()])
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
