"""Keeps tokens and signed addresses out of messages and logs."""

from __future__ import annotations

import logging
import re
from functools import cache

_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b|(?<=Bearer )[^\s'\",]+")
# The query of a link to storage is its signature; a link's user part may be a password.
_URL = re.compile(
    r"(?P<scheme>https?://)(?:[^\s/@'\"<>]*@)?(?P<rest>[^\s'\"<>?]*)(?P<query>\?[^\s'\"<>]*)?"
)
_LOGGERS = ("huggingface_hub", "httpx2", "httpcore2", "httpx", "httpcore")


def redact(text: str, *tokens: str | None) -> str:
    """Return ``text`` without tokens (the given ones, and what looks like one) and signatures."""
    for token in filter(None, tokens):
        text = text.replace(token, "***")
    text = _TOKEN.sub("***", text)
    return _URL.sub(lambda at: at["scheme"] + at["rest"] + ("?…" if at["query"] else ""), text)


class _Redacting(logging.Filter):
    """Rewrites what the libraries below us log: they name signed links when they retry."""

    def filter(self, record: logging.LogRecord) -> bool:
        from huggingface_hub import get_token

        record.msg = redact(record.getMessage(), get_token())
        record.args = ()
        if record.exc_info:  # a traceback would name them again
            record.msg += f" ({record.exc_info[0].__name__})" if record.exc_info[0] else ""
            record.exc_info = None
        return True


@cache
def _filter() -> logging.Filter:
    return _Redacting()


def guard_logs() -> None:
    """Take secrets out of everything that huggingface_hub and its HTTP client log from now on."""
    # A logger's filter sees only what is logged right there, not what its children log.
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    for name in {*_LOGGERS, *known}:
        logger = logging.getLogger(name)
        if _filter() not in logger.filters:
            logger.addFilter(_filter())
