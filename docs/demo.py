"""`make demo`: a small model's activations, from files on disk to a matrix ready for a probe.

Self-contained: the model is a real transformers architecture with random weights and a
tokenizer made here, and the Hub is the tests' own on loopback, so nothing is downloaded. Its
forward hooks write files in two of the layouts that other projects write; everything after
that is what a user would type.
"""

from __future__ import annotations

import argparse
import contextlib
import pickle
import random
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# The Hub on loopback lives with the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from actstore import cli
from tests.hub_server.clients import hub_env
from tests.hub_server.server import Hub

MODEL = "demo/tiny-llama"
DATASET = "MilaWang/SpatialEval"
ANSWERS = ("north", "south", "east", "west")
THINGS = ("tower", "market", "harbour", "library", "garden", "school", "bakery", "museum")
TASKS = ("mazenav", "spatialmap")
TURNS = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Question(NamedTuple):
    """One question with its ground truth."""

    example_id: str
    place: int
    task: str
    text: str
    answer: str


def make_questions(per_task: int) -> list[Question]:
    """Return questions about places on a map."""
    draw = random.Random(0)
    questions = []
    for task in TASKS:
        for index in range(per_task):
            a, b = draw.sample(THINGS, 2)
            way = draw.choice(ANSWERS)
            told = f"The {a} is {way} of the {b}."
            asked = f"Which way is it from the {a} to the {b}?"
            name = f"{task}.tqa.{index}.0"
            questions.append(Question(name, index, task, f"{told} {asked}", TURNS[way]))
    return questions


def make_model(texts: Sequence[str]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return a Llama of four layers with random weights, and a word tokenizer for ``texts``."""
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)})
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval(), tokenizer


class Spatial:
    """Writes what SpatialEval's residual stream cache holds: one file per question."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.choices = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in ANSWERS])

    def write(self, questions: Sequence[Question], root: Path) -> int:
        """Save the final hidden state of each question's last token; return the files written."""
        for question in questions:
            inputs = self.tokenizer(question.text, return_tensors="pt")
            output = self.model(input_ids=inputs["input_ids"], output_hidden_states=True)
            chosen = ANSWERS[int(output.logits[0, -1, self.choices].argmax())]
            folder = root / DATASET.replace("/", "__") / MODEL.replace("/", "__")
            path = folder / "tqa" / question.task / f"{question.example_id}_{question.place}"
            path = path.with_name(path.name.replace(".", "_") + ".pt")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "question": question.text,
                    "oracle_answer": question.answer,
                    "model_prediction": f"The answer is {chosen}.",
                    "example_id": question.example_id,
                    "index": question.place,
                    "task": question.task,
                    "mode": "tqa",
                    "hidden_states_last": output.hidden_states[-1][:, -1:, :].float().cpu(),
                    "hidden_size": self.model.config.hidden_size,
                },
                path,
            )
        return len(questions)


class Hooked:
    """Writes pickles as forward hooks fill them: embeddings and every layer, last step only."""

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer

    def write(self, questions: Sequence[Question], folder: Path) -> int:
        """Generate an answer to each question and save what the hooks saw."""
        folder.mkdir(parents=True)
        started = datetime(2026, 1, 1)
        for number, question in enumerate(questions):
            inputs = self.tokenizer(question.text, return_tensors="pt")
            seen: dict[str, torch.Tensor] = {}
            with self._hooks(seen):
                tokens = self.model.generate(
                    input_ids=inputs["input_ids"],
                    attention_mask=torch.ones_like(inputs["input_ids"]),
                    max_new_tokens=8,
                    do_sample=False,
                )
            document = {
                "prompt": f"Question:\n{question.text}\n",
                "response": self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :]),
                "model": MODEL,
                "timestamp": (started + timedelta(seconds=number)).isoformat(),
                "input_ids": inputs["input_ids"],
                "activations": {name: value.half() for name, value in seen.items()},
            }
            stamp = (started + timedelta(seconds=number)).strftime("%Y%m%d_%H%M%S_%f")
            title = re.sub(r"[^\w\s]", "", question.text)[:50]
            with (folder / f"benchmark_activations_{stamp}_{title}.pkl").open("wb") as file:
                pickle.dump(document, file)
        return len(questions)

    @contextlib.contextmanager
    def _hooks(self, seen: dict[str, torch.Tensor]) -> Iterator[None]:
        def keep(name: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
                found = output[0] if isinstance(output, tuple) else output
                seen[name] = found.detach().cpu()

            return hook

        inner = self.model.model
        handles = [inner.embed_tokens.register_forward_hook(keep("embeddings"))]
        for number, layer in enumerate(inner.layers):
            handles.append(layer.register_forward_hook(keep(f"layer_{number}")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def say(text: str) -> None:
    """Print a paragraph of the story."""
    print(f"\n{textwrap.fill(' '.join(text.split()), 88)}\n", flush=True)


def shell(line: str) -> None:
    """Show a command, run it, and stop the demo if it fails."""
    print(f"$ {line}", flush=True)
    words = shlex.split(line)
    code = cli.run(words[1:])
    if code:
        sys.exit(f"the demo stopped: `{line}` ended with code {code}")


def python(names: dict[str, Any], code: str) -> None:
    """Show a piece of Python and run it."""
    lines = textwrap.dedent(code).strip()
    print(textwrap.indent(lines, ">>> "), flush=True)
    exec(lines, names)


def main() -> None:
    """Tell the story in a folder of its own."""
    parser = argparse.ArgumentParser(description="From a model to a probe-ready matrix.")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="made anew")
    folder = parser.parse_args().folder
    # For layers this small, handing work to another thread costs more than the work.
    torch.set_num_threads(1)
    started = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        capture()
        store()
        matrices()
        share()
    say(
        f"That took {time.perf_counter() - started:.0f} seconds. Everything is in {folder}/: look "
        f"around with `actstore info {folder}/store`, or remove the folder."
    )


def capture() -> None:
    """Let the model write activation files in two layouts."""
    questions = make_questions(per_task=60)
    model, tokenizer = make_model([q.text for q in questions] + [" ".join(ANSWERS)])
    say(
        f"""A small Llama ({model.num_parameters() / 1e6:.1f} million random weights) answers
        {len(questions)} questions such as: "{questions[0].text}" Its activations go to disk the
        way two research projects write them."""
    )
    with torch.inference_mode():
        files = Spatial(model, tokenizer).write(questions, Path("residual_stream"))
        pickles = Hooked(model, tokenizer).write(questions[:24], Path("hooks"))
    print(f"{files:4} files  {next(Path('residual_stream').rglob('*.pt'))}")
    print(f"{pickles:4} files  {next(Path('hooks').iterdir())}")


def store() -> None:
    """Ingest, label, query."""
    say("One command per folder makes one store of them. The layouts are detected.")
    shell("actstore ingest residual_stream --store store")
    print()
    shell("actstore ingest hooks --store store")
    say(
        """The files hold the model's answer and the true one, but no verdict. SQL gives it, as a
        commit of its own that rewrites no vector."""
    )
    shell(
        'actstore label store --where "site = \'final_norm\'" --set "CASE WHEN '
        "contains(lower(prediction), lower(oracle)) THEN 'correct' ELSE 'incorrect' END\""
    )
    say("Any question about the rows is SQL; vectors take part in it.")
    shell(
        'actstore query store "SELECT task, label, count(*) AS n, avg(norm) AS norm '
        'FROM activations WHERE label IS NOT NULL GROUP BY ALL ORDER BY ALL"'
    )
    print()
    shell(
        'actstore query store "SELECT a.layer, count(*) AS n, avg(a.norm) AS norm, '
        "avg(cosine(a.activation, b.activation)) AS cosine_with_embeddings "
        "FROM activations a JOIN activations b USING (example_id) "
        'WHERE b.layer = -1 GROUP BY ALL ORDER BY ALL"'
    )


def matrices() -> None:
    """Select matrices and load the store as a data set."""
    names: dict[str, Any] = {}
    say("For a probe: a matrix and its labels, straight from the memory map.")
    python(
        names,
        """
        import actstore
        store = actstore.open("store")
        chosen = store.select(site="final_norm", task=["mazenav", "spatialmap"])
        X = chosen.tensor(dtype="float32")
        y = [label == "correct" for label in chosen.table(["label"])["label"].to_pylist()]
        print(X.shape, X.dtype, f"{sum(y)} of {len(y)} correct")
        """,
    )
    print()
    shell("actstore select store --layer 3 -o layer3.safetensors")
    # The demo leaves nothing behind outside its folder.
    datasets.config.HF_DATASETS_CACHE = Path("datasets_cache").absolute()
    datasets.disable_progress_bars()
    say("And the folder is a Hugging Face data set as it is.")
    python(
        names,
        """
        from datasets import load_dataset
        rows = load_dataset("store", split="train").with_format("torch")
        print(len(rows), "rows;", rows[0]["example_id"], rows[0]["activation"].shape)
        layer = load_dataset("store", "demo--tiny-llama.resid_post.layer_003", split="train")
        print(len(layer), "rows;", layer[0]["question"])
        """,
    )


def share() -> None:
    """Push the store to a Hub on loopback, and use it from there."""
    repository = "org/tiny-llama-activations"
    say(
        """Sharing it is one commit on the Hugging Face Hub. Here a Hub on loopback stands in; the
        client libraries are the real ones."""
    )
    with Hub(Path("hub")) as hub:
        # huggingface_hub and datasets read where the Hub is when they are imported.
        home = Path("home").absolute()
        environment = {**hub_env(hub, home), "XDG_CACHE_HOME": str(home)}
        sql = "SELECT layer, count(*) AS n FROM activations GROUP BY ALL ORDER BY ALL"
        far = f"hf://datasets/{repository}"
        for words in (
            ["push", "store", repository, "--license", "cc-by-4.0"],
            ["query", far, sql],
            ["pull", repository, "pulled", "--layers", "3"],
        ):
            print(f"$ actstore {shlex.join(words)}", flush=True)
            _child([sys.executable, "-m", "actstore", *words], environment)
            print(flush=True)
        code = (
            "from datasets import load_dataset\n"
            f'rows = load_dataset("{repository}", split="train")\n'
            'print(len(rows), "rows;", rows[0]["question"], rows[0]["label"])'
        )
        print(textwrap.indent(code, ">>> "), flush=True)
        _child([sys.executable, "-c", code], environment)


def _child(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        sys.exit(f"the demo stopped: {shlex.join(command)} ended with code {done.returncode}")


if __name__ == "__main__":
    main()
