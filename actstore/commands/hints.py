"""What somebody may have meant by a command or option that there is not: by spelling, by sense."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

ALIASES = {"sql": "query"}
"""Commands by a second name."""

ELSEWHERE = {
    "--skip-damaged": "It is for commands that only read. From a store in part nothing is pushed, "
    "compared, rewritten or removed: see `actstore repair`, or `actstore export --skip-damaged`"
}
"""Options that some commands have, and why the others do not."""

_COMMANDS: dict[str, tuple[str, ...]] = {
    "info": (
        *("ls", "list", "show", "describe", "summary", "summarize", "status", "stat", "count"),
        *("columns", "schema", "models", "layers", "inspect", "shape", "size"),
    ),
    "select": (
        *("cat", "head", "tail", "sample", "show", "filter", "where", "grep", "rows", "ls"),
        *("get", "save", "dump", "slice"),
    ),
    "query": ("ask", "duckdb", "count", "aggregate", "group"),
    "stats": ("describe", "summary", "summarize", "statistics", "norms", "outliers"),
    "log": ("history", "commits", "versions", "checkout", "ls", "revert"),
    "ingest": ("import", "add", "load", "convert", "create", "init", "insert", "store", "read"),
    "capture": (
        *("run", "extract", "record", "collect", "generate", "activations", "create", "cache"),
        "forward",
    ),
    "recipes": ("layouts", "formats"),
    "drop": ("delete", "rm", "remove", "del", "erase", "forget"),
    "compact": (
        *("gc", "clean", "cleanup", "vacuum", "prune", "optimize", "defragment", "merge"),
        *("delete", "rm", "remove"),
    ),
    "probe": ("train", "fit", "classify", "classifier", "regress", "logistic", "linear"),
    "score": ("predict", "apply", "evaluate", "eval", "test", "infer"),
    "validate": ("evaluate", "eval"),
    "steer": ("steering", "vector", "vectors", "intervene", "direction", "caa"),
    "nearest": ("search", "find", "similar", "neighbors", "neighbours", "knn", "topk", "lookup"),
    "compare": ("similarity", "cka", "cosine"),
    "label": ("annotate", "tag", "grade", "labels", "mark"),
    "pool": ("mean", "pooling", "reduce", "average"),
    "plot": ("draw", "chart", "figure", "figures", "pca", "histogram", "heatmap", "umap"),
    "report": ("html", "page", "dashboard"),
    "view": ("ui", "browse", "open", "explore", "atlas", "serve"),
    "export": ("write", "dump", "save", "to"),
    "push": ("upload", "publish", "share"),
    "pull": ("download", "clone", "fetch", "get"),
    "sync": ("copy", "cp", "rsync", "mirror", "backup", "s3", "bucket", "upload", "download"),
    "verify": ("check", "fsck", "doctor", "test", "checksum", "recompute"),
    "--help": ("help", "man", "usage"),
    "--version": ("version",),
}
"""Command: words that say the same."""

_OPTIONS: dict[str, tuple[str, ...]] = {
    "--out": (
        *("--output-dir", "--output-file", "--output-path", "--dest", "--destination"),
        *("--directory", "--dir", "--folder", "--save", "--path", "--file", "--to"),
    ),
    "--where": ("--filter", "--condition", "--query", "--if", "--rows-where"),
    "--layers": ("--blocks", "--depth", "--layer-range"),
    "--sites": ("--hook", "--hooks", "--location", "--hook-point"),
    "--pool": ("--aggregation", "--reduce", "--tokens"),
    "--label": ("--target", "--class", "--y", "--column", "--labels", "--by", "--classes"),
    "--by": ("--group", "--group-by", "--groupby", "--color", "--colour", "--hue", "--label"),
    "--group-by": ("--groups", "--by", "--group", "--split-by"),
    "--format": ("--csv", "--jsonl", "--markdown", "--table", "--as", "--type"),
    "--json": ("--as-json", "--raw-json"),
    "--at": ("--commit", "--version", "--snapshot", "--revision", "--as-of"),
    "--first-k": ("--limit", "--head", "--max-examples", "--num-examples", "-n", "--n"),
    "--rows": ("--limit", "--max-rows", "--sample", "-n", "--n"),
    "--last": ("--limit", "-n", "--n"),
    "-k": ("--limit", "--top-k", "--topk", "--count", "-n", "--n"),
    "--model": ("--model-id", "--model-path", "--checkpoint"),
    "--data": ("--prompts", "--questions", "--input", "--dataset-path"),
    "--device": ("--cuda", "--gpu", "--cpu", "--mps"),
    "--dtype": ("--precision", "--torch-dtype", "--fp16", "--bf16", "--half"),
    "--storage-dtype": ("--dtype", "--precision"),
    "--max-new-tokens": ("--max-tokens", "--generate", "--length"),
    "--chat-template": ("--template", "--chat"),
    "--raw": ("--no-chat-template",),
    "--no-chat-template": ("--raw",),
    "--folds": ("--cv", "--k-folds", "--kfold", "--splits"),
    "--strength": ("-C", "--c", "--alpha", "--regularization", "--penalty"),
    "--permutations": ("--shuffles", "--n-permutations"),
    "--dry-run": ("--preview", "--plan", "--check"),
    "--on": ("--join", "--key", "--id-column"),
    "--map": ("--columns", "--rename"),
    "--overwrite": ("--force", "-f", "--replace", "--exist-ok"),
    "--name": ("--named", "--query-name"),
    "--param": ("--params", "--parameter", "--var", "--set"),
    "--prune": ("--gc", "--purge"),
}


def commands(word: str, known: Sequence[str]) -> list[str]:
    """Return the commands that a word may have meant, the likeliest first."""
    near = difflib.get_close_matches(word.lower(), [*known, *ALIASES], cutoff=0.7)
    meant = _meant(_COMMANDS, word.lower(), {*known, "--help", "--version"})
    return list(dict.fromkeys([*near, *meant]))[:3]


def options(word: str, known: Collection[str]) -> list[str]:
    """Return the options of a command that a word may have meant, the likeliest first."""
    near = difflib.get_close_matches(word, known, cutoff=0.75)
    return list(dict.fromkeys([*near, *_meant(_OPTIONS, word, known)]))[:3]


def either(words: Sequence[str]) -> str:
    """Return ``a``, ``a or b``, ``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _meant(table: dict[str, tuple[str, ...]], word: str, known: Collection[str]) -> list[str]:
    return [name for name, said in table.items() if word in said and name in known]
