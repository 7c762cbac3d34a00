"""The demo where no real weights are installed: a small model is trained on the spot.

Forward hooks also leave pickles behind, as another project's hooks do; everything after that is
what a user would type.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from docs import two_choice
from docs.stage import far, far_python, hub, python, say, shell

MODEL = "demo/two-choice"
QUESTIONS = 3000


def tell() -> None:
    """Go through the story in the current folder."""
    # For layers this small, handing work to another thread costs more than the work.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    train()
    capture()
    ask()
    probe()
    adopt()
    load()
    share()


def train() -> None:
    """Make the model and its questions."""
    began = time.perf_counter()
    made = two_choice.make(Path("model"))
    two_choice.write_questions(Path("questions.jsonl"), QUESTIONS)
    with Path("questions.jsonl").open(encoding="utf-8") as file:
        first = file.readline().strip()
    say(
        f"""A Llama of {made["parameters"]:,} parameters learned in {made["steps"]} steps
        ({time.perf_counter() - began:.0f} s) which of two numbers is larger; not to perfection,
        or there would be nothing to look for. {QUESTIONS:,} new questions wait for it:"""
    )
    print(first)


def capture() -> None:
    """Let it answer, and keep what it was thinking."""
    say(
        """One pass asks them all, and stores what went through the model at the last token of
        each prompt, with its answer, graded."""
    )
    shell(
        f"actstore capture --model model --model-name {MODEL} --data questions.jsonl "
        "--dataset which-is-larger --store store --sites embeddings,resid_post "
        "--pool prompt.last --max-new-tokens 2 --grade exact --raw --batch-size 256"
    )


def ask() -> None:
    """Query what is there."""
    say("How often is it right? Any question about the rows is SQL; vectors take part in it.")
    shell(
        'actstore query store "SELECT task, count(*) AS questions, '
        "avg((label = 'correct')::int) AS accuracy "
        'FROM activations WHERE layer = 3 GROUP BY ALL ORDER BY ALL"'
    )
    print()
    shell(
        'actstore query store "SELECT layer, avg(norm) AS norm, '
        "avg(norm) FILTER (label = 'correct') AS correct, "
        "avg(norm) FILTER (label = 'incorrect') AS incorrect "
        'FROM activations GROUP BY ALL ORDER BY ALL"'
    )


def probe() -> None:
    """Look for the answer's correctness in the vectors, and say what was found."""
    say("Can one see from the vectors whether the answer will be right? A probe per layer:")
    shell("actstore probe store --label label --positive correct --group-by question --out probes")
    names: dict[str, Any] = {}
    say("The same by hand, from one layer's matrix, straight from the memory map:")
    python(
        names,
        """
        import actstore
        store = actstore.open("store")
        layer = store.select(site="resid_post", layer=2)
        X = layer.numpy()
        y = [label == "correct" for label in layer.table(["label"])["label"].to_pylist()]
        print(X.shape, X.dtype, f"{sum(y)} of {len(y)} correct")
        """,
    )
    say("And what a probe that sees nothing but the two numbers makes of it:")
    python(names, _SURFACE)
    say(
        """So read it soberly: how far apart the numbers are predicts mistakes just as well, and
        the vectors hold that too. The probe reads how hard the question is; that the model
        knows whether it is right does not follow."""
    )


_SURFACE = """
import re
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.pipeline import make_pipeline
pairs = np.array([
    [int(n) for n in re.findall("[0-9]+", question)]
    for question in layer.table(["question"])["question"].to_pylist()
])
apart = np.abs(pairs[:, 0] - pairs[:, 1])
surface = np.column_stack([apart, np.log(apart), pairs // 100, pairs[:, 0] > pairs[:, 1]])
reader = make_pipeline(StandardScaler(), LogisticRegression())
print(f"AUROC {cross_val_score(reader, surface, y, scoring='roc_auc').mean():.3f}")
"""


def adopt() -> None:
    """Take in what other tools left behind."""
    files = _write_pickles(Path("hooks"), count=24)
    say(
        f"""Activations that lie around already come in by one command. Here are {files} pickles,
        as one project's forward hooks write them; the layout is detected, and no code in them
        is run."""
    )
    shell("actstore ingest hooks --store store")
    print()
    shell("actstore info store")


def load() -> None:
    """Load the store as a data set."""
    datasets.config.HF_DATASETS_CACHE = Path("datasets_cache").absolute()
    datasets.disable_progress_bars()
    say("And the folder is a Hugging Face data set as it is.")
    python(
        {},
        """
        from datasets import load_dataset
        layer = load_dataset("store", "demo--two-choice.resid_post.layer_002", split="train")
        print(len(layer), "rows;", layer[0]["question"], layer[0]["prediction"])
        """,
    )


def share() -> None:
    """Push the store to a Hub on loopback, and use it from there."""
    repository = "org/two-choice-activations"
    say(
        """Sharing it is one commit on the Hugging Face Hub. Here a Hub on loopback stands in; the
        client libraries are the real ones."""
    )
    sql = "SELECT label, count(*) AS n FROM activations WHERE layer = 3 GROUP BY ALL ORDER BY n"
    with hub(Path("hub"), Path("home")) as environment:
        far(["push", "store", repository, "--license", "cc-by-4.0"], environment)
        far(["query", f"hf://datasets/{repository}", sql], environment)
        far(["pull", repository, "pulled", "--layers", "2"], environment)
        far_python(
            "from datasets import load_dataset\n"
            f'rows = load_dataset("{repository}", split="train")\n'
            'print(len(rows), "rows;", rows[0]["question"], rows[0]["label"])',
            environment,
        )


def _write_pickles(folder: Path, count: int) -> int:
    """Write pickles as one project's hooks fill them: embeddings and layers, last step only."""
    folder.mkdir(parents=True)
    model = AutoModelForCausalLM.from_pretrained("model")
    tokenizer = AutoTokenizer.from_pretrained("model")
    started = datetime(2026, 1, 1)
    lines = Path("questions.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    for number, question in enumerate(json.loads(line)["question"] for line in lines):
        inputs = tokenizer(question, return_tensors="pt", return_token_type_ids=False)
        seen: dict[str, torch.Tensor] = {}
        with torch.inference_mode(), _hooks(model, seen):
            tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        stamp = started + timedelta(seconds=number)
        document = {
            "prompt": question,
            "response": tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :]),
            "model": MODEL,
            "timestamp": stamp.isoformat(),
            "input_ids": inputs["input_ids"],
            "activations": seen,
        }
        title = re.sub(r"[^\w\s]", "", question)[:50]
        name = f"benchmark_activations_{stamp:%Y%m%d_%H%M%S_%f}_{title}.pkl"
        with (folder / name).open("wb") as file:
            pickle.dump(document, file)
    return len(lines)


@contextlib.contextmanager
def _hooks(model: Any, seen: dict[str, torch.Tensor]) -> Iterator[None]:
    def keep(name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            seen[name] = found.detach().cpu()

        return hook

    inner = model.model
    handles = [inner.embed_tokens.register_forward_hook(keep("embeddings"))]
    for number, layer in enumerate(inner.layers):
        handles.append(layer.register_forward_hook(keep(f"layer_{number}")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
