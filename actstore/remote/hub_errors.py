"""What goes wrong in huggingface_hub and below, as our errors: one clear sentence, no secrets."""

from __future__ import annotations

import json
from typing import NamedTuple

from actstore.errors import (
    AccessError,
    CardError,
    HubError,
    OfflineError,
    RateLimitError,
    RemoteChangedError,
    RemoteFileError,
    RepositoryNotFoundError,
    RevisionError,
    TransferError,
)
from actstore.remote.redaction import redact

_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_AGAIN = "run the same command again: it goes on where it stopped"


class Explained(NamedTuple):
    """An error in our words, and whether trying again may help."""

    error: HubError
    transient: bool = False
    wait: float | None = None
    """Seconds that the Hub asked to wait."""


class HubCall(NamedTuple):
    """What was being done when something went wrong."""

    doing: str
    """As ``read the files of org/name``; follows ``cannot``."""
    endpoint: str
    repository: str
    revision: str | None
    token: str | None


def judge(error: BaseException, call: HubCall) -> Explained | None:
    """Return what an error of huggingface_hub, its HTTP client or Xet means; None: not theirs."""
    import httpx2
    from huggingface_hub import errors as theirs

    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        reasons = "; ".join(line.strip("- ") for line in str(error).splitlines()[1:])
        return Explained(
            CardError(
                f"cannot {call.doing}: the Hub refuses the metadata of README.md: "
                f"{redact(reasons, call.token)}; correct what stands between its --- lines"
            )
        )
    for cause in _chain(error):
        if isinstance(cause, theirs.HfHubHTTPError):
            return _by_answer(cause, call)
        if isinstance(cause, theirs.OfflineModeIsEnabled):
            return Explained(
                OfflineError(
                    f"cannot {call.doing}: HF_HUB_OFFLINE is set, which forbids it; unset it"
                )
            )
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            reason = redact(str(cause) or type(cause).__name__, call.token)
            return Explained(
                OfflineError(
                    f"cannot {call.doing}: {call.endpoint} cannot be reached ({reason}); check "
                    f"the connection (and HF_ENDPOINT, if you set it), then {_AGAIN}"
                ),
                transient=True,
            )
        if isinstance(cause, httpx2.TransportError | json.JSONDecodeError):
            reason = redact(str(cause) or type(cause).__name__, call.token)
            return Explained(
                TransferError(f"cannot {call.doing}: the connection failed ({reason}); {_AGAIN}"),
                transient=True,
            )
    if isinstance(error, theirs.HFValidationError | theirs.LocalTokenNotFoundError):
        return Explained(AccessError(f"cannot {call.doing}: {redact(str(error), call.token)}"))
    if _from_xet(error):
        return Explained(
            TransferError(
                f"cannot {call.doing}: Xet failed ({redact(_first(str(error)), call.token)}); "
                f"{_AGAIN}, if need be with HF_HUB_DISABLE_XET=1"
            ),
            transient=True,
        )
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and what caused it: a failed upload comes wrapped in a RuntimeError."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__
    return found


def _from_xet(error: BaseException) -> bool:
    module = type(error).__module__ or ""
    if module.split(".")[0] in ("hf_xet", "xet"):
        return True
    trace = error.__traceback__
    last = ""
    while trace is not None:
        last = trace.tb_frame.f_globals.get("__name__", "")
        code = trace.tb_frame.f_code.co_name
        if last.startswith("huggingface_hub") and "xet" in (code + last):
            return isinstance(error, RuntimeError | ConnectionError | TimeoutError)
        trace = trace.tb_next
    return False


def _by_answer(error: BaseException, call: HubCall) -> Explained:
    explained = _of_answer(error, call)
    explained.error.status = error.response.status_code  # type: ignore[attr-defined]  # it has one
    explained.error.said = _said(error, call)
    return explained


def _of_answer(error: BaseException, call: HubCall) -> Explained:
    from huggingface_hub import errors as theirs

    assert isinstance(error, theirs.HfHubHTTPError)
    status = error.response.status_code
    said = _said(error, call)
    where = f"{call.endpoint}/datasets/{call.repository}"
    if isinstance(error, theirs.GatedRepoError):
        return Explained(
            AccessError(
                f"cannot {call.doing}: {call.repository} is gated; ask for access at {where}, "
                f"then set HF_TOKEN to a token of that account{_token_hint(call)}"
            )
        )
    if isinstance(error, theirs.DisabledRepoError):
        return Explained(AccessError(f"cannot {call.doing}: {where} has been disabled"))
    if isinstance(error, theirs.RevisionNotFoundError):
        return Explained(
            RevisionError(
                f"cannot {call.doing}: {call.repository} has no revision "
                f"{call.revision or 'main'!r}; its branches and tags stand at {where}/tree/main"
            )
        )
    if isinstance(error, theirs.RemoteEntryNotFoundError):
        return Explained(
            RemoteFileError(
                f"cannot {call.doing}: {call.repository} has no such file at "
                f"{call.revision or 'main'}"
            )
        )
    if status == 401 and "invalid credentials" in said.lower():
        return Explained(
            AccessError(
                f"cannot {call.doing}: the Hub does not know the token in use; make a new one at "
                f"{call.endpoint}/settings/tokens and set HF_TOKEN, or run: hf auth login"
            )
        )
    if isinstance(error, theirs.RepositoryNotFoundError) or status == 401:
        return Explained(RepositoryNotFoundError(_not_found(call)))
    if status == 403:
        return Explained(
            AccessError(
                f"cannot {call.doing}: the token in use does not allow it{said and f' ({said})'}; "
                f"take one with write access to {call.repository} "
                f"({call.endpoint}/settings/tokens), or ask its owner"
            )
        )
    if status == 412:
        return Explained(
            RemoteChangedError(f"cannot {call.doing}: {call.repository} was changed meanwhile")
        )
    if status == 429:
        return _rate_limit(error, call)
    if status in _TRANSIENT:
        wait = _wait(error)
        return Explained(
            TransferError(
                f"cannot {call.doing}: the Hub answered {status}{_colon(said)}; {_AGAIN}"
            ),
            transient=True,
            wait=wait,
        )
    return Explained(
        TransferError(f"cannot {call.doing}: the Hub refused with {status}{_colon(said)}")
    )


def _rate_limit(error: BaseException, call: HubCall) -> Explained:
    wait = _wait(error)
    text = f"again in {wait:.0f} s" if wait is not None else "later"
    hint = "" if call.token else "; with a token (HF_TOKEN) the limit is higher"
    return Explained(
        RateLimitError(
            f"cannot {call.doing}: the Hub limits how often it is asked; try {text}, {_AGAIN}"
            f"{hint}",
            wait,
        ),
        transient=True,
        wait=wait,
    )


def _wait(error: BaseException) -> float | None:
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = error.response.headers  # type: ignore[attr-defined]  # it has one
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds) + 1
    after = headers.get("Retry-After", "").strip()
    return float(after) if after.isdigit() else None


def _not_found(call: HubCall) -> str:
    if call.token is None:
        return (
            f"cannot {call.doing}: without a token there is no data set {call.repository} at "
            f"{call.endpoint}; check the name, and if it is private set HF_TOKEN or run: "
            "hf auth login"
        )
    return (
        f"cannot {call.doing}: there is no data set {call.repository} at {call.endpoint}, or "
        "the token in use may not see it; check the name and whose token it is (hf auth whoami)"
    )


def _token_hint(call: HubCall) -> str:
    return "" if call.token else " (none is set)"


def _said(error: BaseException, call: HubCall) -> str:
    """Return what the server said, on one line."""
    text = getattr(error, "server_message", None) or ""
    text = text or error.response.headers.get("X-Error-Message", "")  # type: ignore[attr-defined]  # it has one
    return redact(_first(text), call.token)


def _first(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else ""


def _colon(text: str) -> str:
    return f": {text}" if text else ""
