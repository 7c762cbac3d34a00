"""Captures that are divided: which part is this process's, whether all parts are there."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from actstore.commands import output
from actstore.commands.exit_codes import Exit
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.capturing.prompts.data import Questions
    from actstore.capturing.run.finalize import Finalized
    from actstore.capturing.run.options import CaptureOptions
    from actstore.capturing.run.provenance import Identity

OF_ENGINES = (
    ("workers", "--workers", ("ray", "slurm")),
    ("gpus_per_worker", "--gpus-per-worker", ("ray", "slurm")),
    ("address", "--address", ("ray",)),
    ("print_script", "--print", ("slurm",)),
    ("rank", "--rank", ("local", "vllm")),
    ("world_size", "--world-size", ("local", "vllm")),
    ("dry_run", "--dry-run", ("local", "vllm")),
)
"""Option, how it is spelled, and the engines that it goes with."""
NAMED = 20
"""Missing examples that are named on the screen."""


class _Environment(NamedTuple):
    """Variables by which a launcher tells a process which of several it is."""

    rank: str
    world_size: str
    local_rank: str


_TORCHRUN = _Environment("RANK", "WORLD_SIZE", "LOCAL_RANK")
_SLURM = _Environment("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")


def part_of(
    rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ
) -> tuple[int, int] | None:
    """Return which process this is, of how many; None where it is the only one.

    Options come first; else what a launcher says, if it has started more than one. Says on
    standard error what the process takes and why.
    """
    if rank is not None and world_size is None:
        raise click.BadParameter(
            "say with --world-size how many processes there are", param_hint="--rank"
        )
    if world_size is not None:
        if world_size == 1 and not rank:
            return None
        if rank is None:
            launched = _launched(environment)
            if launched is None or launched[1] != world_size:
                raise click.BadParameter(
                    f"say with --rank which of the {world_size} processes this is, from 0 on",
                    param_hint="--world-size",
                )
            return launched[0], world_size
        if rank >= world_size:
            raise click.BadParameter(
                f"{rank} of {world_size} processes: ranks count from 0 to {world_size - 1}",
                param_hint="--rank",
            )
        return rank, world_size
    found = _launched(environment)
    if found is None:
        return None
    rank, world_size, names = found
    output.note(
        f"this process takes part {rank} of {world_size}, as {names.rank} and {names.world_size} "
        "say (--world-size 1 takes everything)"
    )
    return rank, world_size


def _launched(environment: Mapping[str, str]) -> tuple[int, int, _Environment] | None:
    """Return what a launcher says, if it started several processes."""
    for names in (_TORCHRUN, _SLURM):
        rank, size = (environment.get(name, "") for name in names[:2])
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size) > 1):
            continue
        if names is _SLURM and _is_batch_script(environment):
            output.note(
                f"note: SLURM has {size} tasks for this job, but srun did not start this process: "
                "it takes everything"
            )
            continue
        return int(rank), int(size), names
    return None


def _is_batch_script(environment: Mapping[str, str]) -> bool:
    """Say whether this runs in a job's script itself, which is its task 0 whatever it starts."""
    return "SLURM_JOB_ID" in environment and "SLURM_STEP_NUM_TASKS" not in environment


def own_device(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the GPU of this process among those of the machine; None where it is not said."""
    import torch

    count = torch.cuda.device_count()
    for names in (_TORCHRUN, _SLURM):
        local = environment.get(names.local_rank, "")
        if count > 1 and local.isdecimal():
            return f"cuda:{int(local) % count}"
    return None


def command_line(
    without: Collection[str] = (), *, program: Sequence[str] = ("actstore",), **more: object
) -> str:
    """Return the command as it was typed, quoted for a shell.

    Args:
        without: names of options that are left out.
        program: what is run.
        more: options to add, by name; True for one that takes no value.
    """
    context = click.get_current_context()
    words = [*program, str(context.info_name)]
    for param in context.command.params:
        name = param.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if not isinstance(param, click.Option) or name in without or name in more:
            continue
        if not param.expose_value:  # how the result is printed
            continue
        words += _spelled(param, context.params[name])
    for name, value in more.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(str(value))
    return shlex.join(words)


def _spelled(option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [option.opts[0] if value else option.secondary_opts[0]]
    values = value if option.multiple else (value,)
    return [f"{option.opts[0]}={each}" for each in values]


def finalize(
    store: Path,
    questions: Questions,
    asked: CaptureOptions,
    identity: Identity,
    loading: Mapping[str, Any],
) -> Finalized:
    """Look whether everything that is asked is there."""
    from actstore.capturing.run import finalize as finalizing
    from actstore.capturing.run.options import CaptureSettings, Source

    # Ray hands pieces to whoever is free: there is no rank to run again.
    world_size = 1 if asked.get("engine") == "ray" else asked.get("world_size")
    rank = None if world_size is None else 0
    whole: CaptureOptions = {**asked, "rank": rank, "world_size": world_size}
    settings = CaptureSettings(**whole)
    return finalizing.finalize(
        Source(questions), store=store, options=settings, identity=identity, loading=loading
    )


def slurm_script(workers: int, gpus: float | None, *, printed: bool, folder: Path) -> str:
    """Return the script that submits the capture as it was typed."""
    from actstore.capturing.workers.slurm import script

    if not printed:
        raise click.BadParameter(
            "nothing is submitted by actstore itself: add --print, look at the script that it "
            "prints, and run that with bash",
            param_hint="--engine",
        )
    if gpus is not None and gpus != int(gpus):
        raise click.BadParameter("SLURM gives whole GPUs", param_hint="--gpus-per-worker")
    without = ("engine", "workers", "gpus_per_worker", "print_script")
    program = (sys.executable, "-m", "actstore")
    return script(
        command_line(without, program=program, world_size=workers),
        command_line(without, program=program, world_size=workers, finalize=True),
        workers=workers,
        gpus=gpus,
        folder=folder,
    )


def show(found: Finalized, *, as_json: bool, labels: Mapping[str, int] | None) -> int:
    """Print what is there and what is missing, with the commands that bring it."""
    commands = {rank: rerun(found, rank) for rank in found.missing_by_rank}
    if as_json:
        document = found.as_dict() | {
            "rerun": {str(rank): command for rank, command in commands.items()}
        }
        output.print_json(document | ({"labels": dict(labels)} if labels is not None else {}))
    else:
        _print(found, commands, labels)
    if not found.complete:
        return Exit.MISSING
    return Exit.REFUSED if found.refused else Exit.DONE


def rerun(found: Finalized, rank: int) -> str:
    """Return the command that captures what a rank has not."""
    without = ("finalize", "rank")
    if found.world_size == 1:
        return command_line((*without, "world_size"))
    return command_line(without, rank=rank, world_size=found.world_size, piece=found.piece)


def _print(found: Finalized, commands: Mapping[int, str], labels: Mapping[str, int] | None) -> None:
    there = found.examples - len(found.missing)
    output.print_pairs(
        {
            "model": found.model,
            "there": f"{there:,} of {counted(found.examples, 'example')}, "
            f"{counted(found.rows, 'row')}",
            "missing": f"{counted(len(found.missing), 'example')}" if found.missing else None,
            "twice": f"{counted(len(found.twice), 'example')}" if found.twice else None,
            "refused": f"{counted(len(found.refused), 'example')}" if found.refused else None,
            "no row": ", ".join(f"{name} {n:,}" for name, n in found.without_rows.items()) or None,
            "labels": ", ".join(f"{label} {n:,} rows" for label, n in (labels or {}).items())
            or None,
        }
    )
    for text in (f"  {each.where}{each.reason}" for each in found.missing[:NAMED]):
        output.note(text)
    if len(found.missing) > NAMED:
        output.note(f"  … {len(found.missing) - NAMED:,} more")
    for each in found.twice[:NAMED]:
        output.note(f"  {each} has two rows where one belongs: see actstore verify")
    for where, reason in found.refused[:NAMED]:
        output.note(f"  refused: {where}: {reason}")
    for rank, command in commands.items():
        of = f"rank {rank} of {found.world_size} misses" if found.world_size > 1 else "missing are"
        output.note(f"{of} {counted(found.missing_by_rank[rank], 'example')}; this brings them:")
        output.note(f"  {command}")
