"""`python -m docs.study.serving`: the study captured by vLLM into a bucket, beside the local run.

Both engines read the same statements. vLLM's rows go to ``s3://`` (moto's server on loopback), are
verified, queried and probed there, copied into a folder, and held row by row against the local
run's. vLLM has an environment of its own (`make test-vllm` makes it), whose Python is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

import actstore
from actstore import schema
from actstore.capturing.selfcheck.subject import TOLERANCES
from docs.stage import ROOT
from docs.study import __main__ as preparing
from docs.study import model

CITIES = 64
"""Cities, with two statements on each."""
ADDRESS = "s3://study/served.store"
LOCAL, COPY = "local.store", "served.store"
_FURTHER, _SHARE = 3, 0.05
"""In 16 bits so many tolerances at most, and beyond one at most this share of the rows."""


class Distances(NamedTuple):
    """How far the rows of two stores lie apart, by their norms."""

    rows: int
    median: float
    largest: float
    tolerance: float
    beyond: float
    """Share of the rows that lie further apart than the tolerance."""

    @property
    def within(self) -> bool:
        """Whether that is what docs/vllm.md promises."""
        exact = self.tolerance <= TOLERANCES["float32"]
        most = self.tolerance if exact else _FURTHER * self.tolerance
        return self.largest <= most and self.beyond <= (0 if exact else _SHARE)


def distances(one: Path | str, other: Path | str, dtype: str) -> Distances:
    """Hold the rows of two stores against each other.

    Raises:
        ValueError: they are not of the same keys, or say something else of their examples.
    """
    keys = list(schema.key_names())
    names = [*keys, "label", "question", "token_count"]
    mine, theirs = (
        actstore.open(store).select().to_polars(names).sort(keys) for store in (one, other)
    )
    if not mine.select(names).equals(theirs.select(names)):
        raise ValueError(f"{one} and {other} hold other rows")
    left, right = (
        np.stack([vector.to_numpy() for vector in frame["activation"]]).astype(np.float64)
        for frame in (mine, theirs)
    )
    apart = np.linalg.norm(left - right, axis=1) / np.linalg.norm(right, axis=1)
    tolerance = TOLERANCES[dtype]
    return Distances(
        len(apart),
        float(np.median(apart)),
        float(apart.max()),
        tolerance,
        float((apart > tolerance).mean()),
    )


@contextmanager
def bucket() -> Iterator[dict[str, str]]:
    """Run an S3 server on loopback with one bucket; give what tells clients of it."""
    from tests.remote import buckets

    with buckets.moto() as endpoint:
        buckets.ask(endpoint, "PUT", f"/{ADDRESS.split('/')[2]}")
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "AKIASTUDYSTUDYSTUDY0",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-study",
            "AWS_REGION": "us-east-1",
        }


def run(python: str, words: Sequence[str], *, quiet: bool = False) -> str:
    """Run an actstore command and return what it prints; it is shown unless it is JSON to read."""
    print(f"$ actstore {shlex.join(words)}", flush=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [python, "-m", "actstore", *words],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not quiet:
        print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"it ended with code {done.returncode}")
    return done.stdout


def auroc(store: str) -> dict[int, float]:
    """Probe every layer of a store for the truth of its statements."""
    words = ["--label", "label", "--positive", "true", "--where", "pooling = 'last'", "--json"]
    said = run(sys.executable, ["probe", store, *words, "--permutations", "0"], quiet=True)
    return {each["layer"]: each["auroc"] for each in json.loads(said)}


def main() -> None:
    """Capture twice, compare, and say what came out."""
    parser = argparse.ArgumentParser(description="The study by vLLM, beside the local run.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("study-vllm"))
    parser.add_argument("--vllm", default=".venv-vllm/bin/python", help="Python that has vLLM")
    parser.add_argument("--cities", type=int, default=CITIES)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    given = parser.parse_args()
    served_by = str(Path(given.vllm).absolute())
    folder: Path = given.folder
    preparing.prepare(folder, given.cities, 0)
    os.chdir(folder)
    with bucket() as known:
        os.environ |= known
        asked = ["capture", "--model", model.NAME, "--data", "cities.jsonl", "--dataset", "cities"]
        asked += ["--raw", "--pool", "prompt.last,prompt.mean", "--dtype", given.dtype]
        run(sys.executable, [*asked, "--batch-size", "16", "--store", LOCAL])
        run(served_by, [*asked, "--engine", "vllm", "--store", ADDRESS])
        run(sys.executable, ["verify", ADDRESS])
        query = (
            "SELECT label, pooling, count(*) AS rows, count(DISTINCT layer) AS layers, "
            "round(avg(norm), 2) AS norm FROM activations GROUP BY ALL ORDER BY ALL"
        )
        for store in (ADDRESS, LOCAL):
            run(sys.executable, ["query", store, query])
        run(sys.executable, ["sync", ADDRESS, COPY])
        run(sys.executable, ["verify", COPY])
        mine, theirs = auroc(ADDRESS), auroc(LOCAL)
    found = distances(COPY, LOCAL, given.dtype)
    print("layer  vLLM   local")
    for layer in mine:
        print(f"{layer:5d}  {mine[layer]:.3f}  {theirs[layer]:.3f}")
    print(
        f"{found.rows:,} rows: relative distance {found.median:.2g} in the median, "
        f"{found.largest:.2g} at most; {found.beyond:.1%} beyond {found.tolerance:g}"
    )
    if not found.within:
        sys.exit("that is more than docs/vllm.md promises")


if __name__ == "__main__":
    main()
