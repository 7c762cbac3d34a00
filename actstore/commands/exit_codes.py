"""The exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the number that a command ends with means."""

    DONE = 0
    ERROR = 1
    """The error stands on standard error."""
    USAGE = 2
    """A wrong option or argument."""
    REFUSED = 3
    """Some source files were refused; everything else was stored."""
    DAMAGED = 4
    """Damage was found, by `actstore verify` or before a change, or a contract is not kept."""
    DIFFERENT = 5
    """`actstore diff` found that the stores differ."""
    MISSING = 6
    """`actstore capture --finalize` found that examples are missing."""
    INTERRUPTED = 130
    """Ctrl-C; the store is whole."""
    UNREAD = 141
    """Who read the output, say `head`, closed it before the end: as shells say it of SIGPIPE."""
