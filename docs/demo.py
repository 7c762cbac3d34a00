"""`make demo`: does a small language model know which statements are true?

A real model on real facts, from capture to a shared data set, in what a user would type. Weights
and facts come from packages that `make` installs; what was converted is kept, so that the second
run is quick. Without the weights a model that is trained on the spot steps in (`demo_small`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

# The Hub on loopback lives with the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from docs import demo_small
from docs.stage import far, far_python, hub, python, say, shell
from docs.study import __main__ as preparing
from docs.study import facts, model

REPOSITORY = "org/city-truths"


def main() -> None:
    """Tell the story in a folder of its own."""
    parser = argparse.ArgumentParser(description="From a model to a finding and a data set.")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="made anew")
    parser.add_argument("--small", action="store_true", help="the model trained on the spot")
    parser.add_argument("--cities", type=int, default=facts.CITIES)
    parser.add_argument("--capitals", type=int, default=facts.CAPITALS)
    parser.add_argument("--steered", type=int, help="statements that steering is tried on")
    given = parser.parse_args()
    absent = model.missing()
    if absent and not given.small:
        print(f"{', '.join(absent)} not installed: a small model trained on the spot steps in")
    started = time.perf_counter()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    # The demo leaves nothing behind outside its folder, lists of fonts among it.
    os.environ["MPLCONFIGDIR"] = str((given.folder / "home").absolute())
    with contextlib.chdir(given.folder):
        if given.small or absent:
            demo_small.tell()
        else:
            tell(given.cities, given.capitals, given.steered)
    say(
        f"That took {time.perf_counter() - started:.0f} seconds. Everything is in "
        f"{given.folder}/: look around, or remove the folder."
    )


def tell(cities: int, capitals: int, steered: int | None) -> None:
    """Go through the whole study."""
    prepare(cities, capitals)
    capture()
    probe()
    steer(steered)
    ask()
    adopt()
    share()


def prepare(cities: int, capitals: int) -> None:
    """Write the facts and unpack the model, or find it unpacked."""
    say(
        """SmolLM2-135M-Instruct, a real language model of 30 layers, and facts from GeoNames. Its
        weights are unpacked from four bits the first time, which takes most of a minute."""
    )
    preparing.prepare(Path("."), cities, capitals)


def capture() -> None:
    """Let it read the statements, and keep its states."""
    say(
        """It reads a true and a false statement on each city. One pass keeps what goes through
        each of its layers at the last token of each."""
    )
    print(Path("cities.jsonl").read_text(encoding="utf-8").split("\n")[0])
    shell(
        f"actstore capture --model {model.NAME} --data cities.jsonl --dataset cities "
        "--store cities.store --raw --pool prompt.last --dtype float32 --batch-size 16"
    )


def probe() -> None:
    """Look for truth in every layer."""
    say(
        """Can one see from its states which statements are true? A probe for each layer; both
        statements of a city stay on the same side of each fold."""
    )
    shell(
        "actstore probe cities.store --label label --positive true --permutations 50 --out probes"
    )
    shell("actstore report cities.store -o report.html")
    say(
        """At layer 0, words alone, nothing tells; from about a third of the depth on the states
        do. probes/auroc.png is the picture, report.html shows the store on one page."""
    )


def steer(statements: int | None) -> None:
    """Make a vector of it, and see whether adding it changes what the model says."""
    say(
        """The mean difference between true and false is a direction. If the model used it, adding
        it should make statements on other cities look true, or false when it is subtracted: more
        than random directions of the same norm do."""
    )
    shell("actstore steer cities.store --positive true --negative false --layers 15 --out steering")
    fewer = "" if statements is None else f" --statements {statements}"
    shell(f"python -m docs.study.steering --layer 15{fewer}")


def ask() -> None:
    """Let the model answer questions, and query what it said."""
    say("Now it answers: capitals of the most populous countries, graded by the real ones.")
    shell(
        f"actstore capture --model {model.NAME} --data capitals.jsonl --dataset "
        "capitals --store capitals.store --layers 5,15,25 --pool prompt.last,response.mean "
        "--max-new-tokens 16 --grade contains --dtype float32 --batch-size 16"
    )
    say("Any question about the rows is SQL; vectors take part in it.")
    shell(
        'actstore query capitals.store "SELECT label, question, oracle, prediction FROM '
        "activations WHERE layer = 15 AND pooling = 'last' ORDER BY example_id LIMIT 6\""
    )
    shell(
        "actstore query cities.store \"SELECT layer, avg(norm) FILTER (label = 'true') AS true, "
        "avg(norm) FILTER (label = 'false') AS false FROM activations "
        'WHERE layer IN (0, 10, 20, 29) GROUP BY ALL ORDER BY ALL"'
    )


def adopt() -> None:
    """Take in files that lie around already."""
    say(
        """Activations that lie around as files come in by one command. Here are the same states
        once more, as another project's .pt files; the layout is detected."""
    )
    shell("python -m docs.study.tensors cities.store tensors")
    shell("actstore ingest tensors --store tensors.store --model demo/from-files")
    python(
        {},
        """
        import actstore
        import numpy as np
        captured = actstore.open("cities.store").select(layer=15).numpy()
        ingested = actstore.open("tensors.store").select(layer=15).numpy()
        print(captured.shape, ingested.shape, np.array_equal(captured, ingested))
        """,
    )


def share() -> None:
    """Push the store to a Hub on loopback, and use it from there."""
    say(
        """Sharing it is one commit on the Hugging Face Hub. Here a Hub on loopback stands in; the
        client libraries are the real ones."""
    )
    sql = "SELECT label, count(*) AS n FROM activations WHERE layer = 15 GROUP BY ALL ORDER BY ALL"
    with hub(Path("hub"), Path("home")) as environment:
        far(["push", "cities.store", REPOSITORY, "--license", "cc-by-4.0"], environment)
        far(["query", f"hf://datasets/{REPOSITORY}", sql], environment)
        far(["pull", REPOSITORY, "pulled.store", "--layers", "15,20"], environment)
        far_python(
            "from datasets import load_dataset\n"
            f'rows = load_dataset("{REPOSITORY}", split="train")\n'
            'print(len(rows), "rows;", rows[0]["question"], rows[0]["label"])',
            environment,
        )


if __name__ == "__main__":
    main()
