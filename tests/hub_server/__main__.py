"""Runs the loopback Hub by hand: `python -m tests.hub_server --root DIR --port P`."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import threading
from pathlib import Path

from tests.hub_server.accounts import DEFAULT_USERS, User
from tests.hub_server.clients import hub_settings
from tests.hub_server.server import Hub


def main() -> None:
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on 127.0.0.1")
    parser.add_argument("--root", type=Path, required=True, help="folder that keeps everything")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--object-port", type=int, default=0, help="default: a free one")
    parser.add_argument("--token", help="a token to use in place of hf_write")
    parser.add_argument("--user", default="alice", help="the owner of --token")
    parser.add_argument("--org", default="org", help="the organisation --token may write to")
    parser.add_argument("--xet", choices=["http", "local"], help="let clients use Xet")
    given = parser.parse_args()
    token, users = "hf_write", dict(DEFAULT_USERS)
    if given.token:
        token = given.token
        users[token] = User(name=given.user, orgs={given.org: "write"})
    hub = Hub(
        given.root, users=users, port=given.port, object_port=given.object_port, xet=given.xet
    )
    # A shell that starts this behind itself has Ctrl-C ignored, and nothing else would end it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with hub, contextlib.suppress(KeyboardInterrupt):
        home = given.root.resolve() / "client"
        for name, value in hub_settings(hub, home, token=token, xet=given.xet is not None).items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"# request log: curl {hub.url}/__log   Stop with Ctrl-C.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
