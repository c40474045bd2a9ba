"""AWS Signature Version 4: a request that was signed for our loopback address, signed again for the host it really goes to.

A pure function and two small caches; botocore's own signer, which the tests compare with, costs four times the CPU and all of
botocore's memory. Nothing here logs, and nothing of a credential is in any repr.
"""

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

import msgspec

from llmwarden.proxy.seam import Header

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
# What a client's signature consists of, or depends on: replaced as a whole.
SIGNATURE_HEADERS: Final = frozenset(
    {b"authorization", b"x-amz-date", b"date", b"x-amz-security-token", b"x-amz-content-sha256", b"x-amz-region-set"}
)
_SCOPE: Final = re.compile(rb"Credential=[^/,\s]+/[0-9]{8}/([a-z0-9-]{1,40})/([a-z0-9-]{1,40})/aws4_request[,\s]")
# bedrock-runtime.REGION.amazonaws.com, bedrock-runtime-fips.REGION.api.aws, vpce-….bedrock-runtime.REGION.vpce.amazonaws.com
_HOST_REGION: Final = re.compile(r"(?:^|\.)bedrock-[a-z-]+\.([a-z]{2}[a-z-]*-[0-9]+)\.")
_SPACES: Final = re.compile(rb"[ \t]+")
_PATHS: Final = 256  # paths whose spelling is kept
_KEYS: Final = 8  # derived keys that are kept: one a day and region


class Keys(msgspec.Struct, frozen=True):
    """Credentials as they sign. The secret parts never show: not in a log, not in a traceback's values."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return "Keys(...)"


class Scope(msgspec.Struct, frozen=True):
    """Where a signature holds."""

    region: str
    service: str


def is_signed(headers: Iterable[Header]) -> bool:
    """Whether a request carries a signature of any version of SigV4 in its headers."""
    return any(low == b"authorization" and value.lstrip()[:5] == b"AWS4-" for low, _, value in headers)


def scope(headers: Iterable[Header], host: str) -> Scope:
    """The scope to sign for: the upstream's own region where its name says it, else the one that the client signed for."""
    region, service = "us-east-1", "bedrock"
    for low, _, value in headers:
        if low == b"authorization" and (found := _SCOPE.search(value)):
            region, service = found[1].decode(), found[2].decode()
    named = _HOST_REGION.search(host)
    return Scope(named[1] if named else region, service)


class Signer:
    """Signs; keeps the derived keys, which hold for a day, and how paths are spelled."""

    def __init__(self) -> None:
        self._paths: dict[bytes, bytes] = {}
        self._derived: dict[tuple[str, str, Scope], bytes] = {}

    def sign(
        self,
        keys: Keys,
        where: Scope,
        *,
        method: bytes,
        target: bytes,
        headers: Iterable[Header],
        payload_hash: bytes,
        now: dt.datetime,
    ) -> list[bytes]:
        """The header lines (with CRLF) to send with a request.

        `target` is the path and query exactly as they are sent. `headers` are all that are sent besides, Host among them: signed are
        Host, Content-Type and X-Amz-*. `payload_hash` is the body's SHA-256 in hexadecimal. `now` is in UTC.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        added = [(b"x-amz-date", stamp.encode())]
        if keys.token:
            added.append((b"x-amz-security-token", keys.token.encode()))
        signed: dict[bytes, list[bytes]] = {}
        for low, value in [(low, value) for low, _, value in headers if _is_signed_over(low)] + added:
            signed.setdefault(low, []).append(_plain(value))
        order = sorted(signed)
        names = b";".join(order)
        path, _, query = target.partition(b"?")
        canonical = b"\n".join(
            [
                method,
                self._path(path),
                b"&".join(sorted(_parameter(item) for item in query.split(b"&") if item)),
                *(name + b":" + b",".join(signed[name]) for name in order),
                b"",
                names,
                payload_hash,
            ]
        )
        day = stamp[:8]
        credential = f"{day}/{where.region}/{where.service}/aws4_request"
        text = f"{ALGORITHM.decode()}\n{stamp}\n{credential}\n{hashlib.sha256(canonical).hexdigest()}"
        signature = hmac.digest(self._key(keys, where, day), text.encode(), "sha256").hex()
        lines = [name.title() + b": " + value + b"\r\n" for name, value in added]
        lines.append(
            b"Authorization: %b Credential=%b/%b, SignedHeaders=%b, Signature=%b\r\n"
            % (ALGORITHM, keys.access_key.encode(), credential.encode(), names, signature.encode())
        )
        return lines

    def _path(self, path: bytes) -> bytes:
        known = self._paths.get(path)
        if known is None:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
            known = self._paths[path] = _canonical_path(path)
        return known

    def _key(self, keys: Keys, where: Scope, day: str) -> bytes:
        known = self._derived.get((keys.secret_key, day, where))
        if known is None:
            known = f"AWS4{keys.secret_key}".encode()
            for part in (day, where.region, where.service, "aws4_request"):
                known = hmac.digest(known, part.encode(), "sha256")
            if len(self._derived) >= _KEYS:
                self._derived.clear()
            self._derived[keys.secret_key, day, where] = known
        return known


def _is_signed_over(low: bytes) -> bool:
    if low in SIGNATURE_HEADERS:
        return False
    return low in {b"host", b"content-type"} or low.startswith(b"x-amz-")


def _plain(value: bytes) -> bytes:
    value = value.strip()
    return _SPACES.sub(b" ", value) if b"  " in value or b"\t" in value else value


def _parameter(item: bytes) -> bytes:
    name, _, value = item.partition(b"=")
    return name + b"=" + value


def _canonical_path(path: bytes) -> bytes:
    """The path encoded once more than it is sent (a model's `%3A` becomes `%253A`), without dot segments and doubled slashes."""
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            if segments:
                segments.pop()
        elif segment not in {b"", b"."}:
            segments.append(segment)
    slash = b"/" if segments and path[-1:] == b"/" else b""
    return quote(b"/" + b"/".join(segments) + slash, safe="/~").encode()
