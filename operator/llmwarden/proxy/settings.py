"""What one proxy reads from its environment, once at its start: `LLMWARDEN_PROXY` and which pod it is in.

Start at `load`. The types of the contract are in `contracts/sidecar.py`; here is what a proxy refuses of it, and how it reads URLs.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from llmwarden import names
from llmwarden.contracts import sidecar
from llmwarden.contracts.sidecar import Settings
from llmwarden.errors import InvalidSpecError

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Identity(msgspec.Struct, frozen=True):
    """Which pod this is, by the downward API."""

    namespace: str
    pod: str
    uid: str
    node: str = ""


def load(environ: Mapping[str, str]) -> tuple[Settings, Identity]:
    """Read the environment; raises InvalidSpecError with a sentence that names what is wrong."""
    raw = environ.get(names.PROXY_ENV, "")
    if not raw:
        message = f"{names.PROXY_ENV} is not set: the webhook writes it into the container"
        raise InvalidSpecError(message)
    try:
        settings = sidecar.decode(raw)
    except msgspec.MsgspecError as error:
        message = f"{names.PROXY_ENV} does not parse: {error}"
        raise InvalidSpecError(message) from error
    if settings.contract != names.CONTRACT:
        message = f"{names.PROXY_ENV} is of contract {settings.contract}; this proxy speaks {names.CONTRACT}"
        raise InvalidSpecError(message)
    for route in settings.routes:
        parse_origin(route.upstream)
    if settings.ledger is not None:
        origin = parse_origin(settings.ledger.url)
        if not origin.tls and origin.host not in LOOPBACK:
            message = f"the ledger's URL {settings.ledger.url} must be https: our token travels there"
            raise InvalidSpecError(message)
    if settings.otlp_endpoint:
        parse_origin(settings.otlp_endpoint)
    identity = Identity(
        namespace=environ.get("LLMWARDEN_POD_NAMESPACE", "default"),
        pod=environ.get("LLMWARDEN_POD_NAME", ""),
        uid=environ.get("LLMWARDEN_POD_UID", ""),
        node=environ.get("LLMWARDEN_NODE_NAME", ""),
    )
    return settings, identity


class Origin(msgspec.Struct, frozen=True):
    """A parsed base URL; `authority` is what goes into a Host header, `prefix` has no trailing slash."""

    tls: bool
    host: str
    port: int
    authority: str
    prefix: str


def parse_origin(url: str) -> Origin:
    """Parse `http(s)://host[:port][/prefix]`; raises InvalidSpecError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        message = f"{url!r} is not a URL: {error}"
        raise InvalidSpecError(message) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        message = f"{url!r} is not an http or https URL without user information"
        raise InvalidSpecError(message)
    tls = parts.scheme == "https"
    return Origin(
        tls=tls,
        host=parts.hostname,
        port=port or (443 if tls else 80),
        authority=parts.netloc,
        prefix=parts.path.rstrip("/"),
    )
