"""`actstore pool`: makes pooled rows of the tokens that a store holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from actstore.commands import output
from actstore.commands.options import Number, bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.commands.row_options import Rows, pool_option, row_options
from actstore.wording import counted


@click.command("pool")
@bucket_store_argument
@click.option(
    "--pool",
    "wanted",
    required=True,
    metavar="REGION.POOL,…",
    help="What to make: a region (prompt, question, image, response, answer, all) and last, "
    "first, mean or max, such as response.mean; several with commas.",
)
@click.option(
    "--exclude",
    default="bos",
    show_default=True,
    metavar="WORD,…",
    help="What means and maxima leave out: bos, special, sinks (tokens of a norm far above the "
    "example's median), or none.",
)
@click.option(
    "--sink-factor",
    type=Number(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="K",
    help="A token is a sink if its norm is more than K times the median of its example.",
)
@click.option(
    "--as-variant",
    metavar="NAME",
    help="Write NAME into the new rows' column variant, to keep them beside rows of the same "
    "region and pooling.",
)
@row_options(pool=pool_option("--pooling"))
@format_options
def command(
    store: str | Path,
    wanted: str,
    exclude: str,
    sink_factor: float,
    as_variant: str | None,
    rows: Rows,
    as_json: bool,
) -> None:
    """Pool the token rows of STORE anew, as one more commit of the same store.

    Token rows come from `actstore capture --pool prompt.tokens,response.tokens` (or all.tokens)
    or from ingested sequences. The prompt is every token that was not generated; an example of
    which tokens are missing is counted and left out. Running the same command again adds
    nothing.

    \b
    Examples:
      actstore pool runs.store --pool response.mean --exclude bos,sinks
      actstore pool runs.store --pool prompt.mean,prompt.max --layers 12 --as-variant late
    """
    import actstore
    from actstore.remote.working import working

    with working(store, there=True) as root:
        with actstore.open(root) as opened:
            chosen = None if rows.everything else rows.select(opened).rows
            at, count, size = opened.commit, opened.rows, opened.info().vector_bytes
        mask = None
        if chosen is not None:
            import numpy as np

            mask = np.zeros(count, bool)
            mask[chosen] = True
        from actstore.capturing.repooling import repool

        with bar("pooling", size, hidden=as_json) as report:
            done = repool(
                root,
                wanted,
                exclude=exclude,
                sink_factor=sink_factor,
                variant=as_variant,
                rows=mask,
                where=rows.text or None,
                at=at,
                progress=report,
            )
    if as_json:
        output.print_json(dataclasses.asdict(done))
        return
    if done.commit is None:
        click.echo(f"nothing to do: {counted(done.rows_present, 'row')} stored already")
    else:
        there = f", {done.rows_present} stored already" if done.rows_present else ""
        click.echo(f"commit {done.commit}: {counted(done.rows_written, 'row')} made{there}")
    for reason, left in done.skipped.items():
        output.note(f"left out: {reason}: {counted(left, 'example')} (of all layers)")
