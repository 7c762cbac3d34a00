"""Writes the parts of the documentation that the code already knows: `make docs`.

docs/commands.md comes whole from the command line's own help, the tables of
docs/schema.md from schemas/v1/activations.json, the families in docs/capture.md from
docs/families.json, which the tests of families hold to what they ran, the picture of the
rooms from the imports, and what examples print from running them. The tests hold all of
it to be current.
"""

from __future__ import annotations

import json
import tempfile
import textwrap
from pathlib import Path

import click
import datasets

from actstore import cli, schema
from actstore.commands.exit_codes import Exit
from actstore.models.blocks import SITES
from docs import examples, rooms
from docs.study import model as study

DOCS = Path(__file__).parent
HINT = "<!-- Written by `make docs`: change the help text in actstore/commands instead. -->"


def commands_page() -> str:
    """Return docs/commands.md."""
    context = click.Context(cli.group, info_name="actstore")
    parts = [
        "# Commands",
        HINT,
        _prose(cli.group.help),
        "Results go to standard output; progress, remarks and errors to standard error. "
        "An error is one line that says what failed, where, what was expected and what to do "
        "next; with `--json` (or `--format json`) it is a JSON document, still on standard error: "
        '`{"error": {"type": …, "message": …, "exit_code": …}}`.',
        "`--format` says how a result is printed: `table` to read, `json` (for short `--json`), "
        "`jsonl`, `csv` or `markdown`; what stands beside the table then goes to standard error. "
        "Tables in a pipe or a file are never cut. `actstore sql` is `actstore query`.",
        "| exit code | meaning |\n|---|---|\n"
        f"| {Exit.DONE:d} | done |\n"
        f"| {Exit.ERROR:d} | an error |\n"
        f"| {Exit.USAGE:d} | a wrong option or argument |\n"
        f"| {Exit.REFUSED:d} | some source files were refused, the rest is stored |\n"
        f"| {Exit.DAMAGED:d} | damage was found, and nothing changed; or a contract is not kept |\n"
        f"| {Exit.DIFFERENT:d} | `diff` found that two stores differ |\n"
        f"| {Exit.MISSING:d} | `capture --finalize` found that examples are missing |\n"
        f"| {Exit.INTERRUPTED:d} | interrupted; the store is whole |\n"
        f"| {Exit.UNREAD:d} | who reads the output, such as `head`, closed it before the end |",
    ]
    for name in cli.COMMANDS:
        command = cli.group.get_command(context, name)
        assert command is not None
        parts += _command(command, context)
    return "\n\n".join(parts) + "\n"


def _command(command: click.Command, parent: click.Context) -> list[str]:
    assert command.name is not None
    context = click.Context(command, info_name=command.name, parent=parent)
    pieces = " ".join(command.collect_usage_pieces(context))
    parts = [
        f"## actstore {command.name}",
        f"```text\nactstore {command.name} {pieces}\n```",
        _prose(command.help),
    ]
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record and "--help" not in parameter.opts:
            rows.append(f"| `{_cell(record[0])}` | {_cell(record[1])} |")
    if rows:
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return parts


def _prose(help: str | None) -> str:
    """Return a help text as Markdown: its ``\\b`` example blocks as code."""
    paragraphs = []
    for paragraph in textwrap.dedent(help or "").strip().split("\n\n"):
        head, verbatim, block = paragraph.partition("\b\n")
        if verbatim and not head.strip():
            title, _, lines = block.partition("\n")
            code = textwrap.dedent(lines).rstrip()
            paragraphs.append(f"{title.strip()}\n\n```text\n{code}\n```")
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def schema_tables() -> dict[str, str]:
    """Return the generated blocks of docs/schema.md by name."""
    document = schema.document()
    rows = [
        f"| `{c.name}` | {_type(c.type)} | {'yes' if c.nullable else 'no'} | {c.description} |"
        for c in schema.columns()
    ]
    sites = [f"| `{name}` | {text} |" for name, text in document["sites"].items()]
    words = [
        f"| {column} | {', '.join(f'`{word}`' for word in document[listed])} |"
        for column, listed in (
            ("pooling", "poolings"),
            ("region", "regions"),
            ("token_role", "token_roles"),
        )
    ]
    return {
        "columns": "\n".join(["| column | type | null | meaning |", "|---|---|---|---|", *rows]),
        "key": ", ".join(f"`{name}`" for name in schema.key_names()) + ".",
        "sites": "\n".join(["| site | what it is |", "|---|---|", *sites]),
        "words": "\n".join(["| column | allowed values |", "|---|---|", *words]),
    }


def _type(name: str) -> str:
    return "fixed_size_list of float16 or float32" if name == "vector" else name


def family_table() -> str:
    """Return the table of families that the tests capture, from what they recorded."""
    known = json.loads((DOCS / "families.json").read_text(encoding="utf-8"))
    rows = [
        "| family, as its tests call it | class | `attn_out` | `head_out` | `attn_pattern` | "
        "`mlp_in`, `mlp_out` | by path | pads | responses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in known.items():
        depth, sites = entry["depth"], entry["sites"]
        paths = [f"`{site}`" for site in sites if site not in SITES]
        pads = "both sides" if len(entry["padding"]) == 2 else f"{entry['padding'][0]} only"
        cells = [
            name,
            f"`{entry['class']}`",
            _layers(sites.get("attn_out", []), depth),
            _layers(sites.get("head_out", []), depth),
            _layers(entry["patterns"], depth),
            _layers(sites.get("mlp_out", []), depth),
            ", ".join(paths),
            pads,
            "padded batches" if entry["responses"] == "padded" else "batches of one length",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _layers(layers: list[int], depth: int) -> str:
    if not layers:
        return "refused"
    return "every block" if len(layers) == depth else "blocks that have one"


def with_blocks(page: str, blocks: dict[str, str]) -> str:
    """Return ``page`` with each ``<!-- generated: NAME -->`` block filled anew.

    Raises:
        ValueError: the page has no block of one of the names.
    """
    for name, text in blocks.items():
        begin, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no block {begin.strip()} … {end}")
        page = f"{before}{begin}\n{text}\n\n{end}{after}"
    return page


def main() -> None:
    """Rewrite the generated pages and blocks, and outputs of examples that have changed."""
    (DOCS / "commands.md").write_text(commands_page(), encoding="utf-8")
    page = DOCS / "schema.md"
    page.write_text(
        with_blocks(page.read_text(encoding="utf-8"), schema_tables()), encoding="utf-8"
    )
    page = DOCS / "capture.md"
    page.write_text(
        with_blocks(page.read_text(encoding="utf-8"), {"families": family_table()}),
        encoding="utf-8",
    )
    rooms.PICTURE.write_text(rooms.picture(), encoding="utf-8")
    for page in sorted(DOCS.glob("*.md")):
        _renew(page)
    readme = DOCS.parent / "README.md"
    if absent := study.missing():
        print(f"README.md is left as it is: {', '.join(absent)} not installed")
    else:
        _renew(readme, readme=True)


def _renew(page: Path, *, readme: bool = False) -> None:
    """Run the examples of a page and write outputs that have changed into it."""
    text = page.read_text(encoding="utf-8")
    if not examples.parse(text, scripts=readme):
        return
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "datasets_cache"
        if not readme:  # which makes its own data, as its readers do
            examples.prepare(Path(folder))
        text = examples.renewed(text, examples.Session(Path(folder)), scripts=readme)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
