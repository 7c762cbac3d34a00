"""`actstore capture`: asks a model questions and stores its activations while it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from actstore.commands import capture_model as models
from actstore.commands import capture_parts as parts
from actstore.commands import output
from actstore.commands.capture_options import COLUMNS, given_options, listed, named_values
from actstore.commands.exit_codes import Exit
from actstore.commands.options import (
    format_options,
    new_store_option,
    pairs,
)
from actstore.commands.progress import counting, quiet
from actstore.errors import NotInStoreError
from actstore.wording import counted

if TYPE_CHECKING:
    from actstore.capturing.prompts.capture_recipes import CaptureRecipe
    from actstore.capturing.prompts.data import Questions
    from actstore.capturing.run.options import CaptureOptions
    from actstore.capturing.run.summary import CaptureProgress, CaptureSummary
    from actstore.commands.progress import Count

NAMED = 20
"""Refused examples that are named on the screen."""


@click.command("capture")
@new_store_option
@given_options
@format_options
def command(store: str | Path, given: Mapping[str, Any], as_json: bool) -> int:
    """Ask a model the questions in --data and store its activations.

    Hooks pool the states while the model reads and answers; rows stream into the store. A run
    that was broken off goes on with the same command and ends as if it had not been; where all
    is stored and the model's commit on the Hub is known, the model is not even loaded. Examples
    that cannot be captured are named and left out (exit code 3).

    \b
    Examples:
      actstore capture --model Qwen/Qwen3-0.6B --data questions.jsonl --store runs.store
      actstore capture --model ./llama --data q.csv --question prompt --oracle answer \\
        --layers 0.25,0.5,0.75 --pool prompt.last,response.mean --max-new-tokens 64 \\
        --grade contains --store runs.store
      actstore capture --model llava-hf/llava-1.5-7b-hf --data queries.json --image-dir images \\
        --recipe image-queries --store runs.store --dtype bfloat16 --dry-run
      actstore capture --model ./llama --data pairs.json --recipe contrastive --store pairs.store
    """
    from actstore.capturing.forward.grading import parse as parse_grade
    from actstore.capturing.prompts import capture_recipes
    from actstore.capturing.run.capture import capture
    from actstore.capturing.run.options import CaptureSettings
    from actstore.models import loading
    from actstore.remote.working import working

    recipe = capture_recipes.load(given["recipe"]) if given["recipe"] is not None else None
    options = _with_recipe(given, recipe)
    if options["grade"] is not None:
        parse_grade(options["grade"])  # a mistyped one shall not wait for the model
    if options["engine"] == "vllm":
        models.refuse_unserved(options)
    questions = _questions(options, recipe)
    _divided(options)
    with working(store, dry=options["dry_run"]) as root, quiet():
        layers, needed = models.layers(options, loading)
        asked = _asked(options, questions, layers)
        if options["finalize"]:
            identity, meant_as = models.meant(options, needed)
            there = parts.finalize(root, questions, asked, identity, meant_as)
            labels = _label(root, recipe, there.runs) if there.complete else None
            return parts.show(there, as_json=as_json, labels=labels)
        if options["engine"] == "slurm":
            workers, gpus = options["workers"], options["gpus_per_worker"]
            printed = options["print_script"]
            click.echo(parts.slurm_script(workers, gpus, printed=printed, folder=Path.cwd()))
            return Exit.DONE
        CaptureSettings(**asked)  # a wrong word is told before the model is loaded
        summary = _stored(root, questions, options, asked, needed)
        if summary is None and options["engine"] == "ray":
            summary = _with_ray(store, questions, options, asked, needed, hidden=as_json)
        if summary is None:
            model, processor, name, revision, loaded_as = models.loaded(options, loading, needed)
            with counting("capturing", questions.count, hidden=as_json) as report:
                everything: CaptureOptions = {
                    **asked,
                    "model_name": options["model_name"] or name,
                    "revision": revision,
                    "settings": {
                        "loading": dict(loaded_as),
                        "questions": questions.settings,
                    },
                }
                summary = capture(
                    model,
                    processor,
                    questions,
                    store=root,
                    progress=_reporting(report),
                    **everything,
                )
    if asked["world_size"] is not None and recipe is not None and recipe.label_after is not None:
        output.note("labels: --finalize sets them, over the rows of all processes")
    labels = None
    if summary.run_id and not summary.dry_run and asked["world_size"] is None:
        labels = _label(store, recipe, summary.run_id.split(", "))
    if as_json:
        found = summary.as_dict()
        output.print_json(found | ({"labels": labels} if labels is not None else {}))
    else:
        print_summary(summary, store, labels)
    return Exit.REFUSED if summary.refused else Exit.DONE


def _with_recipe(given: Mapping[str, Any], recipe: CaptureRecipe | None) -> dict[str, Any]:
    """Return the options, those of the recipe where none was typed."""
    options = dict(given)
    options["template_options"] = named_values(given["template_option"], "--template-option")
    context = click.get_current_context()
    if recipe is not None:
        for name, value in recipe.capture.items():
            if name == "template_options":
                options[name] = dict(value) | options[name]
            elif context.get_parameter_source(name) is ParameterSource.DEFAULT:
                options[name] = value
    return options


def _questions(options: Mapping[str, Any], recipe: CaptureRecipe | None) -> Questions:
    from actstore.capturing.prompts.data import open_questions

    only = pairs(options["only"], "--only")
    return open_questions(
        options["data"],
        columns={name: options[f"{name}_column"] for name in COLUMNS},
        recipe=recipe,
        split=options["split"],
        images=options["image_dir"],
        first_k=options["first_k"],
        only={name: listed(values) for name, values in only.items()},
    )


def _divided(options: dict[str, Any]) -> None:
    """Settle which part of the examples is this process's."""
    if options["finalize"]:
        for name in ("dry_run", "rank"):
            if options[name] is not None and options[name] is not False:
                raise click.BadParameter(
                    "--finalize looks at the parts of all processes and captures nothing",
                    param_hint=f"--{name.replace('_', '-')}",
                )
        return
    engine = options["engine"]
    for name, spelled, engines in parts.OF_ENGINES:
        if options[name] is not None and options[name] is not False and engine not in engines:
            raise click.BadParameter(
                f"goes with --engine {' or '.join(engines)}, not with {engine}", param_hint=spelled
            )
    if engine in ("ray", "slurm"):
        if options["workers"] is None:
            raise click.BadParameter(
                f"say with --workers how many models --engine {engine} runs at once",
                param_hint="--engine",
            )
        return
    part = parts.part_of(options["rank"], options["world_size"])
    options["rank"], options["world_size"] = part or (None, None)


def _asked(options: Mapping[str, Any], questions: Questions, layers: Any) -> CaptureOptions:
    """Return the options as the capture takes them, but for the model's name and commit."""
    from actstore.capturing.run.batching import parse_batch_size

    return {
        "layers": layers,
        "sites": listed(options["sites"]),
        "pool": listed(options["pool"]),
        "pattern_length": options["pattern_length"],
        "exclude": listed(options["exclude"]),
        "batch_size": parse_batch_size(options["batch_size"]),
        "max_new_tokens": options["max_new_tokens"],
        "generation": named_values(options["generation"], "--generation") or None,
        "seed": options["seed"],
        "chat_template": _template(options),
        "system": options["system"],
        "template_options": options["template_options"] or None,
        "grade": options["grade"],
        "dataset": options["dataset"] or questions.dataset,
        "blocks": options["blocks"],
        "padding_side": options["padding_side"],
        "storage_dtype": options["storage_dtype"],
        "resume": options["resume"],
        "allow_mixed": options["allow_mixed"],
        "self_check": options["self_check"],
        "strict": options["strict"],
        "dry_run": options["dry_run"],
        "rank": options["rank"],
        "world_size": options["world_size"],
        "piece": options["piece"],
        "engine": options["engine"],
        "engine_options": named_values(options["engine_option"], "--engine-option") or None,
    }


def _with_ray(
    store: str | Path,
    questions: Questions,
    options: Mapping[str, Any],
    asked: CaptureOptions,
    needed: int | None,
    *,
    hidden: bool,
) -> CaptureSummary:
    from actstore.capturing.run.options import CaptureSettings, Source
    from actstore.capturing.run.pieces import Part
    from actstore.capturing.workers.ray_engine import capture_with_ray
    from actstore.capturing.workers.worker import Work

    size = CaptureSettings(**asked).piece_size
    with counting("capturing", questions.count, hidden=hidden) as report:
        return capture_with_ray(
            Source(questions, part=Part(rank=0, world_size=1, size=size)),
            Work(
                store=store if isinstance(store, str) else store.resolve(),
                folder=Path.cwd(),
                model=options["model"],
                load=models.loading_options(options, needed),
                options={**asked, "model_name": options["model_name"]},
                settings={"questions": questions.settings},
                world_size=options["workers"],
                size=size,
            ),
            gpus=options["gpus_per_worker"] or 0,
            address=options["address"],
            progress=_reporting(report),
            note=output.note,
        )


def _reporting(report: Count) -> Callable[[CaptureProgress], None]:
    def progress(done: CaptureProgress) -> None:
        # A run that is taken up again goes on from what is there.
        there = done.stored_earlier
        total = None if done.total is None else done.total + there
        tokens = f"{done.tokens:,} tokens"
        report(done.examples + there, total, tokens, done.tokens, "tokens")

    return progress


def _stored(
    store: Path,
    questions: Questions,
    options: Mapping[str, Any],
    asked: CaptureOptions,
    needed: int | None,
) -> CaptureSummary | None:
    """Return what is stored, if it is all that is asked; None if the model is needed.

    A folder may hold other weights than it did: only a model whose commit is known is the same
    without a look at it.
    """
    from actstore.capturing.run.options import CaptureSettings, Source
    from actstore.capturing.run.recall import recall
    from actstore.storage import manifest as manifests

    if options["dry_run"] or not options["resume"] or not manifests.latest(store).runs:
        return None
    identity, loaded_as = models.meant(options, needed)
    if identity.revision is None:
        return None
    settings = CaptureSettings(**asked)
    try:
        return recall(
            Source(questions, part=settings.part),
            store=store,
            options=settings,
            identity=identity,
            loading=loaded_as,
        )
    except NotInStoreError:
        return None


def _template(options: Mapping[str, Any]) -> bool | str:
    if options["template_file"] is None:
        return bool(options["chat_template"])
    if not options["chat_template"]:
        raise click.BadParameter("--raw uses no template", param_hint="--template-file")
    return str(options["template_file"].read_text(encoding="utf-8"))


def _label(
    store: str | Path, recipe: CaptureRecipe | None, runs: Sequence[str]
) -> dict[str, int] | None:
    """Label the rows of runs as the recipe says; return rows by label."""
    if recipe is None or recipe.label_after is None:
        return None
    from actstore.ingestion.labeling import label_by_expression
    from actstore.remote.working import working

    named = ", ".join(f"'{run}'" for run in runs)
    with working(store) as root:
        labelled = label_by_expression(
            root,
            recipe.label_after,
            where=f"run_id IN ({named})",
            message=f"labels of recipe {recipe.name}",
        )
    return dict(labelled.labels)


def print_summary(
    summary: CaptureSummary, store: str | Path, labels: Mapping[str, int] | None = None
) -> None:
    """Print what a capture did, or what it would do."""
    estimate = summary.estimate
    if estimate is not None:
        output.print_pairs(
            {
                "examples": f"{estimate.examples:,}",
                "rows": f"{estimate.rows:,}",
                "on disk": f"{output.size(estimate.bytes)} of {output.size(estimate.free_bytes)}"
                " free",
                "memory": f"{output.size(estimate.peak_memory)} at most ({estimate.memory_of})",
                "takes": f"about {estimate.minutes:.1f} minutes"
                if estimate.minutes >= 1
                else f"about {estimate.seconds:.1f} s",
            }
        )
    else:
        by_label = labels if labels is not None else summary.labels  # those count examples
        unit = " rows" if labels is not None else ""
        output.print_pairs(
            {
                "model": summary.model,
                "captured": f"{counted(summary.examples, 'example')}{_skipped(summary)}",
                "stored": f"{counted(summary.rows, 'row')}, "
                f"{output.size(summary.bytes)} of vectors, in {store}",
                "labels": ", ".join(
                    f"{label} {n:,}{unit}" for label, n in by_label.items() if n or not unit
                )
                or None,
                "no row": ", ".join(f"{pool} {n:,}" for pool, n in summary.empty.items()) or None,
                "commit": summary.commit,
                "run": f"{summary.run_id}{' (taken up again)' if summary.resumed else ''}",
                "took": f"{summary.seconds:.1f} s, {summary.examples_per_second:,.1f} examples/s, "
                f"{summary.tokens_per_second:,.0f} tokens/s",
            }
        )
    for text in summary.notes:
        output.note(f"note: {text}")
    if summary.refused:
        output.note(f"refused: {counted(len(summary.refused), 'example')}")
        for refused in summary.refused[:NAMED]:
            output.note(f"  {refused.example}: {refused.reason}")
        if len(summary.refused) > NAMED:
            output.note(f"  … {len(summary.refused) - NAMED:,} more")


def _skipped(summary: CaptureSummary) -> str:
    return f", {summary.skipped:,} were there already" if summary.skipped else ""
