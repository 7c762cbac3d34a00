"""A Hugging Face Hub on loopback for tests and demonstrations, faithful to huggingface_hub 2.4.

`Hub` is the server; `faults` makes things go wrong; `hub_env`, `run_python` and `run_hf` run real
clients against it. By hand: `python -m tests.hub_server --root DIR --port P`.
"""

from tests.hub_server import faults
from tests.hub_server.accounts import DEFAULT_USERS, User
from tests.hub_server.clients import hub_env, hub_settings, run_hf, run_python
from tests.hub_server.log import Logged
from tests.hub_server.server import Hub

__all__ = [
    "DEFAULT_USERS",
    "Hub",
    "Logged",
    "User",
    "faults",
    "hub_env",
    "hub_settings",
    "run_hf",
    "run_python",
]
