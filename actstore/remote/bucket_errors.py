"""What goes wrong in obstore and below, as our errors: one clear sentence, no secrets."""

from __future__ import annotations

import re
from typing import NamedTuple

from actstore.errors import (
    BucketAccessError,
    BucketConditionError,
    BucketConnectionError,
    BucketError,
    BucketNotFoundError,
)
from actstore.remote.bucket_address import BucketAddress

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
_NO_CREDENTIALS = (
    "169.254.169.254",
    "fd00:ec2::254",
    "metadata.google.internal",
    "Account must be specified",
    "redential",
)
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "BareRedirect", "bare redirect")
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), AWS_REGION, and "
    "AWS_ENDPOINT_URL for a server that is not Amazon's; AWS_SKIP_SIGNATURE=true reads a public "
    "bucket without",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (a key file); "
    "GOOGLE_SKIP_SIGNATURE=true reads a public bucket without",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_KEY); "
    "AZURE_SKIP_SIGNATURE=true reads a public container without",
    "memory": "nothing",
}


class ExplainedByBucket(NamedTuple):
    """An error in our words, and whether trying again may help."""

    error: BucketError
    transient: bool = False


def judge(error: Exception, doing: str, address: BucketAddress) -> ExplainedByBucket | None:
    """Return what an error of obstore means; None: there is no such object.

    Args:
        error: as obstore raised it.
        doing: as ``read manifests/latest``; follows ``cannot``.
        address: of the store.
    """
    from obstore import exceptions as theirs

    text = str(error).partition("\n\nDebug source")[0]
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else None
    # Never the server's words themselves: they may hold a key's name or a signature.
    said = ", ".join(filter(None, (f"status {status}" if status else None, code)))
    beside = f" ({said})" if said else ""
    here = f"cannot {doing} in {address}"
    variables = _VARIABLES[address.scheme]
    if any(word in text for word in _NO_BUCKET):
        return ExplainedByBucket(
            BucketNotFoundError(
                f"{here}: there is no bucket {address.bucket!r} at this server{beside}; check the "
                "name and the endpoint, and make the bucket first: actstore makes none"
            )
        )
    if isinstance(error, FileNotFoundError):
        return None
    if any(word in text for word in _ELSEWHERE) or status in (301, 307, 308):
        return ExplainedByBucket(
            BucketNotFoundError(
                f"{here}: the bucket lies in another region than was asked{beside}: set "
                "AWS_REGION to its region"
            )
        )
    refused = isinstance(error, PermissionError | theirs.PermissionDeniedError)
    if refused or isinstance(error, theirs.UnauthenticatedError) or status in (401, 403):
        return ExplainedByBucket(
            BucketAccessError(
                f"{here}: access is refused{beside}: the credentials may not do this, are not "
                f"valid, or there are none. They come from {variables}"
            )
        )
    if status == 501 or isinstance(error, theirs.NotSupportedError | NotImplementedError):
        return ExplainedByBucket(
            BucketConditionError(conditions(address, "writes with conditions"))
        )
    if status is None and any(word in text for word in _NO_CREDENTIALS):
        return ExplainedByBucket(
            BucketAccessError(f"{here}: there are no credentials. They come from {variables}")
        )
    if status in (400, 405, 411, 412, 416):
        return ExplainedByBucket(BucketError(f"{here}: the server refuses the request{beside}"))
    reason = said or _reason(text)
    return ExplainedByBucket(
        BucketConnectionError(
            f"{here}: the server does not answer as it should ({reason}), after several attempts; "
            "check the connection and the endpoint, then run the same command again: what is "
            "committed stands"
        ),
        transient=True,
    )


def conditions(address: BucketAddress, which: str) -> str:
    """Return the sentence about a server that cannot be written to safely."""
    return (
        f"{address.root} ignores or refuses {which}, so one writer's commit could silently "
        "overwrite another's: actstore does not write there. Upgrade the server (Amazon S3, Google "
        "Cloud Storage, Azure, MinIO and Ceph in their present versions honour them), or write a "
        f"store in a folder and copy it there by other means: reading {address.root} is safe"
    )


def _reason(text: str) -> str:
    for word, meaning in (
        ("timed out", "no byte came in time"),
        ("timeout", "no byte came in time"),
        ("error sending request", "no connection"),
        ("decoding response body", "the connection broke in the middle"),
        ("reading a body", "the connection broke in the middle"),
        ("ontent-length", "the connection broke in the middle"),
    ):
        if word in text:
            return meaning
    return "it failed without saying why"
