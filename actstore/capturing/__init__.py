"""Captures activations while a model answers questions.

The rooms inside, each importing only those before it:

- ``prompts``: what the model is asked: files of questions, examples, token ids;
- ``forward``: the forward pass with its hooks, and how states are pooled;
- ``selfcheck``: whether the hooks see what the model computes;
- ``serving``: the same while vLLM serves many texts at once;
- ``run``: a capture from beginning to end.

Beside them, on top of all: ``recording`` with ``calls`` (capture inside somebody's own loop),
``repooling`` with ``token_rows`` (pooled rows out of stored token rows) and ``recompute``
(stored rows held against what the model computes now).
"""
