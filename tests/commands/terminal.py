"""The command line on a terminal of its own, where it asks, colours and shows progress."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

COLUMNS = 90


def on_a_terminal(*words: object, answer: str = "", **environment: str) -> tuple[int, str]:
    """Run `actstore WORDS…` on a terminal of 90 columns; return its code and all it shows.

    Args:
        words: the command.
        answer: what somebody types.
        environment: variables more.
    """
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "actstore", *map(str, words)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(inner)
    os.write(terminal, answer.encode())
    shown = b""
    while True:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not read:
            break
        shown += read
    code = process.wait()
    os.close(terminal)
    return code, shown.decode()
