"""The script that submits a capture to SLURM: an array of ranks, and a job that proves the end."""

from __future__ import annotations

import shlex
from pathlib import Path


def script(capture: str, finalize: str, *, workers: int, gpus: float | None, folder: Path) -> str:
    """Return a shell script that submits both jobs and prints their numbers.

    Args:
        capture: the command of one rank but for ``--rank``, quoted for a shell.
        finalize: the command that proves that every example is there, likewise.
        workers: ranks; each is one task of the array.
        gpus: of each task; None where the cluster's default will do.
        folder: where the commands run.
    """
    asked = [] if not gpus else [f"#SBATCH --gpus={gpus:g}"]
    return "\n".join(
        [
            "#!/bin/bash",
            "# Submit with: bash SCRIPT [options of sbatch, such as --partition=… --time=…]",
            "set -euo pipefail",
            "",
            "capture=$(sbatch --parsable \"$@\" <<'ACTSTORE_CAPTURE'",
            "#!/bin/bash",
            "#SBATCH --job-name=actstore-capture",
            f"#SBATCH --array=0-{workers - 1}",
            *asked,
            "set -euo pipefail",
            f"cd -- {shlex.quote(str(folder))}",
            f'exec {capture} --rank "$SLURM_ARRAY_TASK_ID"',
            "ACTSTORE_CAPTURE",
            ")",
            "",
            "# afterany: it also names what is missing where a task has failed.",
            'finalize=$(sbatch --parsable "$@" --dependency="afterany:${capture%%;*}" '
            "<<'ACTSTORE_FINALIZE'",
            "#!/bin/bash",
            "#SBATCH --job-name=actstore-finalize",
            "set -euo pipefail",
            f"cd -- {shlex.quote(str(folder))}",
            f"exec {finalize}",
            "ACTSTORE_FINALIZE",
            ")",
            'echo "capture: job ${capture%%;*}, finalize: job ${finalize%%;*}"',
            "",
        ]
    )
