"""The options of `actstore capture`, handed on as one value."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from actstore.commands.options import LocalPath, Number, Spelled, bundle, pairs, seed_option, words

Command = TypeVar("Command", bound=Callable[..., Any])

COLUMNS = {
    "id": "ids, or positions count",
    "question": "what is asked",
    "oracle": "the right answer",
    "answer": "a text to append to the prompt as if the model had said it",
    "image": "an image: a path or its bytes",
    "task": "the task within the data set",
    "mode": "how the example is presented",
    "variant": "which version of the example it is",
    "label": "the class of the example",
    "split": "the split of the data set",
    "index": "position within the group that shares the id",
    "choices": "the options of a multiple-choice question",
    "system": "a system prompt of its own",
    "messages": "a whole conversation, in place of the question",
}
"""Field of an example: what its column holds."""
ENGINES = ("local", "ray", "slurm", "vllm")
_OPTIONAL = ("index", "choices", "system", "messages")


def column_options(command: Command) -> Command:
    """Add one option per field that a column of the data may hold."""
    for name, holds in reversed(COLUMNS.items()):
        word = f"{name}-column" if name in ("split", "system") else name
        command = click.option(
            f"--{word}",
            f"{name}_column",
            metavar="COLUMN",
            hidden=name in _OPTIONAL,
            help=f"Column with {holds}"
            f"{' (only if it is named)' if name == 'answer' else f' (by default {name})'}.",
        )(command)
    return command


given_options = bundle(
    "given",
    dict,
    click.option(
        "--model",
        metavar="ID|FOLDER|FILE.gguf",
        required=True,
        help="The model: Hub id, folder, or a GGUF file, whose weights are unpacked.",
    ),
    click.option(
        "--data",
        metavar="FILE|ID",
        required=True,
        help="The questions: .jsonl, .json, .csv, .tsv, .parquet, or ORG/NAME[:CONFIG][:SPLIT] "
        "on the "
        "Hub; with --recipe also the folder that it reads from.",
    ),
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        help="How records become examples (`actstore recipes --capture` lists those there are). "
        "Its "
        "options hold where no option is given here.",
    ),
    column_options,
    click.option(
        "--only",
        multiple=True,
        metavar="FIELD=A,B",
        help="Only examples whose task, mode, variant … is one of these; may be repeated.",
    ),
    click.option(
        "--image-dir",
        type=LocalPath(file_okay=False),
        metavar="FOLDER",
        help="Where relative paths of images start; by default beside the data.",
    ),
    click.option("--split", metavar="NAME", help="Split of all examples that have none."),
    click.option(
        "--dataset", metavar="NAME", help="Name of the data set; by default what --data says."
    ),
    click.option(
        "--first-k", type=click.IntRange(min=1), metavar="N", help="Only the first N examples."
    ),
    click.option(
        "--layers",
        cls=Spelled,
        also=("--layer",),
        default="all",
        show_default=True,
        metavar="SPEC",
        help="all, last, 0,6,12, every-6, or fractions of the depth: 0.25,0.5,0.75.",
    ),
    click.option(
        "--sites",
        cls=Spelled,
        also=("--site",),
        default="resid_post",
        show_default=True,
        metavar="A,B,…",
        help="resid_post, resid_pre, attn_out, head_out (by head), mlp_in, mlp_out, embeddings, "
        "final_norm, attn_pattern (of short prompts; needs --attn eager, and sets it), or a "
        "module's path in the block.",
    ),
    click.option(
        "--pool",
        cls=Spelled,
        also=("--pooling",),
        default="prompt.last",
        show_default=True,
        metavar="A,B,…",
        help="Region and pooling: prompt, question, image, response, answer or all, with last, "
        "first, "
        "mean, max, tokens, or an offset such as -2.",
    ),
    click.option(
        "--pattern-length",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        metavar="N",
        help="Keys that a row of attn_pattern holds; longer prompts are refused.",
    ),
    click.option(
        "--exclude",
        default="bos",
        show_default=True,
        metavar="A,B",
        help="Tokens that means and maxima leave out: bos, special; '' for none.",
    ),
    click.option(
        "--max-new-tokens",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Length of the response; 0 generates nothing.",
    ),
    click.option(
        "--generation",
        multiple=True,
        metavar="NAME=VALUE",
        help="Setting of generation, such as do_sample=true or temperature=0.7; may be repeated.",
    ),
    seed_option("For sampled responses."),
    click.option(
        "--grade",
        metavar="KIND",
        help="Label by the response: exact, contains, choice, number, math, regex:PATTERN, "
        "sql:EXPRESSION.",
    ),
    click.option(
        "--chat-template/--raw",
        "chat_template",
        default=True,
        help="Put questions into the model's chat template (the default), or ask them as they are.",
    ),
    click.option(
        "--template-file",
        type=LocalPath(exists=True, dir_okay=False),
        metavar="FILE",
        help="A Jinja chat template in place of the model's own.",
    ),
    click.option(
        "--template-option",
        multiple=True,
        metavar="NAME=VALUE",
        help="Variable of the chat template, such as enable_thinking=false; may be repeated.",
    ),
    click.option("--system", metavar="TEXT", help="System prompt."),
    click.option(
        "--batch-size",
        default="auto",
        show_default=True,
        metavar="N|auto",
        help="Examples per batch; auto goes by tokens.",
    ),
    click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="local",
        show_default=True,
        help="What runs the model: transformers in this process, in actors of Ray (extra ray) or "
        "in the jobs of a SLURM array; or vLLM, which serves many examples at once (extra vllm; "
        "texts, one GPU).",
    ),
    click.option(
        "--engine-option",
        multiple=True,
        metavar="NAME=VALUE",
        help="Setting of another engine's memory and scheduling, such as max_model_len=4096; may "
        "be repeated.",
    ),
    click.option(
        "--padding-side",
        type=click.Choice(("auto", "left", "right")),
        default="auto",
        show_default=True,
        help="Where shorter prompts are filled up.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(("auto", "float32", "bfloat16", "float16")),
        default="auto",
        show_default=True,
        help="What the model computes in; auto keeps the checkpoint's.",
    ),
    click.option(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 …; by default the accelerator."
    ),
    click.option("--device-map", metavar="MAP", help="Spread the model: auto, balanced, or JSON."),
    click.option(
        "--attn",
        metavar="NAME",
        help="Attention implementation; by default the model's, and eager for attn_pattern.",
    ),
    click.option(
        "--revision", metavar="REV", help="Branch, tag or commit of the model on the Hub."
    ),
    click.option("--model-name", metavar="NAME", help="What the store calls the model."),
    click.option(
        "--trust-remote-code", is_flag=True, help="Run Python code that the model brings."
    ),
    click.option(
        "--lower-blocks-only",
        is_flag=True,
        help="Do not load blocks above the last wanted one: the same values in less memory. Not "
        "with "
        "generation or final_norm; counts as another model beside runs that load all.",
    ),
    click.option("--blocks", metavar="PATH", help="Where the blocks are, such as model.layers."),
    click.option(
        "--storage-dtype",
        type=click.Choice(("float32", "float16", "compact16", "int8")),
        help="Type to store; float16 refuses infinities, compact16 (float16 where values fit) and "
        "int8 say by how much they round. By default what loses nothing.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Time one batch; say what the run takes; store nothing."
    ),
    click.option(
        "--resume/--no-resume",
        default=True,
        help="Go on where an earlier run stopped (the default), or capture again what is stored.",
    ),
    click.option(
        "--allow-mixed",
        is_flag=True,
        help="Add to rows of the same model and data set that were captured with other settings.",
    ),
    click.option(
        "--self-check/--no-self-check", default=True, help="Check the hooks before the run."
    ),
    click.option(
        "--strict", is_flag=True, help="Stop at the first example that cannot be captured."
    ),
    click.option(
        "--rank",
        type=click.IntRange(min=0),
        metavar="R",
        help="Capture the part of process R of --world-size, counted from 0. By default what RANK "
        "and WORLD_SIZE (torchrun), or SLURM_PROCID and SLURM_NTASKS (srun) say.",
    ),
    click.option(
        "--world-size",
        type=click.IntRange(min=1),
        metavar="W",
        help="How many processes capture these examples into the store; 1: this one alone, "
        "whatever the environment says.",
    ),
    click.option(
        "--piece",
        type=click.IntRange(min=1),
        metavar="N",
        help="Examples that stay together when they are divided, 512 with --batch-size auto. "
        "Smaller ones divide finer; multiples of the default give the values of a run in one "
        "process, bit for bit.",
    ),
    click.option(
        "--finalize",
        is_flag=True,
        help="Capture nothing; prove that every example is there once, or say what is missing "
        "and which command brings it (exit code 6).",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Models that ray or slurm run at once.",
    ),
    click.option(
        "--gpus-per-worker",
        type=Number(min=0),
        metavar="G",
        help="GPUs of each worker of ray or slurm; by default none.",
    ),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster, such as auto; by default RAY_ADDRESS, or a Ray of this machine, which "
        "is started if there is none.",
    ),
    click.option(
        "--print",
        "print_script",
        is_flag=True,
        help="With --engine slurm: print the script that submits the capture.",
    ),
)


def listed(value: str | Sequence[Any]) -> list[str]:
    """Return what was typed with commas, or given by a recipe as a list."""
    return words(value) if isinstance(value, str) else [str(each) for each in value]


def named_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Read ``name=value`` with values as JSON where they are JSON, else as text."""
    found: dict[str, Any] = {}
    for name, text in pairs(texts, option).items():
        try:
            found[name] = json.loads(text.lower() if text.lower() in ("true", "false") else text)
        except json.JSONDecodeError:
            found[name] = text
    return found
