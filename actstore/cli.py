"""The `actstore` command: finds the command asked for, and turns errors into one line."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click

from actstore import errors
from actstore.commands import hints, output, streams
from actstore.commands.exit_codes import Exit
from actstore.storage import unfinished

COMMANDS = (
    "ingest",
    "recipes",
    "contracts",
    "capture",
    "info",
    "query",
    "queries",
    "select",
    "nearest",
    "index",
    "stats",
    "compare",
    "diff",
    "plot",
    "report",
    "view",
    "export",
    "label",
    "pool",
    "probe",
    "score",
    "steer",
    "validate",
    "drop",
    "rename",
    "checkout",
    "compact",
    "convert",
    "verify",
    "repair",
    "log",
    "push",
    "pull",
    "sync",
)
"""In the order in which a user meets them; each is ``actstore.commands.<name>.command``."""


class _Unread(Exception):
    """Nobody reads standard output any more; click would end the process for an OSError."""


@contextlib.contextmanager
def _read() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as problem:
        raise _Unread from problem


class LazyGroup(click.Group):
    """Imports a command's module only when that command, or the list of all, is asked for."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _read():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _read():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = hints.ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(f"actstore.commands.{cmd_name}")
            self.commands[cmd_name] = module.command
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word in (*COMMANDS, *hints.ALIASES) or word.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = hints.commands(word, COMMANDS)
        names = [f"`actstore {name}`" for name in meant]
        told = f" Did you mean {hints.either(names)}?" if names else ""
        raise click.UsageError(f"there is no command {word!r}.{told}", ctx)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"actstore {version('actstore')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 an error, 2 a wrong option, 3 some files were refused, "
    "4 damage was found, 5 two stores differ, 6 a divided capture misses examples, "
    "130 interrupted, 141 nobody read the output to its end. `actstore sql` is `actstore query`.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def group() -> None:
    """The columnar store for model activations.

    Folders of activation files become one store that answers SQL and hands back
    matrices at memory-map speed.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become a line on standard error.

    Where JSON was asked for the line is a JSON document: ``{"error": {"type", "message",
    "exit_code"}}``. Standard output stays empty.
    """
    as_json = _wants_json(sys.argv[1:] if arguments is None else arguments)

    def failed(text: str, kind: str, code: int) -> int:
        output.error(text, kind=kind, code=code, as_json=as_json)
        return code

    for target in unfinished.clear():
        output.note(f"{target.name}: cleared what a command had left that ended before its end")
    try:
        code = group.main(arguments, prog_name="actstore", standalone_mode=False)
    except click.Abort:
        return failed(
            "interrupted: what was committed stands and the store is whole; "
            "the same command again does what is left",
            "Interrupted",
            Exit.INTERRUPTED,
        )
    except click.exceptions.NoArgsIsHelpError as problem:
        problem.show()
        return problem.exit_code
    except click.ClickException as problem:
        return failed(_with_hint(problem), "UsageError", problem.exit_code)
    except errors.ActstoreError as problem:
        code = Exit.USAGE if isinstance(problem, errors.UsageError) else Exit.ERROR
        if isinstance(problem, errors.DamageError):
            code = Exit.DAMAGED
        return failed(str(problem), type(problem).__name__, code)
    except OSError as problem:
        return failed(_os_message(problem), type(problem).__name__, Exit.ERROR)
    return code if isinstance(code, int) else Exit.DONE


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors are to be JSON, which is to be known before the options are understood."""
    given = list(arguments)
    given = given[: given.index("--")] if "--" in given else given
    formats = [word.removeprefix("--format=") for word in given if word.startswith("--format=")]
    formats += [after for word, after in itertools.pairwise(given) if word == "--format"]
    return "--json" in given or any(each in ("json", "jsonl") for each in formats)


def _with_hint(problem: click.ClickException) -> str:
    message = problem.format_message()
    context = getattr(problem, "ctx", None)
    if isinstance(problem, click.NoSuchOption) and context is not None:
        known = {word for each in context.command.params for word in each.opts if word[0] == "-"}
        meant = hints.options(problem.option_name, known)
        told = f" Did you mean {hints.either(meant)}?" if meant else ""
        if problem.option_name in hints.ELSEWHERE:
            told = f" {hints.ELSEWHERE[problem.option_name]}"
        message = f"there is no option {problem.option_name}.{told}"
    if context is None:
        return message
    end = "" if message.endswith((".", "?", "!")) else "."
    return f"{message}{end} See `{context.command_path} --help`."


def _os_message(problem: OSError) -> str:
    where = f"{problem.filename}: " if problem.filename is not None else ""
    return f"{where}{problem.strerror or problem}"


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    streams.open_closed()
    streams.escape_unwritable()
    try:
        code = run()
        sys.stdout.flush()
    except (BrokenPipeError, _Unread):
        # The reader (say, `head`) has had enough: nothing to report.
        streams.close_output()
        code = Exit.UNREAD
    except OSError as problem:
        streams.close_output()
        output.error(f"standard output: {_os_message(problem)}")
        code = Exit.ERROR
    sys.exit(code)
