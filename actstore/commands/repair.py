"""`actstore repair`: rebuilds what can be rebuilt of a damaged store, and says what cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands import output
from actstore.commands.confirming import check_can_ask, confirm, dry_run_option, yes_option
from actstore.commands.exit_codes import Exit
from actstore.commands.options import bucket_store_argument, format_options
from actstore.commands.progress import bar
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.storage.repairing import Repair


@click.command("repair")
@bucket_store_argument
@click.option(
    "--from",
    "source",
    metavar="STORE|ADDRESS",
    help="Where sound copies of its files may be: another folder, s3://BUCKET/STORE, or a "
    "repository on the Hub, hf://datasets/ORG/NAME.",
)
@dry_run_option
@yes_option
@format_options
def command(store: str | Path, source: str | None, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Repair STORE: its files from copies elsewhere, its latest commit from what is sound.

    A damaged or missing file is replaced by one with the same SHA-256. Where the manifest of
    the latest commit is damaged the store goes on from the last sound one, with all rows that
    only the damaged one had: what it dropped, renamed, replaced or labelled is to be done again.
    Where only segments of it are, it goes on from what is sound of it. What would be done is shown
    first. What cannot be repaired is named, and so are renamed rows, which may be there twice:
    the exit code is 4 then.

    \b
    Examples:
      actstore verify runs.store
      actstore repair runs.store --from hf://datasets/me/runs
      actstore repair runs.store --from /backup/runs.store --dry-run
    """
    from actstore.remote import working
    from actstore.remote.copies import copies_of
    from actstore.storage import manifest as manifests
    from actstore.storage import repairing

    check_can_ask(yes=yes, dry_run=dry_run)
    copies = None if source is None else copies_of(source)
    with working.repairing(store, dry=dry_run) as root:
        with bar("checking") as report:
            found = repairing.survey(root, copies, progress=report)
        if not dry_run and not found.nothing:
            confirm("Repair it?", lambda: _show(found), yes=yes, as_json=as_json)
            done = repairing.apply(root, found, copies)
            while done.more:
                again = repairing.apply(root, repairing.survey(root, copies), copies)
                done = dataclasses.replace(again, files=(*done.files, *again.files))
            found = done
        sound = found.nothing and not found.left
        rows = manifests.load(root).rows if sound else 0
    if as_json:
        output.print_json(
            {
                "commit": found.commit,
                "base": found.base,
                "salvaged": None if found.salvaged is None else found.salvaged.number,
                "aside": [one._asdict() for one in found.aside],
                "shards": list(found.taken),
                "files": [entry.path for entry in found.files],
                "superseded": list(found.superseded),
                "renamed": list(found.renamed),
                "left": [one._asdict() for one in found.left],
            }
        )
    elif dry_run:
        _show(found)
    elif sound:
        click.echo(f"nothing to repair: commit {found.base} is sound, {counted(rows, 'row')}")
    else:
        _tell(store, found)
    return Exit.DAMAGED if found.left or found.renamed else Exit.DONE


def _show(repair: Repair) -> None:
    """Say what would be done."""
    for one in repair.aside:
        click.echo(f"puts aside {one.path}: {one.reason}")
    if repair.aside:
        begun = f"goes on from {_beginning(repair)}" if _beginning(repair) else ""
        click.echo(begun or "begins a new history")
    for path, rows in repair.taken.items():
        click.echo(f"takes in {path}: {counted(rows, 'row')} that no sound commit has")
    _name_renamed(repair)
    for path in repair.superseded:
        click.echo(f"leaves {path}, whose rows are in other shards")
    for file in repair.files:
        click.echo(f"brings back {file.path} ({output.size(file.bytes)})")
    for one in repair.left:
        click.echo(f"cannot repair {one.path}: {one.reason}")
    if repair.nothing and not repair.left:
        click.echo("nothing to repair")


def _beginning(repair: Repair) -> str:
    """Say which commit it goes on from; empty where there is none."""
    if repair.salvaged is not None:
        return f"what is sound of commit {repair.salvaged.number}"
    return f"commit {repair.base}" if repair.base else ""


def _tell(store: str | Path, repair: Repair) -> None:
    """Say what was done, and what could not be."""
    if repair.files:
        click.echo(f"brought back {counted(len(repair.files), 'file')}")
    if repair.commit is not None:
        click.echo(
            f"commit {repair.commit}: {_beginning(repair) or 'no earlier one'}, and "
            f"{counted(sum(repair.taken.values()), 'row')} of "
            f"{counted(len(repair.taken), 'shard')} that no sound commit named"
        )
    _name_renamed(repair)
    for one in repair.left:
        click.echo(f"not repaired: {one.path}: {one.reason}")
    if repair.left:
        click.echo(f"{store} is damaged still; a copy elsewhere may help: actstore repair --from")


def _name_renamed(repair: Repair) -> None:
    """Name shards whose rows may be there twice."""
    for path in repair.renamed:
        click.echo(
            f"twice, if a renaming made it: {path} has the vectors of other rows under its own "
            "names; drop one of the two"
        )
