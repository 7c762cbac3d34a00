"""Runs captures in processes that can be killed: a script that forks once everything is loaded."""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

import actstore

EXAMPLES = 220


def examples(count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Return questions of mixed length, always the same."""
    draw = random.Random(5)
    return [
        {
            "id": f"q{number}",
            "question": "which is larger "
            + "1 2 3 "[: draw.randrange(1, 7)] * draw.randrange(1, 9),
            "oracle": "a",
            "task": ("larger", "smaller")[number % 2],
            "row": number,
        }
        for number in range(count)
    ]


def capture(model: Any, tokenizer: Any, store: str) -> dict[str, Any]:
    """Run the capture that is broken off: tokens are drawn at random, commits come often."""
    from actstore.capturing.run import background_writer

    background_writer.COMMIT_SECONDS = 0.0
    return actstore.capture(
        model,
        tokenizer,
        iter(examples()),
        store=store,
        model_name="tiny/llama",
        dataset="numbers",
        pool=("prompt.last", "prompt.mean", "response.mean", "response.tokens"),
        layers="0,-1",
        batch_size=4,
        max_new_tokens=4,
        generation={"do_sample": True},
        grade="contains",
        seed=3,
        self_check=False,
    ).as_dict()


def main() -> None:
    """Fork for every store named on standard input; the child's result goes beside the store."""
    import torch

    assert callable(actstore.capture)  # imported now: every child would spend its time on it
    from tests.capturing import families

    torch.set_num_threads(1)
    model, tokenizer = families.build("llama"), families.tokenizer()
    print("ready", flush=True)
    for line in sys.stdin:
        store = line.strip()
        child = os.fork()
        if child == 0:
            _child(model, tokenizer, store)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(f"ended {status}", flush=True)


def _child(model: Any, tokenizer: Any, store: str) -> None:
    result = Path(f"{store}.json")
    code = 1
    try:
        result.write_text(json.dumps(capture(model, tokenizer, store)))
        code = 0
    except BaseException:
        result.write_text(traceback.format_exc())
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
