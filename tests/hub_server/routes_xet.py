"""The Xet content store over HTTP, as far as hf_xet 1.8 needs it, and the Hub's tokens for it.

Newer calls (`/v2/…`, `xorb-grants`) are answered 404, and hf_xet falls back to the ones here.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any
from urllib.parse import unquote

from tests.hub_server.answers import Answer, ApiError
from tests.hub_server.exchange import Request
from tests.hub_server.registry import check_files_readable
from tests.hub_server.routes_content import ranged
from tests.hub_server.routes_upload import proposer
from tests.hub_server.routing import Routes
from tests.hub_server.services import Services
from tests.hub_server.xet import Chunk, Term, XetStore, chunks, with_footer

TOKEN_LIFETIME = 3600
RANGE = re.compile(r"bytes=(\d+)-(\d+)$")

routes = Routes()
cas = Routes()
"""Routes of the content store's origin."""
objects = Routes()


@routes.on("GET", "/api/{kinds}/{id}/xet-{word}-token/{rev}")
def xet_token(
    services: Services, request: Request, *, kinds: str, id: str, word: str, rev: str
) -> Answer:
    """Where hf_xet keeps chunks, in headers and in the body: different readers look at each."""
    repository = services.readable(request, kinds, id)
    if word == "write":
        proposer(services, request, repository)
    else:
        check_files_readable(repository, services.user(request))
    if services.xet is None or word not in ("read", "write"):
        raise ApiError(404, "Xet is not enabled on this Hub")
    if not request.flag("create_pr"):
        repository.commit_at(unquote(rev))
    token, expires = f"xet-{word}-{secrets.token_hex(16)}", int(time.time()) + TOKEN_LIFETIME
    services.xet_tokens.add(token)
    url = services.xet.local_url if services.xet.mode == "local" else services.cas_url
    return Answer.json(
        {"casUrl": url, "accessToken": token, "exp": expires},
        headers={
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": token,
            "X-Xet-Token-Expiration": str(expires),
        },
    )


def _store(services: Services, request: Request, right: str) -> XetStore:
    """401 without a token of this Hub, 403 with one that may only read."""
    token = request.token or ""
    if services.xet is None or token not in services.xet_tokens:
        raise ApiError(401, "Unknown Xet access token")
    if right == "write" and not token.startswith("xet-write-"):
        raise ApiError(403, "The Xet access token may only read")
    return services.xet


@cas.on("POST", "/v1/telemetry")
def telemetry(services: Services, request: Request) -> Answer:
    return Answer.json({})


@cas.on("POST", "/v1/xorbs/default/{sha256}")
def upload_xorb(services: Services, request: Request, *, sha256: str) -> Answer:
    """A xorb, named by its Xet hash (which is no sha256, and is believed)."""
    store = _store(services, request, "write")
    path = store.xorb(sha256)
    known = path.is_file()
    received, _ = services.objects.receive(request.body.stream())
    received.replace(path)
    return Answer.json({"was_inserted": not known})


@cas.on("POST", "/v1/shards")
def upload_shard(services: Services, request: Request) -> Answer:
    store = _store(services, request, "write")
    try:
        store.keep_shard(request.body.read())
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    return Answer.json({"result": 1})


@cas.on("GET", "/v1/chunks/default/{sha256}")
def find_chunk(services: Services, request: Request, *, sha256: str) -> Answer:
    """A shard that holds the chunk: its xorbs need not be sent again, whoever sent them."""
    shard = _store(services, request, "read").shard_with_chunk(sha256)
    if shard is None:
        raise ApiError(404, "Chunk not found")
    return Answer(body=with_footer(shard))


@cas.on("GET", "/v1/reconstructions/{sha256}")
def reconstruct(services: Services, request: Request, *, sha256: str) -> Answer:
    """Which chunks make up a file, or the part of it in the Range header, and links to them."""
    store = _store(services, request, "read")
    file = store.find_hash(sha256)
    if file is None:
        raise ApiError(404, "File not found")
    asked = RANGE.match(request.headers.get("Range", ""))
    first, last = (int(n) for n in asked.groups()) if asked else (0, file.size - 1)
    if first >= file.size:
        raise ApiError(416, "Requested range not satisfiable")
    terms: list[dict[str, Any]] = []
    links: dict[str, list[dict[str, Any]]] = {}
    position, skipped = 0, 0
    for term in file.terms:
        begin, position = position, position + term.size
        if position <= first or begin > last:
            continue
        with store.xorb(term.xorb).open("rb") as xorb:
            table = list(chunks(xorb))
        low, high, before = _trim(term, table, begin, first, last)
        if not terms:
            skipped = first - before
        span = {"start": low, "end": high}
        size = sum(chunk.size for chunk in table[low:high])
        terms.append({"hash": term.xorb, "unpacked_length": size, "range": span})
        bytes_span = {"start": table[low].start, "end": table[high - 1].stop - 1}
        url = services.object_url + services.signer.sign("GET", f"/xorbs/{term.xorb}")
        known = links.setdefault(term.xorb, [])
        if not any(link["range"] == span for link in known):
            known.append({"range": span, "url": url, "url_range": bytes_span})
    return Answer.json({"offset_into_first_range": skipped, "terms": terms, "fetch_info": links})


def _trim(
    term: Term, table: list[Chunk], begin: int, first: int, last: int
) -> tuple[int, int, int]:
    """The chunks of a term that hold bytes `first` to `last`, and where in the file they begin."""
    low, before = term.first, begin
    while before + table[low].size <= first:
        before += table[low].size
        low += 1
    high, end = low, before
    while high < term.stop and end <= last:
        end += table[high].size
        high += 1
    return low, high, before


@objects.on("GET", "/xorbs/{sha256}")
def download_xorb(services: Services, request: Request, *, sha256: str) -> Answer:
    services.signer.check(request)
    if services.xet is None:
        raise ApiError(404, "NoSuchKey")
    return ranged(request, services.xet.xorb(sha256), {"ETag": f'"{sha256}"'})
